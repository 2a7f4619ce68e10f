"""Numbers instead of classes with real networks: both engines, real rooms, predictions and exports in their units."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.definition.config import HISTORY, Prepared
from experiments.engines.memory import engine as memory
from experiments.engines.memory.history import read_history
from experiments.engines.ssh import engine as ssh
from fedssh.alice.fitting import new_trainer
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.charity.judge.probe import Probe
from fedssh.errors import SettingsError, UntrustedError
from fedssh.models import check_spec, get_weights, tasks
from fedssh.models.data.images import Images
from fedssh.models.recipe import Recipe
from fedssh.models.training import Trainer, resident
from fedssh.rules.plan import read_plan
from fedssh.rules.replay import Replay
from tests.integration.test_engines import PLAN, a_run, models
from tests.integration.test_in_use import LOAD, run


def bars(number: int, seed: int) -> Images:
    """Noise with a bright part, whose size is the number: 0 to 64, in units of 100."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9, number)
    pixels = random.random((number, 8, 8, 1), dtype=np.float32) * np.float32(0.4)
    for image, size in zip(pixels, sizes, strict=True):
        image[:size] += np.float32(0.6)
    return Images(pixels, (sizes * 100.5)[:, None].astype(np.float32))


TRAIN = bars(60, 1)
SPEC = check_spec({
    "name": "mlp", "width": 8, "depth": 1, "input": [8, 8, 1], "task": "regression",
    "targets": tasks.figures(TRAIN.labels),
})  # fmt: skip


def done(engine: Any, wanted: Any, prepared: Prepared, folder: Path) -> Any:
    """A run of an engine in a folder of its own."""
    folder.mkdir()
    return engine.run(wanted, prepared, folder, lambda share, text: None, 1)


@pytest.mark.parametrize(("policy", "schedule"), [("fedavg", "rounds"), ("merge", "relay")])
def test_memory_gives_the_weights_of_real_agents(tmp_path: Path, policy: str, schedule: str) -> None:
    plan = {**PLAN, "metric": "mae", "learning_rate": 0.05}
    wanted = a_run(policy, schedule, 2, plan=plan, metric="mae")
    parts = {name: bars(50 + 10 * number, 10 + number) for number, name in enumerate(wanted.site_names)}
    prepared = Prepared(SPEC, TRAIN, bars(60, 2), bars(60, 3), parts)
    here, there = tmp_path / "memory", tmp_path / "ssh"
    simulated, real = (done(engine, wanted, prepared, folder) for engine, folder in ((memory, here), (ssh, there)))
    assert models(here) == models(there)
    assert [point.test for point in simulated.points] == [point.test for point in real.points]
    first, last = (simulated.points[at].test["mae"] for at in (0, -1))
    assert last < 0.8 * first < 0.8 * 300, "in the target's units, and learned"
    records = read_history(there / HISTORY)
    replay = Replay()
    for record in records:
        replay.follow(record)
    claims = [record.fields["claim"] for record in records if "claim" in record.fields]
    assert claims and all(set(claim) == {"loss", "mae"} for claim in claims)


def traits(number: int, seed: int) -> Images:
    """The same, of which it is said whether the part is large, and whether its size is odd."""
    found = bars(number, seed)
    sizes = np.rint(found.labels[:, 0] / 100.5)
    return Images(found.images, np.stack([sizes > 4, sizes % 2], axis=1).astype(np.int64))


def test_memory_gives_the_weights_of_real_agents_with_several_labels_at_once(tmp_path: Path) -> None:
    spec = check_spec({"name": "mlp", "width": 8, "depth": 1, "input": [8, 8, 1], "task": "labels", "labels": 2})
    wanted = a_run("fedavg", "rounds", 2, plan={**PLAN, "metric": "f1"}, metric="f1")
    parts = {name: traits(50 + 10 * number, 10 + number) for number, name in enumerate(wanted.site_names)}
    prepared = Prepared(spec, traits(60, 1), traits(60, 2), traits(60, 3), parts)
    here, there = tmp_path / "memory", tmp_path / "ssh"
    simulated, real = (done(engine, wanted, prepared, folder) for engine, folder in ((memory, here), (ssh, there)))
    assert models(here) == models(there) and len(models(here)) > 1
    assert [point.test for point in simulated.points] == [point.test for point in real.points]
    assert simulated.points[-1].test["loss"] < simulated.points[0].test["loss"]
    replay = Replay()
    for record in read_history(there / HISTORY):
        replay.follow(record)


