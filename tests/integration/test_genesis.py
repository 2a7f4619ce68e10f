"""How a federation begins: from random or given weights, trained or as they are. Which files it refuses: test_given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.charity import genesis
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.errors import AgentError, SettingsError
from fedssh.files import sha256_file
from fedssh.ledger import Ledger
from fedssh.weights import read_header, read_weights, write_weights

SPEC = {"name": "mlp", "depth": 1, "width": 3, "input": [4, 4, 1], "classes": 2}
SHAPES = {"dense1/kernel": (16, 3), "dense1/bias": (3,), "output/kernel": (3, 1), "output/bias": (1,)}
PLAN = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 8, "metric": "accuracy"}
TERMS: dict[str, Any] = {
    "federation": "test", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None,
    "plan": PLAN, "spec": SPEC,
}  # fmt: skip
RANDOM = np.random.default_rng(0)
WEIGHTS = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def arrays_of(tensors: dict[str, np.ndarray], separator: str = ":") -> dict[str, np.ndarray]:
    return {separator.join(name.rsplit("/", 1)): array for name, array in tensors.items()}


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def images_file(path: Path, *splits: str) -> Path:
    random = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for split in splits:
        labels = np.arange(24) % 3 % 2  # a third is of class 1
        pixels = random.integers(0, 100, (24, 4, 4), dtype=np.uint8) + 100 * labels[:, None, None].astype(np.uint8)
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels}
    return npz(path, arrays)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a train and a val split."""
    return images_file(tmp_path_factory.mktemp("data") / "charity.npz", "train", "val")


@pytest.fixture(scope="module")
def judge(data: Path) -> Any:
    """The real judge, started once."""
    judge = Judge(judge_command(data, SPEC))
    yield judge
    judge.stop()


class Kept:
    """The module's judge, which stays for the next test when a federation has begun."""

    def __init__(self, judge: Judge) -> None:
        self.start, self.ask = judge.start, judge.ask

    def stop(self) -> None:
        """Stays."""


@pytest.fixture
def begin(tmp_path: Path, data: Path, judge: Judge) -> Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Begins a federation; returns its genesis record's fields and its first model."""

    def begin(plan: dict[str, Any] = PLAN, **start: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        folders = Folders(tmp_path / f"coordinator-{len(list(tmp_path.glob('coordinator-*')))}")
        agreement = TERMS | {"plan": plan}
        kept: Any = Kept(judge)
        record = genesis.begin(folders, data, agreement, 5, {}, kept, genesis.Start(**start))
        path = folders.model(record.fields["model"]["sha256"])
        return record.fields, read_weights(path, SHAPES)

    return begin


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, bool]:
    return {name: np.array_equal(one[name], other[name]) for name in one}


def test_given_weights_are_the_first_model_when_nothing_trains_them(tmp_path: Path, begin: Any) -> None:
    model = tmp_path / "model.safetensors"
    write_weights(model, WEIGHTS, SPEC)
    said: list[str] = []
    fields, first = begin(epochs=0, weights=model, tell=said.append)
    assert all(same(first, WEIGHTS).values())
    assert fields["weights"] == {"sha256": sha256_file(model), "tensors": 4, "of": 4}
    assert (fields["epochs"], fields["examples"]) == (0, 0)
    assert said == [f"4 of 4 tensors come from {model}"]


