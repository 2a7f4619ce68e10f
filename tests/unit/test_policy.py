"""The policies as tables: how they are written, what is scored, and what is decided from the scores."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.rules.gate import PAIRED, Decision, Gate, ahead, best, decide, pairs, passes, standard_error, told
from fedssh.rules.policies import ROUND_OPTIONS, described, described_options, names, read_policy
from fedssh.rules.vocabulary import PARAMETER_FREE


def metrics(accuracy: float, loss: float, auc: float | None = 0.5) -> dict[str, Any]:
    return {"accuracy": accuracy, "loss": loss, "auc": auc}


CURRENT = metrics(0.90, 0.30)
ON = Gate("on", 0.01)


@pytest.mark.parametrize(
    ("candidate", "accept", "reason"),
    [
        (metrics(0.91, 0.20), True, "accuracy 0.9100 beats 0.9000"),
        (metrics(0.91, 9.00), True, "accuracy 0.9100 beats 0.9000"),
        (metrics(0.89, 0.01), False, "accuracy 0.8900 is below the current 0.9000"),
        (metrics(0.90, 0.29), True, "accuracy 0.9000 is equal, loss 0.2900 beats 0.3000"),
        (metrics(0.90, 0.30), False, "accuracy 0.9000 is equal, loss 0.3000 is not below the current 0.3000"),
        (metrics(0.90, 0.31), False, "accuracy 0.9000 is equal, loss 0.3100 is not below the current 0.3000"),
    ],
)
@pytest.mark.parametrize("gate", [ON, Gate("off", 0)])
def test_best_keeps_the_better_and_says_why(gate: Gate, candidate: dict[str, Any], accept: bool, reason: str) -> None:
    decision = decide(read_policy("best"), gate, "accuracy", CURRENT, 0.95, [(1.0, candidate)])
    assert decision == Decision(accept, reason, 1.0, candidate)


def test_best_compares_by_the_metric_of_the_plan() -> None:
    assert best(metrics(0.1, 9.0, auc=0.81), metrics(0.9, 0.3, auc=0.80), "auc")[0]


def test_an_undefined_metric_leaves_the_decision_to_the_loss() -> None:
    assert best(metrics(0.9, 0.2, auc=None), metrics(0.9, 0.3, auc=None), "auc")[0]
    assert not best(metrics(0.9, 0.4, auc=None), metrics(0.9, 0.3, auc=None), "auc")[0]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("best", "best"),
        (" polyak ", "polyak:keep=0.5"),
        ("polyak:0.25", "polyak:keep=0.25"),
        ("merge:steps=2", "merge:steps=2,staleness=0.5"),
        ("fedavg", "fedavg:fraction=1,minimum=0.5,deadline=600,sites=1"),
        ("fedavg:deadline=60,fraction=.1", "fedavg:fraction=0.1,minimum=0.5,deadline=60,sites=1"),
        (
            "fedavg:server=adam,rate=0.1",
            "fedavg:fraction=1,minimum=0.5,deadline=600,sites=1,server=adam,rate=0.1,momentum=0.9,beta2=0.99,tau=0.001",
        ),
        ("fedavg:0.5,cap=1", "fedavg:fraction=0.5,minimum=0.5,deadline=600,sites=1,cap=1"),
        ("trimmed:2,clip=3", "trimmed:trim=2,fraction=1,minimum=0.5,deadline=600,sites=1,clip=3"),
        (
            "median:server=momentum",
            "median:fraction=1,minimum=0.5,deadline=600,sites=1,server=momentum,rate=1,momentum=0.9",
        ),
        ("krum", "krum:faulty=1,fraction=1,minimum=0.5,deadline=600,sites=1"),
    ],
)
def test_a_policy_is_written_out_in_full_and_reads_back(text: str, canonical: str) -> None:
    policy = read_policy(text)
    assert policy.text == canonical
    assert read_policy(policy.text) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fedavgg", "no policy is called 'fedavgg'; did you mean 'fedavg'?"),
        ("", "no policy is called ''"),
        ("best:1", "'1' of the policy best is not OPTION=VALUE"),
        ("polyak:1", "keep of the policy polyak is '1', expected a number from 0 to below 1"),
        ("polyak:nan", "keep of the policy polyak is 'nan', expected a number"),
        ("polyak:x", "keep of the policy polyak is 'x', expected a number"),
        ("polyak:0.5,keep=0.4", "has keep twice"),
        ("merge:steps=0", "expected a whole number in 1..16"),
        ("merge:staleness=inf", "expected a number"),
        ("fedavg:fraction=0", "fraction of the policy fedavg is '0', expected a number above 0 to 1"),
        ("fedavg:dedline=3", "no option 'dedline'; did you mean 'deadline'?"),
        ("fedavg:server=sgd", "expected one of momentum, adam, yogi"),
        ("fedavg:rate=0.1", "rate of the policy fedavg belongs to another server optimizer than none"),
        ("fedavg:server=momentum,beta2=0.9", "beta2 of the policy fedavg belongs to another server optimizer"),
        ("fedavg:cap=0", "cap of the policy fedavg is '0', expected a whole number in 1..1,000,000,000"),
        ("median:cap=1", "the policy median has no option 'cap'"),
        ("fedavg:clip=-1", "clip of the policy fedavg is '-1', expected a number above 0"),
        ("krum:-1", "faulty of the policy krum is '-1', expected a whole number"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="policy") as caught:
        read_policy(text)
    assert message in str(caught.value)


@given(
    st.text(max_size=30)
    | st.sampled_from(names()).flatmap(lambda name: st.text(max_size=20).map(lambda t: f"{name}:{t}"))
)
def test_any_text_is_a_policy_or_a_clear_error(text: str) -> None:
    policy, said = None, ""
    try:
        policy = read_policy(text)
    except ValueError as error:
        said = str(error)
    assert "policy" in said if policy is None else read_policy(policy.text) == policy


@pytest.mark.parametrize(
    ("text", "least"),
    [("best", 1), ("fedavg", 1), ("median", 1), ("trimmed:2", 5), ("krum:1", 5), ("multi-krum:2", 7)],
)
def test_what_a_rule_needs_at_least(text: str, least: int) -> None:
    assert read_policy(text).least == least


@pytest.mark.parametrize(
    ("text", "staleness", "expected"),
    [
        ("best", 3, (1.0,)),
        ("polyak:0.8", 3, (0.2,)),
        ("merge", 0, (1.0, 0.75, 0.5, 0.25)),
        ("merge", 3, (1.0, 0.375, 0.25, 0.125)),  # (1 + 3) ** 0.5 = 2; the candidate itself is scored all the same
        ("merge:steps=2,staleness=0", 9, (1.0, 0.5)),
        ("merge:steps=2,staleness=1", 1, (1.0, 0.25)),
        ("merge:steps=1,staleness=1", 1, (1.0,)),
        ("fedasync", 0, (0.6,)),
        ("fedasync:0.8", 3, (0.4,)),
    ],
)
def test_the_mixes_that_are_scored(text: str, staleness: int, expected: tuple[float, ...]) -> None:
    assert read_policy(text).shares(staleness) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "mixes", "by_gate"),
    [
        ("best", False, False),
        ("polyak", True, True),
        ("merge:steps=1", True, False),
        ("step", True, False),
        ("gather", True, False),
        ("fedasync", True, True),
    ],
)
def test_what_a_policy_accepts(text: str, mixes: bool, by_gate: bool) -> None:
    policy = read_policy(text)
    assert (policy.rounds, policy.mixes, policy.by_gate) == (False, mixes, by_gate)
    with pytest.raises(ValueError, match="has rounds"):
        read_policy("median").shares(0)


@pytest.mark.parametrize(
    ("text", "examples", "expected"),
    [
        ("fedavg", [1, 3, 0], [0.25, 0.75, 0.0]),
        ("fedavg:cap=1", [5, 3, 0], [0.5, 0.5, 0.0]),
        ("fednova", [1, 3, 0], [0.5, 0.5, 0.0]),
        ("median", [1, 10_000], [0.5, 0.5]),
        ("trimmed:1", [0, 1, 1, 1], [0.25] * 4),
        ("krum", [1] * 5, None),
        ("multi-krum", [1] * 5, None),
        ("best", [1], None),
    ],
)
def test_shares_that_anybody_can_work_out(text: str, examples: list[int], expected: list[float] | None) -> None:
    assert read_policy(text).shares_of(examples) == expected


def test_fednova_takes_a_longer_step_where_sites_differ_in_size() -> None:
    """Equation 5 of Wang et al. 2020: Σp·τ times the mean of the updates by p/τ, with steps τ as images are."""
    examples = np.array([100, 300, 600])
    p, tau = examples / examples.sum(), examples / 10
    weights = (p @ tau) * p / tau  # of each update's change
    policy = read_policy("fednova")
    shares, length = policy.shares_of(examples.tolist()), policy.length(examples.tolist())
    assert shares is not None and [share * length for share in shares] == pytest.approx(weights)
    assert policy.length([5, 5, 5]) == 1 == read_policy("fedavg").length([1, 9])
    assert policy.length([1, 0]) == 1
    assert policy.length([100] * 9 + [10**12]) == 2  # who lies about images lengthens it, and no further than so


def test_where_no_update_counts_there_are_no_shares() -> None:
    with pytest.raises(ValueError, match=r"the numbers of examples of 2 updates are \[0, 0\]"):
        read_policy("fedavg").shares_of([0, 0])


@pytest.mark.parametrize(
    ("text", "shares", "plausible"),
    [
        ("krum:1", [0, 0, 1.0, 0, 0], True),
        ("krum:1", [0, 0, 1.0], False),  # too few updates for it
        ("krum:1", [0.2] * 5, False),
        ("krum:1", [0, 0, 0.5, 0.5, 0], False),
        ("krum:1", [0.0] * 5, False),
        ("krum:1", [0, 0, 2.0, -1.0, 0], False),
        ("multi-krum:1", [0.25, 0.25, 0, 0.25, 0.25], True),
        ("multi-krum:1", [0.2] * 5, False),
        ("multi-krum:0", [1 / 3] * 3, True),
        ("multi-krum:1", [0.5, 0.25, 0, 0.125, 0.125], False),
        ("fedavg", [0.25, 0.75, 0.0], True),
        ("fedavg", [0.25, 0.7], False),
        ("fedavg", [], False),
    ],
)
def test_shares_that_cannot_be(text: str, shares: list[float], plausible: bool) -> None:
    assert read_policy(text).plausible_shares(shares) == plausible


def test_what_people_read_about_policies_has_every_option_once() -> None:
    rows, options = described(), described_options()
    assert [row["policy"] for row in rows] == list(names())
    assert [row["policy"] for row in rows] == [*sorted(names()[:7]), *sorted(names()[7:])]  # rounds come last
    assert {key for row in rows for key in row["options"]} == {row["option"] for row in options}
    assert len(options) == len({row["option"] for row in options}) == 29
    assert {"option": "keep", "default": 0.5, "means": "how much of the current model stays"} in options
    assert [row["option"] for row in options][-10:] == list(ROUND_OPTIONS)


def test_a_policy_is_loaded_when_it_is_asked_for_and_never_numpy() -> None:
    code = """
