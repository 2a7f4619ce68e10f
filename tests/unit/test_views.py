"""The views of the history: records in, rows and text out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.history import published, table, totals, views
from fedssh.history import text as texts
from fedssh.history.listing import Listing
from fedssh.history.published import NoRecord
from fedssh.rules.policies import read_policy

KEY = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB"


def chain(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"sequence": number, "time": f"2026-01-31T12:00:{number:02d}.000Z", "hash": f"{number:064x}", **event}
        for number, event in enumerate(events, 1)
    ]


def judged(event: str, site: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    metrics = None if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy, "confusion": [[1, 2], [3, 4]]}
    claim = {"accuracy": 0.9, "loss": 0.1}
    said = {"event": event, "site": site, "submission": "id", "session": 1, "epoch": 4, "examples": 50, "claim": claim}
    reason, model = f"because of {accuracy}", {"sha256": "aa", "size": 1}
    return said | {"metrics": metrics, "reason": reason, "model": model} | more


GENESIS = {
    "event": "genesis",
    "federation": "lungs",
    "metrics": {"accuracy": 0.6, "loss": 0.7},
    "schedule": "relay",
    "policy": "best",
    "sessions": 3,
    "architecture": "f" * 64,
    "model": {"sha256": "00", "size": 1},
    "spec": {"name": "cnn"},
}
RECORDS = chain(
    GENESIS,
    {"event": "site-added", "site": "alice-1", "role": "site", "key": KEY},
    {"event": "site-added", "site": "alice-2", "role": "site", "key": KEY},
    {"event": "site-added", "site": "eve", "role": "auditor", "key": KEY},
    {"event": "release", "of": 1, "metrics": {"accuracy": 0.6}, "federation": {"turn": "alice-1", "sites": []}},
    judged("accepted", "alice-1", 0.8),
    judged("refused", "alice-2", 0.7),
    judged("invalid", "alice-2", None, submission=None, epoch=None, claim=None),
    {"event": "report", "site": "alice-1", "session": 1, "epochs": 12, "checkpoints": 1, "examples": 50,
     "metrics": {"accuracy": 0.95, "loss": 0.05}},
    {"event": "site-revoked", "site": "alice-2", "reason": "key lost"},
    {"event": "release", "of": 6, "metrics": {"accuracy": 0.8}, "federation": {"turn": None, "sites": ["alice-1"]}},
)  # fmt: skip
ROLLED_BACK = [
    *RECORDS,
    *chain(*[{}] * 11, {"event": "rollback", "to": 6, "metrics": {"accuracy": 0.8}, "reason": "why"})[11:],
]

FEDAVG = "fedavg:fraction=1,minimum=0.5,deadline=90,sites=1"
THREE = ["alice-1", "alice-2", "alice-3"]


def opened(number: int, *sites: str) -> dict[str, Any]:
    return {"event": "round-opened", "round": number, "sites": list(sites), "reason": "closes with all of them"}


def counted(number: int, site: str, **more: Any) -> dict[str, Any]:
    return judged("counted", site, None, round=number, reason=f"update 1 of 3 in round {number}") | more


def closed(event: str, number: int, shares: dict[str, float], missing: list[str], **more: Any) -> dict[str, Any]:
    updates = [
        {"site": site, "record": place, "examples": 1200 + place, "share": share}
        for place, (site, share) in enumerate(shares.items(), 1)
    ]
    told = {"event": event, "round": number, "updates": updates, "missing": missing, "against": 1}
    return told | {"metrics": {"accuracy": 0.9, "loss": 0.1}, "reason": f"fedavg of {len(updates)} updates: ok"} | more


# One round with everybody, one without alice-3 that the gate refused.
ROUNDS = chain(
    GENESIS | {"schedule": "rounds", "policy": FEDAVG, "gate": "on", "margin": 0.01, "sessions": 5},
    *({"event": "site-added", "site": site, "role": "site", "key": KEY} for site in THREE),
    opened(1, *THREE),
    *(counted(1, site) for site in THREE),
    closed("round-accepted", 1, {"alice-1": 0.25, "alice-2": 0.25, "alice-3": 0.5}, [],
           model={"sha256": "bb", "size": 1}, state=[{"sha256": "cc", "size": 2}]),
    {"event": "release", "of": 9, "metrics": {"accuracy": 0.9}, "federation": {"turn": None, "sessions": None}},
    opened(2, *THREE),
    counted(2, "alice-1"),
    counted(2, "alice-2"),
    closed("round-refused", 2, {"alice-1": 1 / 3, "alice-2": 2 / 3}, ["alice-3"]),
)  # fmt: skip


def following(records: list[dict[str, Any]], *events: dict[str, Any]) -> list[dict[str, Any]]:
    return chain(*[{}] * len(records), *events)[len(records) :]


OPENED = following(ROUNDS, opened(3, "alice-1", "alice-2"), counted(3, "alice-2"))


class Known:
    """A history in a list."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self.read: list[int] = []  # the numbers of the records that were looked at
        self.count = len(records)

    def row(self, sequence: int) -> dict[str, Any]:
        self.read.append(sequence)
        return self._records[sequence - 1]

    def rows(self, after: int = 0) -> Iterator[dict[str, Any]]:
        for record in self._records[after:]:
            self.read.append(record["sequence"])
            yield record


