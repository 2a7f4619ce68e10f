"""What a federation agrees on, as a table: whatever the coordinator accepts, every site can train."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.definition.read import read
from fedssh.charity.cli import InitSettings
from fedssh.errors import AgentError, BundleError, SettingsError
from fedssh.rules import plan as alice
from fedssh.rules.label_shares import label_shares
from fedssh.rules.metrics import OF_TASK
from fedssh.rules.terms import BY_CLASS, FORMS, LATER, OPTIMIZERS, Terms, agree, written_loss
from fedssh.settings import load

SETTINGS: dict[str, Any] = {
    "name": "test", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None,
    "metric": "accuracy", "publish": None, "batch_size": 64, "epochs": None, "patience": 10, "optimizer": "adam",
    "learning_rate": 0.001, "momentum": 0.0, "proximal": 0.0, "submissions_per_hour": 600, "invalid_per_hour": 60,
}  # fmt: skip


def agreed(**changes: Any) -> dict[str, Any]:
    return agree(SETTINGS | changes, {}, "binary_crossentropy")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 0.0}, "--learning-rate is 0.0, expected a number above 0"),
        ({"learning_rate": math.nan}, "--learning-rate is nan, expected a number above 0"),
        ({"learning_rate": math.inf}, "--learning-rate is inf, expected a number above 0"),
        ({"proximal": math.nan}, "--proximal is nan, expected a number from 0"),
        ({"proximal": math.inf}, "--proximal is inf, expected a number from 0"),
        ({"proximal": -1.0}, "--proximal is -1.0, expected a number from 0"),
        ({"optimizer": "sgd", "momentum": math.nan}, "--momentum is nan, expected a number from 0 to below 1"),
        ({"optimizer": "sgd", "momentum": 1.0}, "--momentum is 1.0, expected a number from 0 to below 1"),
        ({"momentum": 0.9}, "--momentum belongs to sgd, not to adam"),
        ({"weight_decay": 0.1}, "--weight-decay belongs to adamw and sgd, not to adam"),
        ({"clip_norm": -1.0}, "--clip-norm is -1.0, expected a number from 0"),
        ({"warmup": "2 weeks"}, "--warmup is '2 weeks', expected a whole number of steps, or such as '2 epochs'"),
        ({"augment": "flips,mixup"}, "--augment is 'flips,mixup', expected none, or some of flips,shifts,rotations,"),
        ({"optimizer": "SGD"}, "--optimizer is 'SGD', expected one of adam, "),
        ({"optimizer": "lion"}, "--optimizer is 'lion', expected one of adam, "),
        ({"margin": math.nan}, "the margin of the gate is nan"),
        ({"gate": "ladder", "margin": 0.0}, "above 0 for a ladder"),
        (
            {"calibrate": "labels", "class_weights": "balanced"},
            "--calibrate labels goes with no class weights, found b",
        ),
        ({"unlabelled": "encoder"}, "--unlabelled is 'encoder', expected none, fixmatch or autoencoder"),
        ({"unlabelled": "fixmatch", "policy": "split:dense1"}, "unlabelled takes a network in one piece"),
        ({"calibrate": "sites"}, "--calibrate is 'sites', expected one of none, labels"),
        ({"policy": "fedavg", "publish": "improved"}, "the policy fedavg takes one update per round"),
        ({"policy": "fedavg", "schedule": "relay"}, "trains in rounds, not in a relay"),
    ],
)
def test_what_no_site_could_train_is_refused_at_once(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        agreed(**changes)
    assert reason in str(refused.value)


@pytest.mark.parametrize("policy", ["best", "merge", "fedavg:server=yogi"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_site_reads_the_plan_that_was_agreed(policy: str, optimizer: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    plan = agreed(policy=policy, optimizer=optimizer, momentum=momentum, proximal=0.1)["plan"]
    read = alice.read_plan(plan)
    assert (read.optimizer, read.momentum, read.proximal) == (optimizer, momentum, 0.1)


OLD_PLAN = {
    "batch_size": 64, "patience": 10, "optimizer": "adam", "learning_rate": 0.001, "momentum": 0.0, "proximal": 0.0,
    "metric": "accuracy", "epochs": 100, "publish": "improved", "loss": "binary_crossentropy",
}  # fmt: skip
LATER_TERMS: dict[str, Any] = {
    "class_weights": "balanced", "learning_rate_schedule": "cosine", "warmup": "2 epochs", "clip_norm": 1.0,
    "weight_decay": 0.01, "augment": "flips,contrast", "local": "batchnorm",
    "site_rates": 0.25, "precision": "mixed", "calibrate": "labels",
    "unlabelled": "fixmatch:threshold=0.8,weight=1,ratio=3,decay=0.9",
    "privacy": {"unit": "image", "clip": 1.0, "noise": 1.1, "delta": 1e-5, "budget": 8.0},
}  # fmt: skip
IN_ROUNDS = ("local", "privacy")


def test_a_plan_without_what_came_later_is_the_plan_of_before() -> None:
    assert agreed()["plan"] == OLD_PLAN
    usual = {name: getattr(Terms, name) for name in LATER}
    assert agreed(**usual)["plan"] == OLD_PLAN


@pytest.mark.parametrize(("name", "value"), LATER_TERMS.items())
def test_what_came_later_stands_in_the_plan_and_is_refused_by_programs_from_before(name: str, value: Any) -> None:
    rounds = {"epochs": 1, "publish": "session"} if name in IN_ROUNDS else {}
    found = agreed(optimizer="sgd", policy="fedavg" if rounds else "best", **{name: value})["plan"]
    others = {**OLD_PLAN, "optimizer": "sgd", **rounds}
    assert found == {**others, name: value, "loss": f"binary_crossentropy with {name}"}
    assert found["loss"] not in alice.LOSSES, "of the plan's members that is one that Alice always checked"
    if name == "calibrate":
        found["label_shares"] = label_shares([1, 3])  # the coordinator adds them when she has looked at her holdout
    read = getattr(alice.read_plan(found), name)
    assert (read.fields() if name == "privacy" else read) == value


PRIVATE = {"policy": "fedavg", "privacy": "unit=image,clip=1,noise=1.1,delta=1e-5,budget=8"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "best"}, "--privacy belongs to policies with rounds and whole networks, not to best"),
        ({"policy": "merge"}, "--privacy belongs to policies with rounds and whole networks, not to merge"),
        ({"policy": "split:dense1"}, "--privacy takes a network in one piece, and under split it is in"),
        ({"class_weights": "balanced"}, "--privacy goes with no class-weights, found balanced"),
        ({"local": "batchnorm"}, "--privacy goes with no local, found batchnorm"),
        ({"clip_norm": 1.0}, "--privacy goes with no clip-norm, found 1.0"),
        ({"site_rates": 0.5}, "--privacy goes with no site-rates, found 0.5"),
        ({"site_scores": "on"}, "--site-scores tells of images what no noise hides"),
        ({"privacy": "unit=site,clip=1,noise=1,delta=1e-5,budget=8"}, "its noise is 190 times the signal"),
    ],
)
def test_what_privacy_does_not_cover_is_refused_beside_it(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        agreed(**PRIVATE | changes)
    read = load(Terms, "charity", {"privacy": PRIVATE["privacy"]}, {})
    assert agreed(policy="fedavg", privacy=read.privacy)["plan"]["privacy"]["noise"] == 1.1


def test_masks_take_a_rate_beside_privacy() -> None:
    masks = {**PRIVATE, "policy": "fedavg:seal=masks"}
    with pytest.raises(SettingsError, match="has each site's account tell how many images it has"):
        agreed(**masks)
    with_rate = load(Terms, "charity", {"privacy": f"{PRIVATE['privacy']},rate=0.1"}, {}).privacy
    assert agreed(**masks | {"privacy": with_rate})["plan"]["privacy"]["rate"] == 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evidence": "on"}, "--evidence tells of single sites, and seal=masks hides them"),
        ({"site_scores": "on"}, "--site-scores tells of single sites"),
        ({"local": "batchnorm"}, "sums under masks are of all"),
        ({"policy": "fedavg:seal=masks,clip=1"}, "seal=masks shows none"),
        ({"policy": "best:seal=masks"}, "has no option"),
    ],
)
def test_what_tells_of_single_sites_is_refused_under_masks(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        agreed(**{"policy": "fedavg:seal=masks"} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"publish": "improved"}, "'privacy' of the training plan belongs to rounds"),
        ({"clip_norm": 1.0}, "privacy goes with no clip-norm"),
        ({"privacy": {"unit": "image"}}, "clip is missing"),
    ],
)
def test_a_site_refuses_a_plan_whose_privacy_does_not_hold(changes: dict[str, Any], said: str) -> None:
    plan = agreed(**PRIVATE)["plan"] | changes
    with pytest.raises(BundleError, match=said):
        alice.read_plan(written_loss(plan, "auto"))


@pytest.mark.parametrize("metric", OF_TASK["classes"])
def test_a_metric_that_sites_go_by_is_newer_than_the_others(metric: str) -> None:
    found = agreed(metric=metric)["plan"]
    loss = "binary_crossentropy with metric" if metric in BY_CLASS else "binary_crossentropy"
    assert found == {**OLD_PLAN, "metric": metric, "loss": loss}
    assert alice.read_plan(found).metric == metric


def test_all_that_came_later_is_tested() -> None:
    assert LATER_TERMS.keys() == set(LATER)


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("warmup", "7", 7), ("warmup", "1 epoch", "1 epochs"), ("warmup", "30epochs", "30 epochs"),
        ("augment", "contrast, flips", "flips,contrast"), ("augment", "flips,flips", "flips"),
    ],
)  # fmt: skip
def test_the_same_is_written_in_one_way(name: str, written: str, value: Any) -> None:
    read = getattr(load(Terms, "charity", {name: written}, {}), name)
    assert read == value == FORMS[name](value)


def test_the_rates_are_agreed() -> None:
    assert agreed()["rates"] == {"submissions_per_hour": 600, "invalid_per_hour": 60}
    assert agreed(submissions_per_hour=0, invalid_per_hour=0)["rates"] == {
        "submissions_per_hour": 0, "invalid_per_hour": 0,
    }  # fmt: skip


def test_what_is_left_open_is_written_out() -> None:
    assert (agreed()["schedule"], agreed()["plan"]["publish"], agreed()["plan"]["epochs"]) == ("free", "improved", 100)
    rounds = agreed(policy="median")
    assert (rounds["schedule"], rounds["plan"]["publish"], rounds["plan"]["epochs"]) == ("rounds", "session", 1)
    assert agreed(publish="session")["plan"]["epochs"] == 1
    assert agreed(policy="median", epochs=7)["plan"]["epochs"] == 7


EDGES = [-1, 0, 1e-12, 0.5, 0.99, 0.9999, 0.99999, 1, 2, 1001, 2e6, 2**31 - 1, 2**31, 1e300, math.inf, math.nan]
WORDS = [
    "adam", "lion", "improved", "session", "always", "accuracy", "loss", "on", "ladder", "ajar", "free", "relay",
    "parameter-free-ladder", "none", "balanced", "cosine", "step", "shifts,flips", " rotations , contrast",
    "none,flips",
]  # fmt: skip
WORDED = ["class_weights", "learning_rate_schedule", "augment"]
NUMBERS = ["margin", "batch_size", "epochs", "patience", "learning_rate", "momentum", "proximal", "sessions"]


NUMBERS += ["clip_norm", "weight_decay", "warmup"]


def by_flag(name: str, value: Any, folder: Path) -> Any:
    return getattr(load(Terms, "charity", {name: str(value)}, {}), name)


def by_program(name: str, value: Any, folder: Path) -> Any:
    needs_sgd = {"optimizer": "sgd"} if name in ("momentum", "weight_decay") else {}
    found = agreed(**{**needs_sgd, name: value})
    return {**vars(Terms()), **found, **found["plan"]}[name]


def by_site(name: str, value: Any, folder: Path) -> Any:
    plan = agreed(optimizer="sgd")["plan"] | {name: value}
    return getattr(alice.read_plan(written_loss(plan, "auto")), name)


def by_experiment(name: str, value: Any, folder: Path) -> Any:
    (folder / "mine.toml").write_text(f'question = "?"\n[plan]\noptimizer = "sgd"\n[[runs]]\n{name} = {value!r}\n')
    (run,) = read(folder / "mine.toml").runs
    return {**vars(Terms()), **vars(run), **run.plan}[name]


@pytest.mark.parametrize("name", [*NUMBERS, "optimizer", "publish", "metric", "gate", "schedule", *WORDED])
def test_whoever_reads_a_term_takes_the_same_values(name: str, tmp_path: Path) -> None:
    readers = [by_flag, by_program, by_experiment]
    readers += [by_site] if name in {field.name for field in dataclasses.fields(alice.Plan)} else []
    taken = 0
    for value in EDGES if name in NUMBERS else WORDS:
        answers = set()
        for take in readers:
            try:
                answers.add(str(take(name, value, tmp_path)))
            except (AgentError, ValueError):
                answers.add("refused")
        assert len(answers) == 1, (name, value, answers)
        taken += answers != {"refused"}
    assert 0 < taken < len(EDGES)


def test_a_term_has_a_flag_with_its_words() -> None:
    for field in dataclasses.fields(Terms):
        assert field in dataclasses.fields(InitSettings)
        assert field.metadata["help"].rstrip("]").endswith((".", "rounds", "regression")), field.name
        assert field.default is None or FORMS[field.name](field.default) == field.default


def test_terms_may_stand_in_a_file_and_flags_beat_it(tmp_path: Path) -> None:
    path = tmp_path / "hospitals.toml"
    path.write_text('name = "hospitals"\npolicy = "median"\ndata = "xrays.npz"\nmargin = 0\nseed = 4\n')
    found = load(InitSettings, "charity", {"terms": str(path), "policy": "trimmed:2"}, {"CHARITY_SEED": "5"})
    assert (found.name, found.policy, found.margin, found.seed) == ("hospitals", "trimmed:2", 0.0, 5)
    assert agree(vars(found), {}, "auto")["federation"] == "hospitals"
    path.write_text('policy = "medain"\n')
    with pytest.raises(SettingsError, match=r"hospitals\.toml: policy: no policy is called 'medain'") as error:
        load(InitSettings, "charity", {"terms": str(path), "data": "x"}, {})
    assert error.value.hint == "`charity policies` lists policies and their options"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("best", "--local batchnorm belongs to policies with rounds, not to best"),
        ("fedavg:server=adam", "--local batchnorm goes with no server optimizer, found adam"),
    ],
)
def test_what_stays_at_sites_needs_plain_rounds(policy: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        agreed(policy=policy, local="batchnorm")