import sys
from fedssh.rules import policies
loaded = lambda: {name.rpartition(".")[2] for name in sys.modules if name.startswith("fedssh.rules.policies.")}
assert loaded() == set()
assert policies.read_policy("multi-krum").least == 5 and loaded() == {"multi_krum"}
policies.described()
assert len(loaded()) == 14 and not {"numpy", "click", "keras"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_merge_keeps_the_mix_that_scores_best() -> None:
    mixes = [
        (1.0, metrics(0.85, 0.4)),
        (0.75, metrics(0.92, 0.3)),
        (0.5, metrics(0.92, 0.2)),
        (0.25, metrics(0.91, 0.1)),
    ]
    decision = decide(read_policy("merge"), ON, "accuracy", CURRENT, 0.9, mixes)
    assert decision == Decision(True, "accuracy 0.9200 beats 0.9000 (share 0.5 of the candidate)", 0.5, mixes[2][1])


def test_merge_keeps_the_current_model_when_no_mix_is_better() -> None:
    decision = decide(
        read_policy("merge"), Gate("off"), "accuracy", CURRENT, 0.9, [(1.0, metrics(0.8, 1)), (0.5, metrics(0.9, 0.3))]
    )
    assert not decision.accept
    assert decision.share == 0.5
    assert decision.reason.startswith("accuracy 0.9000 is equal")


@pytest.mark.parametrize(
    ("gate", "accuracy", "bar", "accept"),
    [
        (Gate("on", 0.01), 0.95, 0.90, True),
        (Gate("on", 0.01), 0.895, 0.90, True),
        (Gate("on", 0.01), 0.889, 0.90, False),
        (Gate("on", 0.01), 0.895, 0.95, False),  # the best so far counts, not the last
        (Gate("on", 0.0), 0.90, 0.90, True),
        (Gate("off"), 0.1, 0.95, True),
        (Gate("ladder", 0.02), 0.92, 0.90, False),
        (Gate("ladder", 0.02), 0.93, 0.90, True),
    ],
)
@pytest.mark.parametrize("policy", ["polyak", "rounds"])
def test_the_gate(policy: str, gate: Gate, accuracy: float, bar: float, accept: bool) -> None:
    offered = metrics(accuracy, 0.3)
    if policy == "polyak":
        assert decide(read_policy("polyak"), gate, "accuracy", CURRENT, bar, [(0.5, offered)]).accept == accept
    assert passes(gate, "accuracy", offered, CURRENT, bar)[0] == accept


def test_where_the_metric_says_nothing_the_gate_lets_no_loss_rise() -> None:
    current = metrics(0.9, 0.3, auc=None)
    assert passes(Gate("on", 0.01), "auc", metrics(0.9, 0.2, auc=None), current, -1)[0]
    assert not passes(Gate("on", 0.01), "auc", metrics(0.9, 5.2, auc=None), current, -1)[0]
    assert passes(Gate("off"), "auc", metrics(0.9, 5.2, auc=None), current, -1)[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 0.2))