def history(records: list[dict[str, Any]], last: int | None = None) -> list[dict[str, Any]]:
    return [views.history_row(record) for record in records[len(records) - (last or 0) if last else 0 :]]


def listed(records: list[dict[str, Any]], as_: str = "") -> str:
    return "".join(Listing(Known(records), {as_}).begin(records.copy))


def best(records: list[dict[str, Any]]) -> dict[str, Any]:
    return views.best(views.total(Known(records)), lambda number: records[number - 1])


def nodes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return views.nodes(views.total(Known(records)))


def status(records: list[dict[str, Any]], waiting: dict[str, int] | None = None, now: float = 0) -> dict[str, Any]:
    return views.status(views.total(Known(records)), waiting, now)


def diff(records: list[dict[str, Any]], first: int, second: int) -> dict[str, Any]:
    return views.diff(records[first - 1], records[second - 1])


def show(records: list[dict[str, Any]], number: int) -> dict[str, Any]:
    return views.show(records[number - 1])


def line(record: dict[str, Any]) -> bytes:
    whole = {"sequence": record["sequence"], "hash": record["hash"], "record": json.dumps(record), "signature": "s"}
    return json.dumps(whole).encode() + b"\n"


def test_history_tells_claims_from_scores() -> None:
    rows = history(RECORDS)
    assert [row["sequence"] for row in rows] == list(range(1, 12))
    assert rows[5]["claim"] == {"accuracy": 0.9, "loss": 0.1}
    assert rows[5]["score"]["accuracy"] == 0.8
    assert rows[8]["claim"] == {"accuracy": 0.95, "loss": 0.05}, "a report's metrics are the site's own"
    assert rows[8]["score"] is None
    assert rows[0]["score"] == {"accuracy": 0.6, "loss": 0.7}
    assert rows[7]["score"] is None


def test_best_follows_a_rollback_to_its_source() -> None:
    value = best(RECORDS)
    assert (value["sequence"], value["site"], value["epoch"], value["releases"], value["judged_since"]) == (
        6,
        "alice-1",
        4,
        [11],
        2,
    )
    back = best(ROLLED_BACK)
    assert (back["sequence"], back["event"], back["site"], back["releases"]) == (12, "rollback", "alice-1", [])


def test_nodes_count_what_each_sent() -> None:
    one, two, auditor = nodes(RECORDS)
    assert (one["accepted"], one["sessions"], one["best"]["accuracy"], one["state"]) == (1, 1, 0.8, "enrolled")
    assert (two["accepted"], two["refused"], two["invalid"], two["best"], two["state"]) == (0, 1, 1, None, "revoked")
    assert (auditor["role"], auditor["last"]) == ("auditor", None)


