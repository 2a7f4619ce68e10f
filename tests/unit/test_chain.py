"""The history as a site follows it: each way in which it can go back or aside, as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from fedssh import chain
from fedssh.chain import Seen
from fedssh.errors import BundleError, LedgerError, RollbackError, SignatureError, UntrustedError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.manifest import Release, new_id, now
from fedssh.rules.events import Blob, Record
from fedssh.signature import LEDGER, RELEASE, sign

MODEL = "ab" * 32
HEX = "0" * 64


class History:
    """A coordinator's records as ledger lines; every test may write a false one."""

    def __init__(self, key: PrivateKey, **genesis: Any) -> None:
        self.key = key
        self.lines: list[bytes] = []
        self.heads = [chain.Seen().head]
        self.add("genesis", coordinator=key.public.line, **genesis)

    def add(self, event: str, signer: PrivateKey | None = None, namespace: str = LEDGER, **fields: Any) -> History:
        record = {"sequence": len(self.lines) + 1, "previous": self.heads[-1], "event": event, "time": now(), **fields}
        text = canonical(record)
        head = hashlib.sha256(text).hexdigest()
        signature = sign(text, signer or self.key, namespace)
        outer = {"sequence": record["sequence"], "hash": head, "record": text.decode(), "signature": signature}
        self.lines.append(canonical(outer) + b"\n")
        self.heads.append(head)
        return self

    def seen(self, sequence: int) -> Seen:
        return Seen(sequence, self.heads[sequence])

    def release(self, **changes: Any) -> Release:
        """The manifest of a release whose record is the newest one."""
        fields: dict[str, Any] = {
            "id": new_id(), "sender": "charity", "recipients": ["SHA256:" + "A" * 43], "model": Blob(MODEL, 9),
            "sealed": Blob(HEX, 99), "architecture": HEX, "sequence": len(self.lines), "head": self.heads[-1],
            "metrics": {}, "plan": {}, "federation": {}, "created": now(),
        }  # fmt: skip
        return Release(**(fields | changes))


@pytest.fixture
def history(keys: dict[str, PrivateKey]) -> History:
    """Genesis, a release, an accepted submission, the release that follows from it."""
    history = History(keys["coordinator"])
    history.add("release", model={"sha256": MODEL, "size": 9})
    history.add("accepted", site="alice-1", submission=new_id(), model={"sha256": MODEL, "size": 9})
    return history.add("release", model={"sha256": MODEL, "size": 9})


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_history_is_followed_from_wherever_the_site_stands(history: History, start: int) -> None:
    release = history.release()
    found = chain.follow(history.lines[start:], history.seen(start), release, history.key.public)
    assert found == Seen(4, release.head)


def test_what_comes_after_the_release_is_not_looked_at(history: History) -> None:
    release = history.release()
    assert chain.follow([*history.lines, b"garbage"], Seen(), release, history.key.public) == Seen(4, release.head)


def other(history: History) -> History:
    """Another history by the same coordinator."""
    return History(history.key).add("release", model=MODEL).add("site-added").add("release", model={"sha256": MODEL})


def test_the_newest_release_is_neither_back_nor_aside(history: History) -> None:
    seen = history.seen(4)
    assert not chain.check_order(seen, history.release())
    assert chain.check_order(history.seen(2), history.release())
    with pytest.raises(RollbackError, match="offers release 3, this site has seen 4"):
        chain.check_order(seen, history.release(sequence=3))
    with pytest.raises(RollbackError, match="release 4 has head"):
        chain.check_order(seen, other(history).release())


Forge = Callable[[History], tuple[list[bytes], Seen, Release]]

