"""What each site brought, and which is worth a look: by hand, against scipy, and among sites that are alike."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from fedssh.history.contributions import contributions
from fedssh.history.sites import gathered, sites, text
from fedssh.rules import faulty
from fedssh.rules.faulty import Sent
from fedssh.rules.vocabulary import MAKES_CURRENT
from tests.vectors.histories import kept

GENESIS = {
    "event": "genesis", "plan": {"metric": "accuracy"}, "schedule": "free", "metrics": {"accuracy": 0.5, "loss": 2.0},
}  # fmt: skip


def chain(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"sequence": number, **event} for number, event in enumerate(events, 1)]


def added(*names: str) -> list[dict[str, Any]]:
    return [{"event": "site-added", "site": name, "role": "site"} for name in names]


def scores(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "loss": 4 * (1 - accuracy)}


def judged(event: str, site: str, before: float, after: float, claim: float | None = None) -> dict[str, Any]:
    return {
        "event": event, "site": site, "current_metrics": scores(before), "metrics": scores(after), "model": {"size": 1},
        "claim": {"loss": 0.1, "accuracy": after if claim is None else claim},
    }  # fmt: skip


def closed(before: float, after: float, shares: dict[str, float | None], **more: Any) -> dict[str, Any]:
    updates = [{"site": site, "share": share, **more.get(site, {})} for site, share in shares.items()]
    told = {"event": "round-accepted", "current_metrics": scores(before), "metrics": scores(after)}
    return {**told, "updates": updates}


# contributions


def test_what_waited_and_was_taken_with_another_has_its_part_of_the_gain() -> None:
    waited, alone = judged("refused", "b", 0.5, 0.4), judged("refused", "c", 0.5, 0.3)
    together = {**judged("accepted", "a", 0.5, 0.7), "slots": [2]}
    found = contributions(chain(GENESIS, waited, alone, together))
    assert found == {"a": {"accuracy": 0.1, "loss": 0.4}, "b": {"accuracy": 0.1, "loss": 0.4}}


def test_gains_are_of_what_became_current_and_add_up_to_what_the_model_gained() -> None:
    found = contributions(
        chain(
            GENESIS, judged("accepted", "a", 0.5, 0.6), judged("refused", "b", 0.6, 0.9),
            judged("accepted", "b", 0.6, 0.8), judged("accepted", "a", 0.8, 0.75),
        )
    )  # fmt: skip
    assert found == {
        "a": {"accuracy": pytest.approx(0.05), "loss": pytest.approx(0.2)},
        "b": {"accuracy": pytest.approx(0.2), "loss": pytest.approx(0.8)},
    }


def test_what_was_rolled_back_counts_for_nobody() -> None:
    first = [GENESIS, judged("accepted", "a", 0.5, 0.6), judged("accepted", "b", 0.6, 0.8)]
    back = {"event": "rollback", "to": 2, "metrics": scores(0.6)}
    assert contributions(chain(*first, back)) == contributions(chain(*first[:2]))
    again = {"event": "rollback", "to": 3, "metrics": scores(0.8)}  # to what had been left
    assert contributions(chain(*first, back, again)) == contributions(chain(*first))
    twice = {"event": "rollback", "to": 4, "metrics": scores(0.6)}  # to what was itself a rollback
    after = judged("accepted", "b", 0.6, 0.7)
    found = contributions(chain(*first, back, again, twice, after))
    assert found["b"]["accuracy"] == pytest.approx(0.1)


def test_a_rounds_gain_is_divided_by_shares() -> None:
    found = contributions(chain(GENESIS, closed(0.5, 0.7, {"a": 0.25, "b": 0.75, "c": None})))
    assert {site: by["accuracy"] for site, by in found.items()} == {"a": pytest.approx(0.05), "b": pytest.approx(0.15)}


def test_of_an_error_less_is_a_gain() -> None:
    genesis = GENESIS | {"plan": {"metric": "mae"}}
    better = {"event": "accepted", "site": "a", "metrics": {"mae": 2.0}, "current_metrics": {"mae": 3.0, "loss": 1.0}}
    assert contributions(chain(genesis, better)) == {"a": {"mae": 1.0}}


# which to look at


def test_who_stands_alone_and_is_always_the_worst_is_worth_a_look() -> None:
    harm = {
        "a": [0.01, 0.02, 0.0] * 3,
        "b": [0.0, 0.01, 0.02] * 3,
        "c": [0.02, 0.0, 0.01] * 3,
        "d": [0.9, 0.7, 0.8] * 3,
    }
    found = faulty.findings({site: Sent({"harm": of}) for site, of in harm.items()})
    assert list(found) == ["d"]
    (one,) = found["d"]
    assert (one.rule, one.own, one.others, one.of) == ("harm", 0.8, 0.01, 9)
    assert one.p == pytest.approx(4 * 0.25**9)  # of four sites, by one rule


@pytest.mark.parametrize(
    "harm",
    [
        {"a": 0.0, "b": 0.5, "c": 1.0, "d": 1.5},  # unlike sites are spread
        {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.04},  # as good as nothing
        {"a": 0.0, "d": 9.0},  # two: who is the odd one?
        {"a": -2.0, "b": -2.0, "c": -2.0, "d": -0.5},  # it makes the model better, too
    ],
)
def test_unlike_sites_are_not_worth_a_look(harm: dict[str, float]) -> None:
    assert faulty.findings({site: Sent({"harm": [value] * 20}) for site, value in harm.items()}) == {}


def test_one_bad_day_is_no_finding() -> None:
    harm = {"a": [0.0] * 3, "b": [0.01] * 3, "c": [0.02] * 3, "d": [0.8] * 3}
    assert faulty.findings({site: Sent({"harm": of}) for site, of in harm.items()}) == {}  # 1 of 64, four times looked


def test_counts_are_held_against_all_others_together() -> None:
    found = faulty.findings({
        "a": Sent(models=10, refused=6), "b": Sent(models=10, refused=5), "c": Sent(models=10, refused=6),
        "d": Sent(models=20, refused=20),
    })  # fmt: skip
    assert [(site, one.rule, one.own) for site, ones in found.items() for one in ones] == [("d", "refused", 1.0)]
    assert found["d"][0].others == 0.6, "the middle of the others' shares, which is above 17 of 30"


@pytest.mark.parametrize("of", [20, 200, 1000])
def test_who_sends_much_that_is_never_refused_names_nobody_else(of: int) -> None:
    sent = {name: Sent(models=20, refused=9) for name in "abc"} | {"evil": Sent(models=of, refused=0)}
    assert faulty.findings(sent) == {}
    many = {name: Sent(models=of, refused=of // 2) for name in "abc"} | {"evil": Sent(models=of, refused=0)}
    assert faulty.findings(many) == {}


def test_who_is_always_refused_is_found_beside_one_who_sends_a_thousand_such() -> None:
    sent = {name: Sent(models=20, refused=4) for name in "abc"}
    sent |= {"d": Sent(models=20, refused=20), "loud": Sent(models=1000, refused=1000)}
    found = faulty.findings(sent)
    assert sorted(found) == ["d", "loud"]
    assert found["d"][0].others == pytest.approx(32 / 80), "the loud one counts as twenty"


@pytest.mark.parametrize("sites_sent", [[3.0, 1.0, 2.0], [1.0, 1.0, 5.0, 2.0], [0.0, 4.0, 4.0, 4.0, 9.0]])
def test_the_others_middle_is_of_all_but_the_site(sites_sent: list[float]) -> None:
    found = faulty._apart("harm", faulty.MEASURES["harm"], {str(at): [of] for at, of in enumerate(sites_sent)})
    rest = [float(np.median(np.delete(sites_sent, at))) for at in range(len(sites_sent))]
    assert [(one.own, one.others) for _, one in found] == list(zip(sites_sent, rest, strict=True))


def test_sites_that_are_alike_are_hardly_ever_worth_a_look() -> None:
    """Three hundred federations of five sites with twenty models each: at most as often as the level says."""
    random, named = np.random.default_rng(1), 0
    for _ in range(300):
        values = random.normal(0.2, 0.3, (5, 20)).tolist()
        refused = random.binomial(20, 0.6, 5).tolist()
        sent = {str(site): Sent({"harm": values[site], "claims": values[site]}, 20, refused[site]) for site in range(5)}
        named += bool(faulty.findings(sent))
    assert named <= 300 * faulty.LEVEL


@pytest.mark.parametrize(("bad", "of", "other_bad", "other_of"), [(5, 5, 3, 20), (0, 4, 1, 9), (7, 9, 7, 9)])
def test_fishers_test_is_scipys(bad: int, of: int, other_bad: int, other_of: int) -> None:
    from scipy.stats import fisher_exact

    table = [[bad, of - bad], [other_bad, other_of - other_bad]]
    expected = fisher_exact(table, alternative="greater").pvalue
    assert faulty.more(bad, of, other_bad, other_of) == pytest.approx(expected)


def test_the_binomial_test_is_scipys() -> None:
    from scipy.stats import binom

    assert faulty.at_least(7, 10, 0.2) == pytest.approx(binom.sf(6, 10, 0.2))
    assert faulty.at_least(0, 10, 0.2) == pytest.approx(1)


@pytest.mark.parametrize("of", [1, 2, 1100, 100_000])
def test_the_tests_are_scipys_also_of_many(of: int) -> None:
    """From none to all, about what is most probable and far from it."""
    from scipy.stats import binom, hypergeom

    for chance in (0.5, 0.2, 1 / 701):
        middle = round(of * chance)
        for successes in {0, middle // 2, middle - 1, middle, middle + 1, min(of, middle + 3 * round(of**0.5)), of}:
            expected = binom.sf(successes - 1, of, chance)
            assert faulty.at_least(successes, of, chance) == pytest.approx(expected, rel=1e-6, abs=1e-300), successes
    for other_of in (1, 40, 100_000):
        for other_bad in {0, other_of // 3, other_of}:
            for bad in {0, of // 4, of // 3, of // 3 + 1, of // 2, of}:
                expected = hypergeom.sf(bad - 1, of + other_of, bad + other_bad, of)
                found = faulty.more(bad, of, other_bad, other_of)
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-300), (bad, other_bad, other_of)


# from the history


def free(turns: int) -> list[dict[str, Any]]:
    """Four sites, of which d claims what it does not score and harms."""
    events: list[dict[str, Any]] = [GENESIS, *added("a", "b", "c", "d")]
    for turn in range(turns):
        before = 0.5 + turn / 100
        events += [judged("accepted", "a", before, before + 0.01), judged("refused", "b", before, before - 0.01)]
        events += [judged("refused", "c", before, before - 0.02), judged("refused", "d", before, 0.1, claim=0.9)]
    return chain(*events)


def test_what_sites_sent_is_read_from_their_verdicts() -> None:
    found = gathered([*free(1), {"event": "invalid", "site": "d"}, {"event": "refused", "site": "d", "model": None}])
    assert (found["d"].models, found["d"].refused, found["d"].bundles, found["d"].invalid) == (1, 1, 2, 1)
    assert found["d"].values == {"claims": [pytest.approx(0.8)], "harm": [pytest.approx(math.log(3.6 / 2.0))]}


def test_the_view_says_why_to_look() -> None:
    value = sites(free(10))
    assert [row["site"] for row in value["sites"] if row["findings"]] == ["d"]
    a, *_, d = value["sites"]
    assert a["gain"] == {"accuracy": pytest.approx(0.1), "loss": pytest.approx(0.4)}
    assert d["gain"] is None and d["claims"] == {"median": pytest.approx(0.8), "worst": pytest.approx(0.8), "of": 10}
    said = text(value)
    assert "look at d: claims 0.80 more than it scores in the middle of 10, the other sites 0.00 (p < 0.001)" in said
    assert "look at d: its models change the holdout loss by +98% in the middle of 10, the other sites' by +2%" in said
    assert "not blame" in said and "look at a" not in said
    assert text(sites(free(2))).endswith("no site stands out from the others\n")


@pytest.mark.parametrize("said", [1.7e308, -1.7e308, 1e-320])
def test_a_claim_beyond_all_measure_is_no_gap(said: float) -> None:
    """Neither by itself nor by the mean of two of them; and what is printed is JSON."""
    genesis = GENESIS | {"plan": {"metric": "mae"}}
    absurd = {"event": "refused", "site": "a", "model": {"size": 1}, "claim": {"mae": said}, "metrics": {"mae": 0.5}}
    tiny = absurd | {"site": "b", "claim": {"mae": 0.5}, "metrics": {"mae": 1e-320}}
    value = sites(chain(genesis, *added("a", "b"), absurd, absurd, tiny))
    json.dumps(value, allow_nan=False)
    close = {"median": 1.0, "worst": 1.0, "of": 2} if said == 1e-320 else None
    assert [row["claims"] for row in value["sites"]] == [close, None]


def test_losses_and_lengths_at_the_ends_of_what_a_number_holds_have_a_ratio() -> None:
    models = [
        judged("refused", "a", 0.5, 0.5) | {"metrics": {"loss": after}, "current_metrics": {"loss": before}}
        for after, before in ((1e308, 1e-308), (1e-308, 1e308))
    ]
    assert gathered(chain(GENESIS, *models))["a"].values["harm"] == pytest.approx([1418.4, -1418.4], abs=0.1)
    parts: dict[str, Any] = {name: {"length": of} for name, of in zip("abc", (1e-300, 1e300, 1e300), strict=True)}
    found = gathered(chain(GENESIS | {"schedule": "rounds"}, closed(0.5, 0.6, dict.fromkeys("abc", 0.3), **parts)))
    assert found["a"].values["length"] == [pytest.approx(-1381.55, abs=0.1)]


def test_in_rounds_the_evidence_that_was_agreed_tells_who_points_elsewhere() -> None:
    shares: dict[str, float | None] = dict.fromkeys("abcd", 0.25)
    counted = [{"event": "counted", "site": site, "model": {"size": 1}, "claim": {"accuracy": 0.7, "loss": 1}}
               for site in shares]  # fmt: skip
    bearing: dict[str, Any] = {
        site: {"length": length, "cosine": cosine}
        for site, length, cosine in (("a", 1.0, 0.5), ("b", 1.1, 0.6), ("c", 0.9, 0.55), ("d", 4.0, -0.6))
    }
    rounds = [one for _ in range(8) for one in (*counted, closed(0.5, 0.6, shares, **bearing))]
    value = sites(chain(GENESIS | {"schedule": "rounds"}, *added(*shares), *rounds))
    assert [row["site"] for row in value["sites"] if row["findings"]] == ["d"]
    assert [one["text"] for one in value["sites"][3]["findings"]] == [
        "its updates point elsewhere than the others: cosine -0.60 in the middle of 8, the other sites' 0.55",
        "its updates are 3.8 times as long as the middle one of their round, of 8",
    ]
    assert value["sites"][0]["claims"]["median"] == pytest.approx(0.1)
    assert "a round's gain is divided by the shares of its updates" in text(value)


def test_an_update_without_a_direction_has_none() -> None:
    parts: dict[str, Any] = {"a": {"length": 0.0, "cosine": None}, "b": {"length": 2.0, "cosine": None}}
    found = gathered(chain(GENESIS | {"schedule": "rounds"}, closed(0.5, 0.6, {"a": 0.5, "b": 0.5}, **parts)))
    assert (found["a"].values, found["b"].values) == ({}, {"length": [0.0]})


@pytest.mark.parametrize("name", kept.NAMES)
def test_every_history_that_is_kept_has_the_view(name: str) -> None:
    """As older versions wrote them; and the gains add up to what the current model gained, where that is known."""
    rows = [{**record.fields, "hash": record.hash} for record in kept.records(name)]
    value, gains = sites(rows), contributions(rows)
    assert text(value).count("\n") > len(value["sites"])
    made = [row for row in rows if row["event"] in MAKES_CURRENT][-1]
    masked = "seal=masks" in rows[0]["policy"]  # nobody knows which update is how much of a sum
    gained = 0.0 if masked else rows[0]["metrics"]["loss"] - made["metrics"]["loss"]
    assert sum(by["loss"] for by in gains.values()) == pytest.approx(gained, abs=1e-6)


def test_the_view_gives_what_waited_its_part_too() -> None:
    waited = judged("refused", "b", 0.5, 0.4)
    together = {**judged("accepted", "a", 0.5, 0.7), "slots": [4]}
    rows = chain(GENESIS, *added("a", "b"), waited, together)
    gains = {row["site"]: row["gain"] for row in sites(rows)["sites"]}
    assert gains["a"] == gains["b"] == contributions(rows)["b"]