def test_status_says_where_the_federation_stands() -> None:
    value = status(RECORDS[:5], {"alice-1": 2, "alice-2": 0})
    assert (value["turn"], value["state"], value["sites"], value["release"]) == (
        "alice-1",
        "open",
        ["alice-1", "alice-2"],
        5,
    )
    assert "2 of alice-1" in texts.status_text(value)
    value = status(RECORDS)
    assert (value["sites"], value["auditors"], value["accepted"], value["refused"], value["invalid"]) == (
        ["alice-1"],
        ["eve"],
        1,
        1,
        1,
    )
    over = [*RECORDS, {**RECORDS[-1], "sequence": 12, "event": "finished", "reason": "done"}]
    assert status(over)["state"] == "finished"
    assert status([*over, {**RECORDS[-1], "sequence": 13, "event": "reopened", "sessions": 5}])["state"] == "open"


def test_diff_shows_scores_then_other_fields() -> None:
    change = diff(RECORDS, 6, 7)
    assert change["scores"]["accuracy"] == {"first": 0.8, "second": 0.7, "change": pytest.approx(-0.1)}
    assert change["fields"]["site"] == {"first": "alice-1", "second": "alice-2"}
    assert "confusion" not in change["scores"]
    assert "-0.1000" in texts.diff_text(change)
    assert texts.diff_text(diff(RECORDS, 6, 6)).startswith("SCORE")


def test_an_empty_history_is_said_to_be_empty() -> None:
    with pytest.raises(NoRecord, match="empty"):
        views.total(Known([]))
    assert listed([]).startswith("#")
    assert listed([], "--json") == texts.to_json([])


def test_a_history_in_pieces_is_the_json_of_the_whole() -> None:
    assert listed(RECORDS, "--json") == texts.to_json(history(RECORDS))


@pytest.mark.parametrize("records", [RECORDS, ROLLED_BACK, [*ROUNDS, *OPENED]])
def test_the_views_from_a_summary_are_those_from_the_whole_history(records: list[dict[str, Any]]) -> None:
    whole = views.total(Known(records))
    for count in range(1, len(records) + 1):
        written = totals.write(views.total(Known(records[:count])))
        known = Known(records)
        assert views.total(known, written) == whole
        assert known.read == [count, *range(count + 1, len(records) + 1)], "it read more than what came after"


@pytest.mark.parametrize("damage", ["half", "another history", "of the future", "another format", "nothing"])
def test_a_summary_that_does_not_fit_is_not_used(damage: str) -> None:
    written = totals.write(views.total(Known(RECORDS[:9])))
    broken = {
        "half": written[:99],
        "another history": written.replace(RECORDS[8]["hash"].encode(), b"f" * 64),
        "of the future": written.replace(b'"sequence":9,"hash"', b'"sequence":99,"hash"'),
        "another format": written.replace(b'"format":1', b'"format":2'),
        "nothing": b"",
    }[damage]
    assert broken != written
    assert views.total(Known(RECORDS), broken) == views.total(Known(RECORDS))


def test_every_view_of_every_record_is_text() -> None:
    for records in (RECORDS, ROLLED_BACK, ROUNDS, [*ROUNDS, *OPENED]):
        shown = [listed(records), texts.best_text(best(records))]
        shown += [texts.nodes_text(nodes(records)), texts.status_text(status(records))]
        shown += [texts.show_text(show(records, number)) for number in range(1, len(records) + 1)]
        shown += [texts.diff_text(diff(records, 1, number)) for number in range(1, len(records) + 1)]
        for text in shown:
            assert text.endswith("\n")
            assert text.replace("\n", "").isprintable()


@given(st.text(max_size=60))
def test_no_text_of_a_site_acts_on_the_terminal(evil: str) -> None:
    records = [
        *RECORDS[:5],
        {**RECORDS[5], "reason": evil, "site": evil, evil: evil, "claim": {evil: evil}, "metrics": {evil: 1}},
    ]
    shown = [listed(records), texts.show_text(show(records, 6))]
    shown += [texts.diff_text(diff(records, 1, 6)), texts.best_text(best(records)), texts.to_json(records)]
    for text in shown:
        assert text.replace("\n", "").isprintable()
    assert json.loads(texts.to_json(records))[5]["reason"] == evil
    [exported] = published.export([line(records[5])])
    assert exported.decode().removesuffix("\n").isprintable()
    assert json.loads(json.loads(exported)["record"])["reason"] == evil