def test_behind_the_gate_no_release_is_worse_than_any_before_by_more_than_the_margin(
    offers: list[float], margin: float
) -> None:
    gate, released = Gate("on", margin), [0.5]
    for accuracy in offers:
        if passes(gate, "accuracy", metrics(accuracy, 1), metrics(released[-1], 1), max(released))[0]:
            assert accuracy >= max(released) - margin
            released.append(accuracy)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.1]))
def test_a_ladder_tells_steps_only_and_climbs_at_most_as_often_as_it_has_steps(
    offers: list[float], step: float
) -> None:
    gate, current, climbed = Gate("ladder", step), 0.5, 0
    for accuracy in offers:
        decision = decide(
            read_policy("best"), gate, "accuracy", metrics(current, 1.0), 1.0, [(1.0, metrics(accuracy, 0.1))]
        )
        if decision.accept:
            known = told(gate, decision.metrics)
            assert known is not None
            assert known["accuracy"] > current
            assert known["accuracy"] / step == pytest.approx(round(known["accuracy"] / step), abs=1e-6)
            current, climbed = known["accuracy"], climbed + 1
        else:
            assert f"{accuracy:.4f}" == f"{current:.4f}" or f"{accuracy:.4f}" not in decision.reason
    assert climbed <= 0.5 / step + 1


