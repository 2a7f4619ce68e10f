"""The rules of a session as tables, and the plan's limits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedssh.alice import messages
from fedssh.alice.replicas import even_batch
from fedssh.alice.session import Patience, Trained, improved, is_over, may_start, session_seed
from fedssh.errors import BundleError, SettingsError
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.rules.standing import LastRound, Standing
from fedssh.rules.terms import LATER, written_loss

NAN = float("nan")


@pytest.mark.parametrize(
    ("candidate", "best", "expected"),
    [
        ((0.2, 0.9), (0.3, 0.8), True),
        ((0.2, 0.8), (0.3, 0.8), False),  # accuracy must improve as well
        ((0.3, 0.9), (0.3, 0.8), False),  # and so must the loss
        ((0.4, 0.9), (0.3, 0.8), False),
        ((0.2, 0.7), (0.3, 0.8), False),
        ((0.1, 1.0), (0.2, 1.0), True),  # more than all right is impossible
        ((0.2, 1.0), (0.2, 1.0), False),
        ((NAN, 0.9), (0.3, 0.8), False),
        ((math.inf, 0.9), (0.3, 0.8), False),
        ((0.2, 0.5), (NAN, 0.8), True),
        ((NAN, 0.9), (NAN, 0.8), False),
    ],
)
def test_improved(candidate: tuple[float, float], best: tuple[float, float], expected: bool) -> None:
    assert improved(Local(*candidate), Local(*best)) is expected


def federation(**changes: Any) -> Standing:
    said = {"name": "test", "policy": "best", "schedule": "relay", "turn": "alice-1", "state": "open", "sessions": None}
    return Standing.read({**said, "sites": ["alice-1", "alice-2"], **changes}, "a release")


@pytest.mark.parametrize(
    ("changes", "trained", "expected"),
    [
        ({"schedule": "free", "turn": None}, Trained(), True),
        ({"turn": "alice-2"}, Trained(), False),
        ({"turn": None}, Trained(), False),
        ({}, Trained(), True),
        ({}, Trained(1, None, passed=False), False),  # a release from before our report was heard
        ({}, Trained(1, None, passed=True), True),  # the turn went round
        ({"sites": ["alice-1"]}, Trained(1, None, passed=False), True),  # there is nobody else
        ({"turns": 0}, Trained(), True),
        ({"turns": 4}, Trained(1, 4, passed=True), False),
        ({"turns": 5}, Trained(1, 4, passed=False), True),
        ({"turns": 5, "turn": "alice-2"}, Trained(1, 4, passed=False), False),
    ],
)
def test_may_start(changes: dict[str, Any], trained: Trained, expected: bool) -> None:
    assert may_start(federation(**changes), "alice-1", trained) is expected


def rounds(**changes: Any) -> Standing:
    now = {"number": 3, "sites": ["alice-1", "alice-3"], "of": None}
    return federation(**{"schedule": "rounds", "turn": None, "turns": 3, "last": None, "round": now, **changes})


@pytest.mark.parametrize(
    ("changes", "trained", "expected"),
    [
        ({}, Trained(), True),
        ({}, Trained(2, 2), True),
        ({}, Trained(3, 3), False),  # trained already; the round is not closed yet
        ({"turns": 4, "round": {"number": 4, "sites": ["alice-1"], "of": 9}}, Trained(3, 3), True),
        ({"round": {"number": 3, "sites": ["alice-2"], "of": None}}, Trained(), False),  # not selected
        ({"round": {"number": 3, "sites": ["alice-1", "alice-2"], "of": None}}, Trained(1, 2), True),  # extended to us
        ({"round": None}, Trained(), False),  # between two rounds
        ({"round": None, "turns": 0}, Trained(), False),
    ],
)
def test_may_start_in_rounds(changes: dict[str, Any], trained: Trained, expected: bool) -> None:
    assert may_start(rounds(**changes), "alice-1", trained) is expected
    assert not is_over(rounds(**changes), trained), "rounds end with the federation, not with a number of sessions"


@pytest.mark.parametrize(
    ("site", "changes", "expected"),
    [
        ("alice-2", {}, "waiting for round 4; alice-1 and alice-3 train in this one"),
        (
            "alice-2",
            {"round": {"number": 3, "sites": ["alice-1"], "of": 9}},
            "waiting for round 4; alice-1 trains in this one",
        ),
        ("alice-1", {}, "waiting for round 4; in this one we have trained, alice-3 too"),
        (
            "alice-1",
            {"round": {"number": 3, "sites": ["alice-1"], "of": None}},
            "waiting for round 4; in this one we have trained",
        ),
        (
            "alice-2",
            {"round": {"number": 3, "sites": ["alice-1"], "of": 3}},
            "waiting for the end of round 3, the last; alice-1 trains in this one",
        ),
        ("alice-2", {"round": None}, "waiting for the next round"),
    ],
)
def test_what_is_waited_for_in_rounds(site: str, changes: dict[str, Any], expected: str) -> None:
    assert messages.waiting(rounds(**changes), site) == expected


def test_names_are_few() -> None:
    assert messages.names(["a"]) == "a"
    assert messages.names(["a", "b", "c"]) == "a, b and c"
    assert messages.names(list("abcde")) == "a, b, c, d and e"
    assert messages.names(list("abcdefg")) == "a, b, c, d and 3 more"


def test_the_last_round_is_told() -> None:
    refused = LastRound(round=3, event="round-refused", reason="the accuracy fell by 0.02")
    assert messages.last_round(refused) == "round 3 was refused: the accuracy fell by 0.02"
    accepted = LastRound(round=3, event="round-accepted", reason="it is better")
    assert messages.last_round(accepted) == "round 3 was accepted: it is better"


@pytest.mark.parametrize(
    ("patience", "losses", "over"),
    [
        (1, [3.0, 2.0, 1.0], None),
        (1, [3.0, 3.0], 2),
        (2, [3.0, 4.0, 2.0, 2.5, 2.0], 5),
        (2, [1.0, NAN, 0.5, NAN, NAN], 5),
        (2, [NAN, 1.0, 0.5], 3),  # nothing is lower than NaN
    ],
)
def test_patience(patience: int, losses: list[float], over: int | None) -> None:
    rule = Patience(patience)
    assert next((number for number, loss in enumerate(losses, 1) if rule.over(loss)), None) == over


@pytest.mark.parametrize(
    ("changes", "sessions", "expected"),
    [
        ({}, 99, False),
        ({"sessions": 2}, 1, False),
        ({"sessions": 2}, 2, True),
        ({"sessions": 2}, 3, True),
        ({"state": "finished"}, 0, True),
    ],
)
def test_is_over(changes: dict[str, Any], sessions: int, expected: bool) -> None:
    assert is_over(federation(**changes), Trained(sessions)) is expected


def test_every_session_has_a_seed_of_its_own() -> None:
    seeds = {session_seed(seed, session) for seed in range(20) for session in range(1, 50)}
    assert len(seeds) == 20 * 49
    assert session_seed(7, 3) == session_seed(7, 3)


@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
@pytest.mark.parametrize("examples", [235, 236, 524, 997, 10_000])
def test_no_replica_ever_goes_without_examples(examples: int, replicas: int) -> None:
    size = even_batch(examples, 64, replicas)
    rest = examples % size
    share = size // replicas
    assert size % replicas == 0
    assert not rest or min(rest - share * number for number in range(replicas)) > 0


def test_too_few_examples_for_the_replicas_are_named() -> None:
    with pytest.raises(SettingsError, match="3 validation images cannot be shared by 4 GPUs"):
        even_batch(3, 64, 4)


PLAN = {
    "batch_size": 32,
    "epochs": 8,
    "patience": 10,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "loss": "auto",
    "metric": "accuracy",
}


def test_a_plan_is_read() -> None:
    plan = read_plan(PLAN)
    assert (plan.batch_size, plan.epochs, plan.patience, plan.optimizer) == (32, 8, 10, "adam")
    assert read_plan({name: value for name, value in PLAN.items() if name != "patience"}).patience == 10


def test_what_older_releases_lack_has_a_default() -> None:
    plan = read_plan(PLAN)
    assert (plan.publish, plan.momentum, plan.proximal) == ("improved", 0.0, 0.0)
    new = {"publish": "session", "momentum": 0.2, "proximal": 0.01, "optimizer": "sgd"}
    plan = read_plan({**PLAN, **new})
    assert (plan.publish, plan.momentum, plan.proximal) == ("session", 0.2, 0.01)


def test_a_plan_with_an_entry_that_is_not_known_is_refused() -> None:
    """Passed over, it would make this site train otherwise than the others, without a word."""
    with pytest.raises(
        BundleError, match="the training plan says 'mixup', which this program does not know"
    ) as refused:
        read_plan({**PLAN, "mixup": 0.2})
    assert refused.value.hint == "update fedssh here, and start again"


def test_what_a_plan_has_beyond_the_first_version_is_named_by_its_loss() -> None:
    """So that a program from before refuses it, which knows no such loss."""
    later = {"class_weights": "balanced", "loss": "auto with class_weights"}
    assert read_plan({**PLAN, **later}).class_weights == "balanced"
    assert read_plan({**PLAN, **later}).loss == "auto"
    assert read_plan(PLAN).class_weights == "none"
    for wrong in ({"class_weights": "balanced"}, {"loss": "auto with class_weights"}, {"loss": "auto with "}):
        with pytest.raises(BundleError, match="'loss' of the training plan"):
            read_plan({**PLAN, **wrong})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", True),
        ("epochs", 1.5),
        ("epochs", None),
        ("patience", -1),
        ("optimizer", "os.system"),
        ("optimizer", ["adam"]),
        ("learning_rate", 0),
        ("learning_rate", NAN),
        ("learning_rate", "0.1"),
        ("learning_rate", math.inf),
        ("loss", "hinge"),
        ("publish", "always"),
        ("publish", None),
        ("metric", "kappa"),
        ("weight_decay", 0.1),  # with adam
        ("warmup", -1),
        ("augment", "mixup"),
        ("momentum", 1),
        ("momentum", -0.1),
        ("momentum", NAN),
        ("momentum", 0.5),  # with adam
        ("proximal", -1),
        ("proximal", math.inf),
        ("proximal", 10**400),  # which no float holds
        ("batch_size", 2**31),
        ("proximal", True),
        ("proximal", None),
    ],
)
def test_a_plan_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BundleError, match=f"'{name}' of the training plan is"):
        read_plan(written_loss({**PLAN, name: value}, "auto") if name in LATER else {**PLAN, name: value})