@pytest.mark.parametrize("separator", [":", "/"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_an_npz_gives_what_fits_and_the_rest_stays_random(
    tmp_path: Path, begin: Any, separator: str, kind: type[np.floating]
) -> None:
    arrays = {
        **arrays_of({name: WEIGHTS[name].astype(kind) for name in ("dense1/kernel", "dense1/bias")}, separator),
        f"conv10{separator}kernel": np.zeros((2, 2)),
        f"output{separator}kernel": np.zeros((3, 5)),
    }
    path = npz(tmp_path / "given.npz", arrays)
    said: list[str] = []
    fields, first = begin(epochs=0, weights=path, tell=said.append)
    random = begin(epochs=0)[1]
    for name in ("dense1/kernel", "dense1/bias"):
        assert np.array_equal(first[name], WEIGHTS[name].astype(kind).astype(np.float32))
    assert same({name: first[name] for name in ("output/kernel", "output/bias")}, random) == {
        "output/kernel": True,
        "output/bias": True,
    }
    assert fields["weights"]["tensors"] == 2
    assert said == [
        f"2 of 4 tensors come from {path}; output/bias and output/kernel keep random weights; "
        "another shape: output/kernel is 3x5, expected 3x1; not used: conv10/kernel"
    ]


def test_training_begins_where_the_given_weights_are(tmp_path: Path, begin: Any) -> None:
    path = npz(tmp_path / "given.npz", arrays_of(WEIGHTS))
    still = PLAN | {"learning_rate": 1e-12}
    fields, first = begin(still, weights=path)
    assert all(np.allclose(first[name], WEIGHTS[name], atol=1e-6) for name in WEIGHTS)
    assert (fields["epochs"], fields["examples"]) == (1, 24)
    moved = begin(weights=path)[1]
    assert not any(same(moved, WEIGHTS).values())
    assert not any(same(moved, begin(weights=path, epochs=3)[1]).values())


def test_without_given_weights_the_record_has_no_such_field(begin: Any) -> None:
    fields, first = begin()
    assert "weights" not in fields
    assert fields["epochs"] == 1
    again = begin()[1]
    assert all(same(first, again).values())
    assert not any(same(first, begin(epochs=0)[1]).values()), "even biases move in an epoch"


def test_class_weights_of_the_plan_count(begin: Any) -> None:
    plain = PLAN | {"optimizer": "sgd", "learning_rate": 0.1}
    without, none, balanced = (
        begin(plan)[1] for plan in (plain, plain | {"class_weights": "none"}, plain | {"class_weights": "balanced"})
    )
    assert all(same(without, none).values())
    assert not any(same(without, balanced).values())


def test_a_calibrated_plan_says_how_the_labels_of_the_holdout_are_divided(begin: Any) -> None:
    fields, first = begin(PLAN | {"calibrate": "labels"})
    assert fields["plan"] == PLAN | {"calibrate": "labels", "label_shares": [0.58, 0.42]}, "10 of 24 for 8"
    plain, weights = begin()
    assert plain["plan"] == PLAN
    assert all(same(first, weights).values()), "her own labels are those that all are calibrated to"


def test_momentum_of_the_plan_counts(begin: Any) -> None:
    plain = PLAN | {"optimizer": "sgd", "learning_rate": 0.1}
    without, none, with_momentum = (
        begin(plan)[1] for plan in (plain, plain | {"momentum": 0.0}, plain | {"momentum": 0.9})
    )
    assert all(same(without, none).values())
    assert not any(same(without, with_momentum).values())


def test_without_epochs_no_train_split_is_needed(tmp_path: Path) -> None:
    holdout = images_file(tmp_path / "holdout.npz", "val")
    folders = Folders(tmp_path / "coordinator")
    judge = Judge(judge_command(holdout, SPEC))
    kept: Any = Kept(judge)
    try:
        with pytest.raises(AgentError, match="has no train split"):
            genesis.begin(folders, holdout, TERMS, 0, {}, kept)
        assert Ledger(folders.ledger).head() is None
        assert genesis.begin(folders, holdout, TERMS, 0, {}, kept, genesis.Start(epochs=0)).sequence == 1
    finally:
        judge.stop()


def test_weights_of_which_none_fits_begin_nothing(tmp_path: Path, begin: Any) -> None:
    path = npz(tmp_path / "given.npz", {"conv1:kernel": np.zeros((3, 3)), "output:bias": np.zeros(7)})
    with pytest.raises(SettingsError, match=r"given\.npz fits none of the 4 tensors .* output/bias is 7, expected 1"):
        begin(weights=path)
    folders = Folders(tmp_path / "coordinator-0")
    assert not genesis.is_begun(folders)
    assert list(folders.models.iterdir()) == []
    assert list(folders.opened.iterdir()) == []


def charity(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedssh.charity.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2])


def test_the_command_says_what_was_taken_and_the_history_has_it(tmp_path: Path, data: Path) -> None:
    path = npz(tmp_path / "given.npz", arrays_of({name: WEIGHTS[name] for name in ("dense1/kernel", "dense1/bias")}))
    state = f"--state={tmp_path / 'coordinator'}"
    init = ["init", f"--data={data}", f"--architecture={json.dumps(SPEC)}", "--genesis-epochs=0", state]
    refused = charity(*init, f"--weights={tmp_path / 'gone.npz'}")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "gone.npz is no file" in refused.stderr
    done = charity(*init, f"--weights={path}")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-2] == f"2 of 4 tensors come from {path}; output/kernel and output/bias keep random weights"
    assert said[-1].startswith("genesis of fedssh: accuracy ")
    shown = json.loads(charity("show", "1", state, "--json").stdout)
    assert shown["weights"] == {"sha256": sha256_file(path), "tensors": 2, "of": 4}
    assert charity("verify", state).returncode == 0


def test_squeezenet_begins_with_the_weights_of_imagenet(tmp_path: Path) -> None:
    source = Path(os.environ.get("FEDSSH_DATA", "")) / "squeezenet_v11_imagenet.npz"
    if not os.environ.get("FEDSSH_DATA") or not source.exists():
        pytest.skip("set FEDSSH_DATA to a folder with squeezenet_v11_imagenet.npz")
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (4, 31, 31, 3), dtype=np.uint8), np.arange(4) % 2
    holdout = npz(tmp_path / "holdout.npz", {"val_images": pixels, "val_labels": labels})
    spec = {"name": "squeezenet", "input": [31, 31, 3], "classes": 2, "trained": 2}
    said: list[str] = []
    folders = Folders(tmp_path / "coordinator")
    genesis.begin(folders, holdout, TERMS | {"spec": spec}, 0, {}, start=genesis.Start(0, source, said.append))
    assert said == [
        f"50 of 52 tensors come from {source}; output/kernel and output/bias keep random weights; "
        "not used: conv10/kernel, conv10/bias"
    ]
    [model] = folders.models.iterdir()
    header = read_header(model)
    assert header.parameters == 723_009
    with np.load(source, allow_pickle=False) as arrays:
        given = arrays["fire9/expand3x3:kernel"]
    assert np.array_equal(read_weights(model, header.tensors)["fire9_expand3x3/kernel"], given)