def test_a_ladder_tells_no_tables() -> None:
    known = told(Gate("ladder", 0.05), {"accuracy": 0.912, "auc": None, "confusion": [[1, 2], [3, 4]], "loss": 0.333})
    assert known == {"accuracy": 0.9, "auc": None, "loss": 0.35}
    assert told(ON, {"accuracy": 0.912, "confusion": [[1]]}) == {"accuracy": 0.912, "confusion": [[1]]}


@pytest.mark.parametrize(
    ("images", "lost", "won", "error", "accept"),
    [
        (10, 0, 1, 0.1, False),  # s^2 = (1 - 10 * 0.1^2) / 9 = 0.1: one image is just its own standard error
        (10, 0, 2, 0.4 / 3, True),  # s^2 = (2 - 10 * 0.2^2) / 9 = 1.6 / 9
        (10, 1, 3, 0.2, False),  # s^2 = (4 - 10 * 0.2^2) / 9 = 0.4
        (10, 1, 4, (4.1 / 90) ** 0.5, True),  # s^2 = (5 - 10 * 0.3^2) / 9
        (10, 3, 1, 0.2, False),
        (10, 0, 0, 0.0, False),
        (100, 6, 10, 0.04, False),  # s^2 = (16 - 100 * 0.04^2) / 99 = 0.16
        (100, 5, 10, (14.75 / 9900) ** 0.5, True),  # s^2 = (15 - 100 * 0.05^2) / 99
        (2, 0, 2, 0.0, True),  # both images differ in the same way
    ],
)
def test_a_parameter_free_ladder_asks_for_a_standard_error(
    images: int, lost: int, won: int, error: float, accept: bool
) -> None:
    assert standard_error(lost, won, images) == pytest.approx(error, abs=1e-15)
    right = images - won
    offered = metrics((right + won - lost) / images, 0.3) | {PAIRED: standard_error(lost, won, images)}
    gate, current = Gate(PARAMETER_FREE, 0), metrics(right / images, 0.3)
    decision = decide(read_policy("best"), gate, "accuracy", current, 1.0, [(1.0, offered)])
    above = f"{right / images:.4f} by more than the standard error of the difference"
    assert decision == Decision(accept, f"accuracy {'beats' if accept else 'does not beat'} {above}", 1.0, offered)
    assert passes(gate, "accuracy", offered, current, 1.0) == (accept, decision.reason)  # of a round, too