FALSE: dict[str, tuple[Forge, type[UntrustedError], str]] = {
    "forked before what was seen": (
        lambda h: (other(h).lines[2:], h.seen(2), other(h).release()),
        RollbackError, "record 3 does not follow record 2",
    ),
    "a record is left out": (
        lambda h: ([*h.lines[:2], h.lines[3]], Seen(), h.release()), RollbackError, "record 4 stands where record 3",
    ),
    "it ends before the release": (lambda h: (h.lines[:3], Seen(), h.release()), RollbackError, "ends at record 3"),
    "nothing at all": (lambda h: ([], h.seen(2), h.release()), RollbackError, "ends at record 2"),
    "the release is of another head": (
        lambda h: (h.lines, Seen(), h.release(head="c" * 64)), RollbackError, "head cccc",
    ),
    "the release is of another model": (
        lambda h: (h.lines, Seen(), h.release(model=Blob("c" * 64, 9))), RollbackError, "another model",
    ),
    "the record is no release": (
        lambda h: (h.lines, Seen(), h.release(sequence=3, head=h.heads[3])), RollbackError, "is 'accepted', not the",
    ),
    "it begins with another genesis": (
        lambda h: (h.lines[1:], Seen(), h.release()), RollbackError, "record 2 stands where record 1",
    ),
    "a line is not JSON": (lambda h: ([*h.lines[:3], b"{"], Seen(), h.release()), LedgerError, "not a ledger line"),
    "a line is a list": (lambda h: ([*h.lines[:3], b"[]"], Seen(), h.release()), LedgerError, "not a ledger line"),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE)
def test_a_history_that_does_not_connect_is_refused(history: History, case: str) -> None:
    forge, error, words = FALSE[case]
    lines, seen, release = forge(history)
    with pytest.raises(error, match=words):
        chain.follow(lines, seen, release, history.key.public)


def test_a_line_reads_as_the_record_that_was_written(history: History) -> None:
    for line in history.lines:
        record = chain.read_line(line, history.key.public)
        assert record == chain.record_of(line) and record.line() == line
        assert hashlib.sha256(record.text).hexdigest() == record.hash
        assert record.fields == json.loads(json.loads(line)["record"])


def edited(line: bytes, **changes: Any) -> bytes:
    return canonical(json.loads(line) | changes)


def test_a_line_that_was_touched_is_refused(history: History, keys: dict[str, PrivateKey]) -> None:
    line, public = history.lines[2], history.key.public
    assert chain.read_line(line, public).event == "accepted"
    record = json.loads(line)["record"]
    with pytest.raises(LedgerError, match="its hash is given as 0000"):
        chain.read_line(edited(line, hash=HEX), public)
    with pytest.raises(LedgerError, match="number 7 holds record 3"):
        chain.read_line(edited(line, sequence=7), public)
    changed = record.replace("alice-1", "alice-2")
    with pytest.raises(SignatureError, match="does not match"):
        chain.read_line(edited(line, record=changed, hash=hashlib.sha256(changed.encode()).hexdigest()), public)
    with pytest.raises(SignatureError, match="signed by key"):
        chain.read_line(line, keys["stranger"].public)
    with pytest.raises(SignatureError, match="signed for"):
        chain.read_line(history.add("accepted", namespace=RELEASE).lines[-1], public)


def test_a_genesis_that_names_another_coordinator_is_refused(keys: dict[str, PrivateKey]) -> None:
    history = History(keys["stranger"])
    history.key = keys["coordinator"]  # signs on, over a genesis of somebody else
    history.lines, history.heads = [], [chain.Seen().head]
    history.add("genesis", coordinator=keys["stranger"].public.line).add("release", model=MODEL)
    with pytest.raises(RollbackError, match="does not begin with this coordinator's genesis"):
        chain.follow(history.lines, Seen(), history.release(), keys["coordinator"].public)


def test_a_verdict_that_is_not_in_the_history_is_noticed(history: History) -> None:
    kept = {3: history.heads[3]}
    chain.follow(history.lines, Seen(), history.release(), history.key.public, kept)
    with pytest.raises(RollbackError, match="record 3 is not the verdict this site was given"):
        chain.follow(history.lines, Seen(), history.release(), history.key.public, {3: "c" * 64})


PLAN = {"batch_size": 32, "learning_rate": 0.001, "metric": "accuracy"}
AGREED: dict[str, Any] = {
    "federation": "lungs", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "parallel", "plan": PLAN,
    "architecture": HEX,
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "name": "lungs", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "parallel", "turn": None,
    "state": "open", "sessions": 2, "sites": ["alice-1"],
}  # fmt: skip
SCORES: dict[str, Any] = {
    "loss": 0.25, "accuracy": 0.75, "precision": 1.0, "recall": 0.5, "auc": None, "confusion": [[2, 0], [1, 1]],
    "per_class_accuracy": [1.0, None],
}  # fmt: skip
WHO = ["SHA256:" + "A" * 43]


