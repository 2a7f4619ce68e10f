"""Numbers instead of classes: what the labels are, what is agreed and measured, and that lower errors are better."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from experiments.engines.memory.coordinator import Coordinator
from experiments.engines.memory.history import History, read_history
from experiments.engines.memory.models import Weights
from experiments.engines.memory.simulation import Checkpoint, Session, Simulation, Site
from fedssh.alice.session import improved
from fedssh.errors import BundleError, DecisionError, LedgerError, SettingsError
from fedssh.forms import canonical
from fedssh.manifest import Claim
from fedssh.models import check_spec, score, tasks
from fedssh.models.data import images, labels
from fedssh.models.data.classes import NamesError
from fedssh.models.data.holdout import Cut
from fedssh.models.data.reading import Reading
from fedssh.rules.events import Local, Record
from fedssh.rules.gate import Gate, best, decide, impossible, passes
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.rules.replay import Replay
from fedssh.rules.terms import agree, least_spec
from tests.unit.test_memory_engine import SETTINGS
from tests.unit.test_views import listed

MADE = ("genesis", "accepted", "round-accepted")
TARGETS = [{"mean": 10.0, "deviation": 4.0}]
SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "task": "regression", "targets": TARGETS}


# what a spec says


def test_a_spec_says_what_is_predicted() -> None:
    assert check_spec(SPEC) == SPEC
    assert (tasks.number_of(SPEC), tasks.measure_of(SPEC), tasks.guessing(SPEC)) == (1, "mae", 1.0)
    standardised = tasks.standardised(np.array([[14.0], [6.0]]), SPEC)
    assert standardised.tolist() == [[1.0], [-1.0]]
    assert tasks.in_units(standardised, SPEC).tolist() == [[14.0], [6.0]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "ranking"}, "the task of the network is 'ranking'"),
        ({"task": "classes"}, "the task of the network is 'classes'"),
        ({"targets": []}, "targets must be a list of 1"),
        ({"targets": [{"mean": 1.0}]}, "a target has a mean and a deviation"),
        ({"targets": [{"mean": 1.0, "deviation": 0.0}]}, "the deviation of a target is 0"),
        ({"targets": [{"mean": float("nan"), "deviation": 1.0}]}, "a target has a mean and a deviation"),
        ({"classes": 2}, "mlp has no parameter 'classes'"),
    ],
)
def test_a_spec_of_a_stranger_is_bounded(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_spec({**SPEC, **changes})


# scores


def test_errors_are_in_the_targets_units_and_as_scikit_learn_has_them() -> None:
    random = np.random.default_rng(3)
    spec = {**SPEC, "targets": [*TARGETS, {"mean": -1.0, "deviation": 0.5}]}
    outputs, truth = random.normal(size=(50, 2)), random.normal(size=(50, 2)) * [4, 0.5] + [10, -1]
    found, said = score.measured(outputs, truth, spec), tasks.in_units(outputs, spec)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, said))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, said))
    assert found["r2"] == pytest.approx(reference.r2_score(truth, said))
    assert found["loss"] == pytest.approx(reference.mean_squared_error(tasks.standardised(truth, spec), outputs))
    each = reference.mean_absolute_error(truth, said, multioutput="raw_values")
    assert found["per_target_mae"] == pytest.approx(each.tolist())
    assert impossible(json.loads(json.dumps(found))) is None
    assert score.measured(outputs[:1], truth[:1], spec)["r2"] is None
    with pytest.raises(ValueError, match="1 of the predictions are not finite"):
        score.measured(np.array([[np.nan, 0.0]]), truth[:1], spec)


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"loss": 1.0, "mae": -1.0}, "mae"),
        ({"loss": 1.0, "mae": None}, "mae"),
        ({"loss": 1.0, "r2": 1.5}, "r2"),
        ({"loss": 1.0, "mae": 700.0, "rmse": 900.0, "r2": -40.0, "per_target_mae": [3.0, 1397.0]}, None),
        ({"loss": 1.0, "per_target_mae": [-3.0]}, "per_target_mae"),
    ],
)
def test_what_no_model_can_score(metrics: dict[str, Any], name: str | None) -> None:
    assert impossible(metrics) == name


LABELS = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "task": "labels", "labels": 3}


def test_several_labels_are_scored_as_scikit_learn_does() -> None:
    random = np.random.default_rng(4)
    truth, outputs = random.integers(0, 2, (60, 3)), random.random((60, 3))
    truth[:, 2] = 1
    found, said = score.measured(outputs, truth, check_spec(LABELS)), outputs > 0.5
    assert found["accuracy"] == pytest.approx(1 - reference.hamming_loss(truth, said))
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert found["f1"] == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(truth[:, :2], outputs[:, :2], average="macro"))
    assert found["per_label_auc"][2] is None
    one = [reference.log_loss(truth[:, at], outputs[:, at], labels=[0, 1]) for at in range(3)]
    assert found["loss"] == pytest.approx(np.mean(one))
    tables = reference.multilabel_confusion_matrix(truth, said)
    assert found["confusion_per_label"] == tables.reshape(3, 4).tolist()
    assert impossible(json.loads(json.dumps(found))) is None
    assert impossible({"loss": 1.0, "confusion_per_label": [[1, 2, 3]]}) == "confusion_per_label"
    assert (tasks.number_of(LABELS), tasks.measure_of(LABELS)) == (3, "accuracy")


def test_what_several_labels_agree_on() -> None:
    found = agree({**SETTINGS, "metric": None}, LABELS, "binary_crossentropy")
    assert (found["plan"]["metric"], found["plan"]["loss"], found["margin"]) == (
        "accuracy",
        "binary_crossentropy",
        0.01,
    )
    assert agree({**SETTINGS, "metric": "subset_accuracy"}, LABELS, "")["plan"]["metric"] == "subset_accuracy"
    with pytest.raises(SettingsError, match="'mae', which is for the task regression, and the task is labels"):
        agree({**SETTINGS, "metric": "mae"}, LABELS, "")


# lower is better


def scored(mae: float, loss: float = 1.0) -> dict[str, Any]:
    return {"mae": mae, "rmse": 2 * mae, "r2": 0.0, "loss": loss}


@pytest.mark.parametrize(
    ("mae", "loss", "accept", "reason"),
    [
        (40.0, 9.0, True, "mae 40.0000 beats 45.0000"),
        (46.0, 0.1, False, "mae 46.0000 is above the current 45.0000"),
        (45.0, 0.9, True, "mae 45.0000 is equal, loss 0.9000 beats 1.0000"),
        (45.0, 1.0, False, "mae 45.0000 is equal, loss 1.0000 is not below the current 1.0000"),
    ],
)
def test_best_keeps_the_smaller_error(mae: float, loss: float, accept: bool, reason: str) -> None:
    assert best(scored(mae, loss), scored(45.0), "mae") == (accept, reason)


@pytest.mark.parametrize(
    ("gate", "mae", "accept", "reason"),
    [
        ("on", 39.0, True, "mae 39.0000 beats the best so far, 40.0000"),
        ("on", 40.0, True, "mae 40.0000 equals the best so far, 40.0000"),
        ("on", 42.0, True, "mae 42.0000 is within 2 of the best so far, 40.0000"),
        ("on", 42.5, False, "mae 42.5000 is more than 2 above the best so far, 40.0000"),
        ("ladder", 42.5, True, "mae beats 45.0000 by more than 2"),
        ("ladder", 43.0, False, "mae does not beat 45.0000 by more than 2"),
        ("off", 99.0, True, "mae 99.0000 after 45.0000, without a gate"),
    ],
)
def test_the_gate_lets_small_errors_through(gate: str, mae: float, accept: bool, reason: str) -> None:
    assert passes(Gate(gate, 2.0, "mae"), "mae", scored(mae), scored(45.0), 40.0) == (accept, reason)


def test_of_mixes_the_one_with_the_smallest_error_counts() -> None:
    mixes = [(1.0, scored(44.0)), (0.5, scored(41.0)), (0.25, scored(43.0))]
    decided = decide(read_policy("merge"), Gate("on", 1.0, "mae"), "mae", scored(45.0), 45.0, mixes)
    assert (decided.accept, decided.share) == (True, 0.5)


def test_a_margin_of_an_error_may_be_of_any_size_and_one_of_a_share_may_not() -> None:
    assert Gate("on", 7.0, "rmse").margin == 7.0
    with pytest.raises(ValueError, match="the margin of the gate is 7"):
        Gate("on", 7.0, "r2")


@pytest.mark.parametrize(
    ("loss", "mae", "better"), [(0.4, 4.0, True), (0.6, 4.0, False), (0.4, 5.0, False), (0.4, float("nan"), False)]
)
def test_a_site_publishes_what_has_both_a_lower_loss_and_a_lower_error(loss: float, mae: float, better: bool) -> None:
    assert improved(Local.of("mae", loss, mae), Local.of("mae", 0.5, 5.0)) is better


# what is agreed


def agreed(**settings: Any) -> dict[str, Any]:
    return agree({**SETTINGS, "metric": None, **settings}, SPEC, "mean_squared_error")


def test_the_metric_goes_with_the_task_and_a_margin_is_in_its_units() -> None:
    found = agreed(margin=0.05)
    assert (found["plan"]["metric"], found["plan"]["loss"], found["margin"]) == ("mae", "mean_squared_error", 0.2)
    assert (agreed(metric="r2", margin=0.05)["margin"], agreed(metric="rmse", margin=0.5)["margin"]) == (0.05, 2.0)
    assert read_plan(found["plan"]).metric == "mae"
    classes = {**SPEC, "classes": 2}
    for name in ("task", "targets"):
        del classes[name]
    assert agree({**SETTINGS, "metric": None}, classes, "binary_crossentropy")["plan"]["metric"] == "accuracy"
    assert agree({**SETTINGS, "metric": "rmse"}, least_spec("rmse"), "")["plan"]["metric"] == "rmse"


@pytest.mark.parametrize(
    ("settings", "words", "hint"),
    [
        (
            {"metric": "accuracy"},
            "'accuracy', which is for the task classes, and the task is regression",
            "mae or rmse",
        ),
        ({"class_weights": "balanced"}, "the task is regression: there are no classes to weigh", "leave"),
        ({"calibrate": "labels"}, "the task is regression: there are no classes to calibrate for", "leave"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(settings: dict[str, Any], words: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        agreed(**settings)
    assert caught.value.hint and hint in caught.value.hint


# what a site claims


def claim(metrics: dict[str, float]) -> bytes:
    fields = {
        "kind": "claim", "id": "00000000-0000-7000-8000-000000000001", "architecture": "0" * 64, "builds_on": 2,
        "session": 1, "epoch": 1, "examples": 9, "started": "2026-01-31T12:00:00.123Z", "metrics": metrics,
        "created": "2026-01-31T12:00:00.123Z",
    }  # fmt: skip
    return canonical(fields)


@pytest.mark.parametrize("metrics", [{"loss": 0.5, "accuracy": 0.25}, {"loss": 0.5, "mae": 31.5}])
def test_a_claim_says_what_was_measured_and_nothing_else(metrics: dict[str, float]) -> None:
    read = Claim.from_bytes(claim(metrics))
    assert read.to_bytes() == claim(metrics)
    assert Local.read(metrics, "the claim").fields() == metrics
    assert read.metrics is not None and (read.metrics.measure, read.metrics.value) == list(metrics.items())[1]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [({"loss": 0.5}, "lacks 'accuracy'"), ({"loss": 0.5, "accuracy": 1.0, "mae": 1.0}, "says both accuracy and mae")],
)
def test_a_claim_says_one_thing(metrics: dict[str, float], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Claim.from_bytes(claim(metrics))
    with pytest.raises(LedgerError, match=words):
        Local.read(metrics, "the claim")


# a whole history


class Nearing:
    """Each site moves the model by its step, and claims an error."""

    def __init__(self, steps: dict[str, float]) -> None:
        self._steps = steps

    def examples(self, site: str) -> int:
        return 100

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        moved = {name: array + np.float32(self._steps[site]) for name, array in weights.items()}
        result: Future[Session] = Future()
        result.set_result(Session((Checkpoint(1, Local.of("mae", 0.5, 3.0), moved),), 1, 0.001))
        return result


def judge(model: Weights, against: Weights | None = None, /) -> dict[str, Any]:
    """How far the last weight is from 10; of numbers nothing is paired."""
    assert against is None
    mae = abs(10.0 - float(model["output/bias"][0]))
    return {"loss": round((mae / 4) ** 2, 6), "mae": round(mae, 6), "rmse": round(mae, 6), "r2": None}


def played(path: Path, **settings: Any) -> list[Record]:
    """The history of two sites, of which one comes nearer to the truth and the other goes away from it."""
    steps = {"alice-1": 1.5, "alice-2": -1.0}
    with History(path) as written:
        coordinator = Coordinator(written, SPEC, judge, lambda model, clock: None)
        sites = {name: Site(name, number, 100, 1.0) for number, name in enumerate(steps, 1)}
        simulation = Simulation(coordinator, sites, Nearing(steps), keep_last=True)
        first = {"dense1/kernel": np.zeros((4, 2), np.float32), "output/bias": np.zeros((1,), np.float32)}
        coordinator.begin(agreed(**settings), 1, first, 0, list(sites))
        simulation.run()
    return read_history(path)


def history_lines(records: list[Record]) -> list[str]:
    return listed([{**one.fields, "hash": one.hash} for one in records]).splitlines()


def followed(records: list[Record]) -> Replay:
    replay = Replay()
    for record in records:
        replay.follow(record)
    return replay


@pytest.mark.parametrize("policy", ["best", "merge", "polyak", "fedavg"])
@pytest.mark.parametrize("gate", ["on", "ladder"])
def test_a_history_by_an_error_follows_its_own_rules(tmp_path: Path, policy: str, gate: str) -> None:
    records = played(tmp_path / "h", policy=policy, gate=gate, margin=0.05, sessions=3)
    state = followed(records).state
    assert state is not None and state.current.of > 1, "nothing came nearer, so nothing was compared"
    every = [record.fields["metrics"] for record in records if record.event in MADE]
    assert state.current.bar == min(one["mae"] for one in every)
    assert all(history_lines(records))


def test_what_the_rules_do_not_give_is_noticed(tmp_path: Path) -> None:
    records = played(tmp_path / "h", policy="best", sessions=2)
    at = next(at for at, record in enumerate(records) if record.event == "refused" and record.fields["metrics"])
    assert "above the current" in records[at].fields["reason"]
    fields = dict(records[at].fields, event="accepted")
    text = canonical(fields)
    told = dataclasses.replace(records[at], text=text)
    with pytest.raises(DecisionError, match="the policy best refuses it"):
        followed([*records[:at], told])


def test_people_see_what_is_measured(tmp_path: Path) -> None:
    records = played(tmp_path / "h", policy="best", sessions=1)
    lines = history_lines(records)
    assert "CLAIMED MAE / LOSS" in lines[0] and "SCORED MAE / LOSS" in lines[0]
    assert any("3.0000 / 0.5000" in line and "8.5000" in line for line in lines)


# data


@pytest.mark.parametrize(
    ("given", "task"),
    [
        (np.array([0, 1, 1]), "classes"),
        (np.array([25, 151, 346]), "classes"),
        (np.array([0.0, 1.0, 2.0]), "classes"),
        (np.array([25.0, 151.0, 346.0]), "regression"),
        (np.array([[0.5], [1.0]]), "regression"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), "classes"),
        (np.array([[0.0, 1.5], [1.0, 0.0]]), "regression"),
        (np.array([[1, 1], [1, 0]]), "labels"),
        (np.array([[0.0, 0.0], [1.0, 0.0]]), "labels"),
    ],
)
def test_what_labels_look_like(given: np.ndarray, task: str) -> None:
    assert labels.task_of([given]) == task


@pytest.mark.parametrize(
    ("texts", "task"),
    [
        (["NORMAL", "12.5"], "classes"),
        (["3", "7"], "classes"),
        (["3.5", "7"], "regression"),
        (["0.0", "1"], "classes"),
        (["0\x1f1", "1\x1f1"], "labels"),
        (["0\x1f1.5", "1\x1f1"], "regression"),
    ],
)
def test_what_labels_of_a_table_look_like(texts: list[str], task: str) -> None:
    assert labels.task_of_texts(texts) == task


def table(folder: Path, columns: str, rows: list[str]) -> Path:
    for number in range(len(rows)):
        Image.fromarray(np.full((2, 2), 80 * number, np.uint8)).save(folder / f"{number}.png")
    path = folder / "table.csv"
    path.write_text(f"file,{columns}\n" + "".join(f"{number}.png,{row}\n" for number, row in enumerate(rows)))
    return path


def test_a_table_has_one_number_or_several(tmp_path: Path) -> None:
    path = table(tmp_path, "age,weight", ["30.5,70", "41,81.5", "52.25,60"])
    one = Reading(columns={"label": "age"})
    assert images.task(path, one) == "regression"
    found = images.describe(path, one)
    assert (found.task, found.classes, found.names) == ("regression", 1, ("age",))
    both = Reading(columns={"label": "age+weight"}, task="regression", names=("weight", "age"))
    loaded = images.load(path, (2, 2, 1), 2, "train", both)
    by_brightness = loaded.labels[np.argsort(loaded.images[:, 0, 0, 0])]
    assert by_brightness.tolist() == [[70.0, 30.5], [81.5, 41.0], [60.0, 52.25]]
    with pytest.raises(NamesError, match="here are age, the federation's are weight"):
        images.load(
            path, (2, 2, 1), 1, "train", Reading(columns={"label": "age"}, task="regression", names=("weight",))
        )


def test_a_table_has_several_labels_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, "ill,old", ["0,1", "1,1", "0,0"])
    both = Reading(columns={"label": "ill+old"})
    found = images.describe(path, both)
    assert (found.task, found.classes, found.names) == ("labels", 2, ("ill", "old"))
    held = dataclasses.replace(both, task="labels", names=("old", "ill"))
    loaded = images.load(path, (2, 2, 1), 2, "train", held)
    assert loaded.labels[np.argsort(loaded.images[:, 0, 0, 0])].tolist() == [[1, 0], [1, 1], [0, 0]]
    other = dataclasses.replace(held, names=("old", "sick"), given={"ill": ""})
    with pytest.raises(NamesError, match="the federation also predicts sick"):
        images.load(path, (2, 2, 1), 2, "train", other)


def test_data_of_another_task_are_refused_with_both_sides(tmp_path: Path) -> None:
    numbers, classes = tmp_path / "numbers.npz", tmp_path / "classes.npz"
    pixels = np.zeros((4, 2, 2), np.uint8)
    np.savez(numbers, train_images=pixels, train_labels=np.array([1.5, 2, 3, 4]))
    np.savez(classes, train_images=pixels, train_labels=np.array([0, 1, 0, 1]), class_names=np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"numbers to predict \(regression\), expected whole class numbers"):
        images.load(numbers, (2, 2, 1), 2, "train", Reading(task="classes"))
    with pytest.raises(ValueError, match=r"the labels are classes \(a, b\), the federation predicts 1 number"):
        images.load(classes, (2, 2, 1), 1, "train", Reading(task="regression"))
    folder = tmp_path / "folder" / "NORMAL"
    folder.mkdir(parents=True)
    Image.fromarray(pixels[0]).save(folder / "1.png")
    with pytest.raises(ValueError, match="the label 'NORMAL', expected a number"):
        images.load(tmp_path / "folder", (2, 2, 1), 1, "train", Reading(task="regression"))


def test_a_holdout_of_numbers_is_cut_and_told_from_another(tmp_path: Path) -> None:
    path, pixels = tmp_path / "numbers.npz", np.zeros((20, 2, 2), np.uint8)
    np.savez(path, train_images=pixels, train_labels=np.arange(20) * 1.5)
    cut = Reading(cut=Cut(0.25, 1), task="regression")
    train, val = (images.load(path, (2, 2, 1), 1, split, cut).labels[:, 0] for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5)
    assert sorted([*train, *val]) == (np.arange(20) * 1.5).tolist()
    before = images.rows(path, Reading(task="regression"))
    np.savez(path, train_images=pixels, train_labels=np.arange(20) * 2.5)
    assert images.rows(path, Reading(task="regression")) != before