@given(st.integers(2, 10**6), st.data())
def test_a_parameter_free_ladder_accepts_just_where_mcnemar_s_statistic_is_above_one(
    images: int, data: st.DataObject
) -> None:
    lost = data.draw(st.integers(0, images // 2))
    won = data.draw(st.integers(max(0, lost - 2), min(images - lost, lost + int(2 * (2 * lost + 1) ** 0.5) + 2)))
    right = data.draw(st.integers(lost, images - won))
    margin, accuracies = standard_error(lost, won, images), (right / images, (right + won - lost) / images)
    offered = metrics(accuracies[1], 0.3) | {PAIRED: margin}
    accept, _ = passes(Gate(PARAMETER_FREE, 0), "accuracy", offered, metrics(accuracies[0], 0.3), 1.0)
    assert accept == (won > lost and (won - lost) ** 2 > won + lost)
    assert pairs(margin, *accuracies, images) and pairs(margin, *accuracies, None)


def test_a_standard_error_that_two_models_cannot_have() -> None:
    for current in range(7):
        for candidate in range(7):
            fewest = max(0, current - candidate)
            most = min(current, 6 - candidate)
            can = {standard_error(lost, lost + candidate - current, 6) for lost in range(fewest, most + 1)}
            for margin in {standard_error(lost, won, 6) for lost in range(7) for won in range(7 - lost)}:
                near = any(abs(margin - one) < 1e-9 for one in can)
                assert pairs(margin, current / 6, candidate / 6, 6) == near
    for margin in (-0.1, 1.1, float("nan")):
        assert not pairs(margin, 0.5, 0.7, None)
    assert not pairs(0.5, 0.9, 0.95, None)  # at most 0.15 of the images differ, s^2 is at most 0.1475
    assert not pairs(0.1, 0.55, 0.65, 6)  # no such accuracies on six images
    assert not pairs(0.0, 1.0, 1.0, 1)
    with pytest.raises(ValueError, match="at least 2"):
        standard_error(0, 1, 1)


def test_a_parameter_free_ladder_tells_the_accuracy_as_it_is_and_of_the_rest_hundredths() -> None:
    gate = Gate(PARAMETER_FREE, 0)
    scores = {"accuracy": 0.9125, "auc": None, "f1": 0.8888, "loss": 0.3333, "threshold": 0.4321, "confusion": [[1]]}
    said = {"accuracy": 0.9125, "auc": None, "f1": 0.89, "loss": 0.33, "threshold": 0.4321}
    assert told(gate, scores | {PAIRED: 0.0123}) == told(gate, said) == said
    assert gate.most == 1
    refused = Decision(False, "", 1.0, scores | {PAIRED: 0.0123})
    assert gate.hides(refused) and gate.found_margin(refused) is None
    assert gate.found_margin(Decision(True, "", 1.0, scores | {PAIRED: 0.0123})) == 0.0123


def test_what_a_refusal_says_does_not_depend_on_how_far_it_was() -> None:
    gate, current = Gate(PARAMETER_FREE, 0), metrics(0.9, 0.3)
    offers = [metrics(accuracy, 0.3) | {PAIRED: error} for accuracy, error in ((0.1, 0.02), (0.905, 0.006), (0.9, 0))]
    for policy in ("best", "polyak", "merge:steps=2", "step", "fedasync"):
        said = {decide(read_policy(policy), gate, "accuracy", current, 0.9, [(0.5, one)]).reason for one in offers}
        assert said == {"accuracy does not beat 0.9000 by more than the standard error of the difference"}


@pytest.mark.parametrize(
    ("kind", "margin"),
    [(PARAMETER_FREE, 0.01), ("ladder", 0), ("on", 1), ("on", -0.1), ("on", float("nan")), ("of", 0.1)],
)
def test_a_gate_that_cannot_be_is_refused(kind: str, margin: float) -> None:
    with pytest.raises(ValueError, match="gate"):
        Gate(kind, margin)


def test_a_parameter_free_ladder_is_for_accuracy() -> None:
    with pytest.raises(ValueError, match="the gate parameter-free-ladder is for accuracy, not for auc"):
        Gate(PARAMETER_FREE, 0, "auc")


# step


def stepped(offered: list[tuple[float, dict[str, Any]]], gate: Gate = ON, bar: float = 0.90) -> Decision:
    return decide(read_policy("step"), gate, "accuracy", CURRENT, bar, offered)


def test_of_a_step_the_part_with_the_lowest_loss_counts_whatever_its_accuracy() -> None:
    parts = [(1.0, metrics(0.93, 0.29)), (0.5, metrics(0.90, 0.25)), (0.25, metrics(0.91, 0.27))]
    said = "loss 0.2500 beats 0.3000, and accuracy 0.9000 equals the best so far, 0.9000 (part 0.5 of the step)"
    assert stepped(parts) == Decision(True, said, 0.5, parts[1][1])


@pytest.mark.parametrize(
    ("gate", "bar", "candidate", "accept", "reason"),
    [
        (ON, 0.90, metrics(0.99, 0.30), False, "loss 0.3000 is not below the current 0.3000"),
        (ON, 0.95, metrics(0.945, 0.20), True, "loss 0.2000 beats 0.3000, and accuracy 0.9450 is within 0.01 of"),
        (ON, 0.95, metrics(0.93, 0.20), False, "loss 0.2000 beats 0.3000, yet accuracy 0.9300 is more than 0.01 below"),
        (Gate("off", 0), 0.95, metrics(0.1, 0.20), True, "loss 0.2000 beats 0.3000 (part 1 of the step)"),
        (Gate("off", 0), 0.95, metrics(0.99, 0.31), False, "loss 0.3100 is not below"),
        (Gate("ladder", 0.05), 0.90, metrics(0.94, 0.10), False, "accuracy does not beat 0.9000 by more than 0.05"),
    ],
)
def test_a_step_must_lower_the_loss_and_pass_the_gate(
    gate: Gate, bar: float, candidate: dict[str, Any], accept: bool, reason: str
) -> None:
    decision = stepped([(1.0, candidate)], gate, bar)
    assert decision.accept is accept and decision.reason.startswith(reason)


@pytest.mark.parametrize(
    ("gate", "own", "mean", "counts"),
    [
        (ON, metrics(0.99, 0.4), metrics(0.91, 0.2), True),  # by loss, whatever the accuracy
        (ON, metrics(0.90, 0.2), metrics(0.99, 0.2), False),  # of equally good ones its own
        (ON, metrics(0.90, 0.1), metrics(0.99, 0.2), False),
        (Gate("ladder", 0.005), metrics(0.90, 0.1), metrics(0.91, 0.2), True),  # by accuracy
        (Gate("ladder", 0.005), metrics(0.91, 0.1), metrics(0.91, 0.2), False),  # at equal accuracy by loss
        # by how surely: 0.56 - 0.07 is less than 0.55 - 0.01
        (Gate(PARAMETER_FREE, 0), metrics(0.56, 0.1) | {PAIRED: 0.07}, metrics(0.55, 0.2) | {PAIRED: 0.01}, True),
    ],
)
def test_what_waited_counts_where_the_mean_of_all_is_better_than_a_step_alone(
    gate: Gate, own: dict[str, Any], mean: dict[str, Any], counts: bool
) -> None:
    policy = read_policy("gather")
    two = [
        decide(policy, gate, "accuracy", CURRENT, 0.9, [(1.0, scored)], waited)
        for scored, waited in ((own, 0), (mean, 3))
    ]
    assert ahead(policy, gate, "accuracy", two[1], two[0]) is counts
    assert [one.gathered for one in two] == [False, True]


def test_a_mean_with_what_waited_is_decided_about_as_a_step_is() -> None:
    policy, parts = read_policy("gather"), [(1.0, metrics(0.93, 0.3)), (2.0, metrics(0.91, 0.2))]
    said = (
        "loss 0.2000 beats 0.3000, and accuracy 0.9100 beats the best so far, 0.9000 (twice the mean of its step and "
    )
    for waited, words in ((1, "1 step that waited)"), (3, "3 steps that waited)")):
        mean = decide(policy, ON, "accuracy", CURRENT, 0.9, parts, waited)
        assert mean == Decision(True, f"{said}{words}", 2.0, parts[1][1], gathered=True)
    assert not decide(policy, ON, "accuracy", CURRENT, 0.9, [(1.0, metrics(0.9, 0.35))], 3).accept
    assert policy.gathered == (1.0, 0.5, 2.0) and read_policy("step").gathered == ()
    assert policy.shares(3) == read_policy("step").shares(3)


def test_the_parts_of_a_step_halve_and_are_smaller_when_others_were_faster() -> None:
    assert read_policy("step").shares(0) == (1.0, 0.5, 0.25)
    assert read_policy("step:parts=2").shares(3) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (Gate("ladder", 1.7, "mae"), {"mae": 13.6, "rmse": 17.0, "r2": 0.91, "loss": 0.12}),
        (Gate("ladder", 1e-8, "mae"), {"mae": 12.84512345, "rmse": 16.2, "r2": 0.91, "loss": 0.12}),
        (Gate("ladder", 0.05, "r2"), {"mae": 13.0, "rmse": 16.0, "r2": 0.9, "loss": 0.1}),
    ],
)
def test_a_ladder_of_numbers_has_a_step_for_what_is_in_their_unit_and_one_for_the_rest(
    gate: Gate, said: dict[str, float]
) -> None:
    assert told(gate, {"mae": 12.84512345, "rmse": 16.2, "r2": 0.9123, "loss": 0.1234}) == pytest.approx(said)