def released(
    keys: dict[str, PrivateKey],
    manifest: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    genesis: dict[str, Any] | None = None,
) -> tuple[Release, Record, Record]:
    """A release, its record and the genesis, with changes to any of the three; None removes a field of genesis."""
    agreed = {name: value for name, value in (AGREED | (genesis or {})).items() if value is not None}
    history = History(keys["coordinator"], **agreed)
    fields = {"model": {"sha256": MODEL, "size": 9}, "metrics": SCORES, "federation": BLOCK, "recipients": WHO}
    history.add("release", **(fields | (record or {})))
    release = history.release(**({"metrics": SCORES, "federation": BLOCK, "plan": PLAN} | (manifest or {})))
    first, second = (chain.read_line(line, history.key.public) for line in history.lines)
    return release, second, first


def test_a_release_says_what_its_record_and_the_genesis_say(keys: dict[str, PrivateKey]) -> None:
    chain.check_release(*released(keys))
    old = {name: value for name, value in BLOCK.items() if name not in ("gate", "margin")}
    before_gates = {"gate": None, "margin": None}
    chain.check_release(*released(keys, {"federation": old}, {"federation": old}, before_gates))
    now_told = BLOCK | {"gate": "off", "margin": 0.0}
    chain.check_release(*released(keys, {"federation": now_told}, {"federation": now_told}, before_gates))
    step = {"gate": "ladder", "margin": 0.6}  # whose nearest step to 1 is 1.2
    told = {"metrics": {"loss": 0.6, "accuracy": 1.2}, "federation": BLOCK | step}
    chain.check_release(*released(keys, told, told, step))


def test_a_release_may_leave_out_who_cannot_read_it(keys: dict[str, PrivateKey]) -> None:
    """A key that an older version enrolled and that nothing can be sealed for must not stop the others."""
    three = ["SHA256:" + letter * 43 for letter in "ABC"]
    for readers in (three, three[1:], [three[0], three[2]]):
        chain.check_release(*released(keys, {"recipients": readers}, {"recipients": three}))
    for readers in (three[::-1], [three[0], three[0]], [*three, "SHA256:" + "D" * 43], ["SHA256:" + "D" * 43]):
        with pytest.raises(UntrustedError, match="'recipients' of release 2"):
            chain.check_release(*released(keys, {"recipients": readers}, {"recipients": three}))
    strange: list[object] = [{}, None, "SHA256:" + "A" * 43, [1]]
    for recorded in strange:
        with pytest.raises(UntrustedError, match="'recipients' of release 2"):
            chain.check_release(*released(keys, {"recipients": three}, {"recipients": recorded}))


OTHER_PLAN = PLAN | {"learning_rate": 10.0}
SAYS_OTHERWISE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "another model": ({"model": Blob("c" * 64, 9)}, {}, {}, "another model"),
    "another size": ({"model": Blob(MODEL, 8)}, {}, {}, "'model' of release 2 is not what its record says"),
    "another record": ({"sequence": 3}, {}, {}, "record 2 is not that of release 3"),
    "another head": ({"head": "c" * 64}, {}, {}, "names the head cccc"),
    "other scores": ({"metrics": SCORES | {"accuracy": 0.8}}, {}, {}, "'metrics' of release 2 is not what its"),
    "another state": ({"federation": BLOCK | {"state": "finished"}}, {}, {}, "'federation' of release 2 is not what"),
    "more sites": ({"federation": BLOCK}, {"federation": BLOCK | {"sites": []}}, {}, "'federation' of release 2"),
    "other readers": ({"recipients": ["SHA256:" + "B" * 43]}, {}, {}, "'recipients' of release 2"),
    "a number of another type": ({"metrics": SCORES | {"precision": True}}, {}, {}, "'metrics' of release 2"),
    "another plan": ({"plan": OTHER_PLAN}, {}, {}, "'plan' of release 2 is not what record 1 says was agreed"),
    "another architecture": ({"architecture": "c" * 64}, {}, {}, "'architecture' of release 2 is not what record 1"),
    "no plan in genesis": ({}, {}, {"plan": None}, "record 1 lacks 'plan'"),
    "no gate in an old genesis": ({}, {}, {"gate": None}, "'gate' of the federation of release 2 is 'on'"),
    **{
        f"another {name} than agreed": ({}, {}, {source: "other"}, f"'{name}' of the federation of release 2 is")
        for name, (source, _) in chain.AGREED.items()
    },
}


@pytest.mark.parametrize("case", SAYS_OTHERWISE)
def test_a_release_that_says_otherwise_is_refused(keys: dict[str, PrivateKey], case: str) -> None:
    manifest, record, genesis, words = SAYS_OTHERWISE[case]
    with pytest.raises(UntrustedError, match=words):
        chain.check_release(*released(keys, manifest, record, genesis))