def test_predictions_of_several_labels_are_yes_and_no_by_name(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"class_names": np.array(["large", "odd"])}
    for split, number in (("train", 60), ("val", 40)):
        content = traits(number, number)
        arrays |= {f"{split}_images": np.rint(content.images * 255).astype(np.uint8), f"{split}_labels": content.labels}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    np.savez(tmp_path / "raw.npz", images=arrays["val_images"])
    state = f"--state={tmp_path / 'state'}"
    network = '--architecture={"name":"mlp","depth":1}'
    told = run("charity", "init", state, f"--data={tmp_path / 'data.npz'}", network, "--genesis-epochs=4")
    assert "says of each of 2 labels whether an image has it (large, odd): the task is labels" in told.stdout
    run("charity", "predict", tmp_path / "raw.npz", "--csv", tmp_path / "said.csv", state)
    with (tmp_path / "said.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "large", "odd", "p(large)", "p(odd)", "error"]
    said = np.array([[row["large"] == "yes", row["odd"] == "yes"] for row in rows])
    scored = json.loads(run("charity", "show", 1, "--json", state).stdout)["metrics"]
    assert (said == arrays["val_labels"]).mean() == pytest.approx(scored["accuracy"])
    run("charity", "export", "best", tmp_path / "model.keras", state)
    command = [sys.executable, "-W", "error", "-c", LOAD, str(tmp_path / "model.keras"), str(tmp_path / "raw.npz")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    expected = [float(row["p(large)"]) for row in rows]
    assert [float(one) for one in shown.split()] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def charity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that has just begun."""
    folder = tmp_path_factory.mktemp("charity")
    arrays: dict[str, Any] = {"class_names": np.array(["size"])}
    for split, number in (("train", 60), ("val", 40)):
        content = bars(number, number)
        arrays |= {f"{split}_images": np.rint(content.images * 255).astype(np.uint8), f"{split}_labels": content.labels}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    where = (f"--state={folder / 'state'}", f"--data={folder / 'data.npz'}", '--architecture={"name":"mlp","depth":1}')
    told = run("charity", "init", *where, "--genesis-epochs=5", "--batch-size=8", "--learning-rate=0.01")
    assert "predicts 1 number (size: mean " in told.stdout and "the task is regression" in told.stdout
    assert "genesis of fedssh: mae " in told.stdout
    refused = run("charity", "init", f"--state={folder / 'other'}", *where[1:], "--metric=f1", code=2)
    assert "--metric is 'f1', which is for the task classes, and the task is regression" in refused.stderr
    return folder


def test_predictions_are_numbers_in_their_units_and_what_the_history_scores(charity: Path, tmp_path: Path) -> None:
    data = np.load(charity / "data.npz")
    np.savez(tmp_path / "raw.npz", images=data["val_images"])
    out, state = tmp_path / "said.csv", f"--state={charity / 'state'}"
    run("charity", "predict", tmp_path / "raw.npz", "--csv", out, state)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "size", "error"]
    said = np.array([float(row["size"]) for row in rows])
    scored = json.loads(run("charity", "show", 1, "--json", state).stdout)["metrics"]
    assert np.abs(said - data["val_labels"][:, 0]).mean() == pytest.approx(scored["mae"], rel=1e-4)
    run("charity", "export", "best", tmp_path / "model.keras", state)
    command = [sys.executable, "-W", "error", "-c", LOAD, str(tmp_path / "model.keras"), str(tmp_path / "raw.npz")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert [float(one) for one in shown.split()] == pytest.approx(said.tolist(), rel=1e-4)
    refused = run("charity", "predict", tmp_path / "raw.npz", "--threshold=0.5", state, code=2)
    assert "--threshold is for two classes" in refused.stderr


def test_what_a_site_cannot_train_is_refused(tmp_path: Path) -> None:
    fields = {"batch_size": 8, "epochs": 1, "patience": 1, "optimizer": "sgd", "learning_rate": 0.1, "loss": "auto"}
    plan = read_plan({**fields, "metric": "mae"})
    with pytest.raises(SettingsError, match=r"metric accuracy does not fit a network that predicts 1 number"):
        new_trainer(SPEC, read_plan({**fields, "metric": "accuracy"}))
    with pytest.raises(ValueError, match="class weights need classes"):
        Trainer(SPEC, "sgd", 0.1, recipe=Recipe(class_weights="balanced"))
    with pytest.raises(UntrustedError, match="the task is regression, of which no --min-accuracy can be asked"):
        Limits(min_accuracy=0.5).check(SPEC, plan)
    classes = tmp_path / "classes.npz"
    labels = np.arange(20) % 2
    np.savez(classes, train_images=TRAIN.images[:20], train_labels=labels, class_names=np.array(["a", "b"]))
    network = Network(classes, 1, 1, None)
    with pytest.raises(SettingsError, match=r"labels are classes \(a, b\), the federation predicts 1 number"):
        network._take(SPEC)


def test_a_model_that_scores_the_same_and_cannot_be_trained_is_found_out() -> None:
    trainer = Trainer(SPEC, "sgd", 0.05)
    held = resident(TRAIN, SPEC)
    for number in range(20):
        trainer.epoch(held, np.random.default_rng(number).permutation(len(TRAIN)), 16)
    honest = trainer.weights()
    times = {name: 64 if "dense" in name else 1 / 64 if name == "output/kernel" else 1 for name in honest}
    scaled = {name: array * np.float32(times[name]) for name, array in honest.items()}
    plan = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16}
    probe = Probe(SPEC, plan, lambda: TRAIN)
    first = get_weights(Trainer(SPEC, "sgd", 0.05).network)
    assert probe.check(honest, ("a", honest), ("b", first)).sound
    assert not probe.check(scaled, ("a", honest), ("b", first)).sound
    found = probe._ready() and probe._trial(honest)
    assert found and found.moved[0] > 1 > found.kept[0], "mirrored targets are to be learned anew"