@pytest.mark.parametrize(
    ("claimed", "shown"),
    [(1e308, "1.000e+308"), (-1e308, "-1.000e+308"), (10**308, "1.000e+308"), (-(10**399), "-1.000e+399"),
     (1e6, "1.000e+06"), (10**400, "–"), (999_999.0, "999999.0000"), (10**12, "1.000e+12"), (0.8836, "0.8836")],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_no_claim_widens_the_history(claimed: float, shown: str) -> None:
    records = [*RECORDS[:5], judged("accepted", "alice-1", 0.8, claim={"accuracy": claimed, "loss": claimed})]
    records[5] |= {"sequence": 6, "time": RECORDS[5]["time"], "hash": "f"}
    text = listed(records)
    assert f"  {shown} / {shown}  " in text
    assert max(map(len, text.splitlines())) < 180


def test_tables_align() -> None:
    assert table.table(("#", "NAME"), [(1, "a"), (10, None)], right=(0,)) == " #  NAME\n 1  a\n10  –\n"


# Rounds and mixes


def test_history_tells_what_became_of_rounds() -> None:
    reasons = {row["sequence"]: row["reason"] for row in history(ROUNDS)}
    assert reasons[5] == "round 1 for alice-1, alice-2, alice-3: closes with all of them"
    assert reasons[6] == "update 1 of 3 in round 1"
    assert reasons[9] == "round 1: fedavg of 3 updates: ok"
    assert reasons[14] == "round 2: fedavg of 2 updates: ok; missing alice-3"
    rows = history(ROUNDS)
    assert [row["round"] for row in rows if row["round"]] == [1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert rows[5]["score"] is None and rows[5]["claim"] == {"accuracy": 0.9, "loss": 0.1}
    assert rows[8]["score"] == {"accuracy": 0.9, "loss": 0.1}
    [extended] = history(
        following(ROUNDS, {"event": "round-extended", "round": 3, "sites": THREE, "reason": "0 of 1 updates"})
    )
    assert extended["reason"] == "round 3 for alice-1, alice-2, alice-3: 0 of 1 updates"


def test_best_tells_what_a_round_was_made_of() -> None:
    value = best(ROUNDS)
    assert (value["sequence"], value["round"], value["missing"], value["releases"]) == (9, 1, [], [10])
    assert [part["share"] for part in value["updates"]] == [0.25, 0.25, 0.5]
    assert value["judged_since"] == 2
    assert (
        "from            round 1, fedavg of 3 updates: alice-1 (1,201 images, share 0.25), "
        "alice-2 (1,202 images, share 0.25), alice-3 (1,203 images, share 0.5)\n"
    ) in texts.best_text(value)
    shares = {"alice-1": 1.0}
    later = [*ROUNDS, *following(ROUNDS, closed("round-accepted", 3, shares, ["alice-2", "alice-3"]))]
    assert (
        "round 3, fedavg of 1 update: alice-1 (1,201 images, share 1); missing alice-2, alice-3\n"
        in texts.best_text(best(later))
    )
    back = [*later, *following(later, {"event": "rollback", "to": 9, "metrics": None, "reason": "why"})]
    assert "from            round 1, fedavg of 3 updates: " in texts.best_text(best(back))


def test_best_of_many_sites_stays_a_line() -> None:
    shares = {f"site-{number}": 0.01 for number in range(100)}
    text = texts.best_text(best([*ROUNDS, *following(ROUNDS, closed("round-accepted", 3, shares, []))]))
    assert "site-9 (1,210 images, share 0.01) and 90 more\n" in text


def test_best_tells_the_share_of_a_mix() -> None:
    mix = judged("accepted", "alice-2", 0.9, share=0.5, staleness=1, candidate={"sha256": "dd", "size": 1})
    value = best(chain(GENESIS, mix))
    assert (value["share"], value["staleness"]) == (0.5, 1)
    text = texts.best_text(value)
    assert "alice-2, session 1, epoch 4, trained on 50 images; share 0.5 of it, staleness 1\n" in text
    assert history(chain(GENESIS, mix))[1]["share"] == 0.5
    assert "share" not in texts.best_text(best(RECORDS)).split("current since")[0]


def test_nodes_under_rounds_tell_the_last_one_heard() -> None:
    one, _, three = nodes(ROUNDS)
    assert (one["counted"], one["round"], one["last"]) == (2, 2, "2026-01-31T12:00:12.000Z")
    assert (three["counted"], three["round"]) == (1, 1)
    heading = texts.nodes_text(nodes(ROUNDS)).splitlines()[0]
    assert "COUNTED" in heading and "LAST ROUND" in heading and "ACCEPTED" not in heading
    assert "COUNTED" not in texts.nodes_text(nodes(RECORDS))


def test_status_tells_the_open_round() -> None:
    value = status([*ROUNDS, *OPENED])
    assert (value["gate"], value["margin"], value["sessions"], value["counted"]) == ("on", 0.01, 5, 6)
    assert value["rounds"]["closed"] == 2
    last = {"round": 2, "event": "round-refused", "reason": "fedavg of 2 updates: ok"}
    assert value["rounds"]["last"] == last | {"time": "2026-01-31T12:00:14.000Z"}
    assert value["rounds"]["open"] == {
        "number": 3,
        "opened": "2026-01-31T12:00:15.000Z",
        "closes": "2026-01-31T12:01:45.000Z",
        "enough": 1,
        "sites": ["alice-1", "alice-2"],
        "sent": ["alice-2"],
        "missing": ["alice-1"],
        "empty": [],
        "extended": False,
    }
    text = texts.status_text(value)
    assert "rounds, 2 of 5 closed\n" in text
    assert "3: 1 of 2 updates in, missing alice-1; closes with all, or from 2026-01-31 12:01:45 with 1\n" in text
    assert "2, refused at 2026-01-31 12:00:14: fedavg of 2 updates: ok\n" in text
    assert f"{FEDAVG}\n" in text and "on, margin 0.01\n" in text
    assert "0 refused, 6 counted, 0 invalid\n" in text
    assert "record 9, round 1\n" in text


def test_status_says_who_is_not_waited_for() -> None:
    records = [*ROUNDS, *OPENED]
    late = {"event": "report", "site": "alice-1", "checkpoints": 0, "builds_on": 1}
    records += following(records, late, {"event": "invalid", "site": "alice-3"})
    assert status(records)["rounds"]["open"]["empty"] == []
    records += following(records, late | {"builds_on": OPENED[0]["sequence"]})
    value = status(records)
    assert value["rounds"]["open"]["empty"] == ["alice-1"]
    assert "missing alice-1 (not waiting for alice-1: nothing of use came); closes" in texts.status_text(value)


def test_status_knows_that_a_site_enrolled_again_is_not_asked_again_in_its_round() -> None:
    records = [*ROUNDS, *following(ROUNDS, opened(3, *THREE))]
    again = {"event": "site-added", "site": "alice-1", "role": "site", "key": KEY}
    records += following(records, {"event": "site-revoked", "site": "alice-1", "reason": "a new key"}, again)
    records += following(records, {"event": "round-extended", "round": 3, "sites": THREE, "reason": "too few"})
    assert status(records)["rounds"]["open"]["empty"] == ["alice-1"]


def test_status_says_how_many_sites_a_round_lacks() -> None:
    krum = {"policy": read_policy("krum:1").text}
    records = [ROUNDS[0] | krum, *ROUNDS[1:]]
    value = status(records)
    assert (value["rounds"]["least"], value["rounds"]["lacks"]) == (5, 2)
    assert "open round      none: a round takes 5 sites, 2 more\n" in texts.status_text(value)
    over = [*records, *following(records, {"event": "finished", "reason": "enough"})]
    assert "open round" not in texts.status_text(status(over))
    assert "open round" not in texts.status_text(status(ROUNDS))


def test_status_follows_what_becomes_of_an_open_round() -> None:
    records = [*ROUNDS, *OPENED]
    extended = {"event": "round-extended", "round": 3, "sites": THREE, "reason": "too few"}
    records += following(records, extended, {"event": "site-revoked", "site": "alice-2", "reason": "gone"})
    now = status(records)["rounds"]["open"]
    assert (now["sites"], now["sent"], now["extended"]) == (["alice-1", "alice-3"], [], True)
    assert "open to every site since its deadline" in texts.status_text(status(records))
    for event in ("finished", "round-accepted"):
        over = [*records, *following(records, closed(event, 3, {"alice-1": 1.0}, []))]
        assert status(over)["rounds"]["open"] is None
        assert "open round" not in texts.status_text(status(over))


def test_status_says_what_was_agreed_when_it_was_opened_again() -> None:
    again = [*ROUNDS, *following(ROUNDS, {"event": "reopened", "sessions": 9, "reason": "more"})]
    assert status(again)["sessions"] == 9
    assert "without end" in texts.status_text(status([{**RECORDS[0], "sessions": None}]))


def test_a_deadline_beyond_the_calendar_is_none() -> None:
    records = [*ROUNDS, *OPENED]
    records[0] = {**records[0], "policy": FEDAVG.replace("90", "1e300")}
    value = status(records)
    assert value["rounds"]["open"]["closes"] is None
    assert "it has no deadline" in texts.status_text(value)


@pytest.mark.parametrize(
    ("gate", "told"), [({}, "off"), ({"gate": "off", "margin": 0.01}, "off"),
                       ({"gate": "ladder", "margin": 0.02}, "ladder, steps of 0.02")],
)  # fmt: skip
def test_status_tells_the_gate(gate: dict[str, Any], told: str) -> None:
    assert f"gate            {told}\n" in texts.status_text(status([{**RECORDS[0], **gate}]))


def test_show_and_diff_go_into_lists_of_updates() -> None:
    shown = texts.show_text(show(ROUNDS, 9))
    assert "updates.alice-3.share     0.5000\n" in shown
    assert "updates.alice-1.examples  1201\n" in shown
    assert "state.1.sha256            cc\n" in shown
    change = texts.diff_text(diff(ROUNDS, 9, 14))
    rows = {line.split()[0]: line.split()[1:] for line in change.splitlines() if line}
    assert rows["updates.alice-1.share"] == ["0.2500", "0.3333"]
    assert rows["updates.alice-3.share"] == ["0.5000", "–"]
    assert rows["missing"] == ["–", "alice-3"]
    assert "updates.alice-1.examples" not in rows


def test_genesis_from_given_weights_says_so() -> None:
    given = GENESIS | {"weights": {"sha256": "ab" * 32, "tensors": 50, "of": 52}, "epochs": 0}
    [row] = history(chain(given))
    assert row["reason"] == "cnn, 50 of 52 tensors from given weights abababababababab…, as they are"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "the coordinator's own first epoch"),
        ({"epochs": 3}, "the coordinator's own first 3 epochs"),
        ({"epochs": 0}, "random weights, not trained"),
        (
            {"epochs": 1, "weights": (50, 52)},
            "the coordinator's own first epoch, with 50 of 52 tensors from given weights",
        ),
        ({"epochs": 0, "weights": (52, 52)}, "52 of 52 tensors from given weights, not trained"),
    ],
)
def test_best_tells_what_a_genesis_is_made_of(fields: dict[str, Any], told: str) -> None:
    if "weights" in fields:
        tensors, of = fields["weights"]
        fields = {**fields, "weights": {"sha256": "ab" * 32, "tensors": tensors, "of": of}}
    assert f"from            {told}\n" in texts.best_text(best(chain(GENESIS | fields)))