def test_a_release_is_held_against_a_genesis_and_its_own_record(keys: dict[str, PrivateKey]) -> None:
    release, record, genesis = released(keys)
    with pytest.raises(LedgerError, match="record 2 is 'release', expected the genesis"):
        chain.check_release(release, record, record)
    with pytest.raises(RollbackError, match="record 1 is not that of release 2"):
        chain.check_release(release, genesis, genesis)


NO_SCORES: dict[str, dict[str, Any]] = {
    "accuracy far above 1": {"accuracy": 10**400},
    "accuracy above 1": {"accuracy": 1.0001},
    "accuracy below 0": {"accuracy": -0.1},
    "accuracy a text": {"accuracy": "1\x1b[2J"},
    "accuracy a truth": {"accuracy": True},
    "auc above 1": {"auc": 2},
    "loss below 0": {"loss": -1.0},
    "loss without end": {"loss": 10**400},
    "no loss": {"loss": None},
    "another number without end": {"kappa": 10**400},
    "another text": {"kappa": "high"},
    "a ragged table": {"confusion": [[1, 2], [3]]},
    "a table that is none": {"confusion": {"0": 1}},
    "a table of halves": {"confusion": [[0.5]]},
    "a share above 1": {"per_class_accuracy": [10**400]},
    "no list of shares": {"per_class_accuracy": 0.5},
}


@pytest.mark.parametrize("case", NO_SCORES)
def test_a_score_that_no_model_can_have_is_refused(keys: dict[str, PrivateKey], case: str) -> None:
    scores = SCORES | NO_SCORES[case]
    (name,) = NO_SCORES[case]
    with pytest.raises(BundleError, match=f"the score '{name}' of release 2 is .*, which no model can have") as caught:
        chain.check_release(*released(keys, {"metrics": scores}, {"metrics": scores}))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 120


ID, OTHER, BUNDLE = new_id(), new_id(), "e" * 64
VERDICTS: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "accepted": ({"event": "accepted"}, MODEL, None),
    "refused": ({"event": "refused"}, MODEL, None),
    "counted": ({"event": "counted"}, MODEL, None),
    "mixed": ({"event": "accepted", "model": {"sha256": HEX}, "candidate": {"sha256": MODEL}}, MODEL, None),
    "other candidate": ({"event": "accepted", "candidate": {"sha256": HEX}}, MODEL, "about another model"),
    "counted for a report": ({"event": "counted", "model": None}, None, "is 'counted'"),
    "hash alone": ({"event": "refused", "model": MODEL}, MODEL, None),
    "invalid": ({"event": "invalid", "model": None, "bundle": BUNDLE}, MODEL, None),
    "invalid without id": ({"event": "invalid", "model": None, "bundle": BUNDLE, "submission": None}, MODEL, None),
    "report": ({"event": "report", "model": None}, None, None),
    "report refused": ({"event": "refused", "model": None}, None, None),
    "other site": ({"event": "accepted", "site": "alice-2"}, MODEL, "is about 'alice-2', not 'alice-1'"),
    "other id": ({"event": "accepted", "submission": OTHER}, MODEL, f"is about {OTHER}"),
    "other model": ({"event": "accepted", "model": {"sha256": HEX}}, MODEL, "about another model"),
    "no model": ({"event": "accepted", "model": None}, MODEL, "about another model"),
    "other bytes": ({"event": "invalid", "bundle": HEX}, MODEL, "other bytes"),
    "no verdict": ({"event": "release"}, MODEL, "is 'release'"),
    "report for a checkpoint": ({"event": "report"}, MODEL, "is 'report'"),
    "accepted for a report": ({"event": "accepted", "model": None}, None, "is 'accepted'"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_a_verdict_is_about_what_was_sent(case: str) -> None:
    changes, model, trouble = VERDICTS[case]
    fields = {"site": "alice-1", "submission": ID, "model": {"sha256": MODEL, "size": 9}} | changes
    record = Record(7, HEX, canonical(fields), "")
    if trouble is None:
        chain.check_verdict(record, "alice-1", ID, model, BUNDLE)
    else:
        with pytest.raises(LedgerError, match=trouble):
            chain.check_verdict(record, "alice-1", ID, model, BUNDLE)
