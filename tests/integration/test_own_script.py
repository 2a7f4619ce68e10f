"""A site's own training script: `fedssh.site` holds the terms, the script does the training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import site
from fedssh.alice.limits import Limits
from fedssh.errors import SettingsError, UntrustedError
from fedssh.keys import PrivateKey
from fedssh.weights import read_header, write_weights
from tests.harness.alice import PLAN, SPEC
from tests.harness.releases import Coordinator

SHAPES = {"dense1/kernel": (4, 2), "dense1/bias": (2,), "output/kernel": (2, 1), "output/bias": (1,)}


class Numpy:
    """A learner without any library: its scores come from a list."""

    examples, validation_examples = 100, 20

    def __init__(self, scores: list[tuple[float, float]], shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> None:
        self.scores, self.held = scores, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.loaded: Any = None
        self.train_by: Callable[[site.Session], None] = self.train_all

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        self.loaded = self.held = {name: np.array(array) for name, array in weights.items()}

    def weights(self) -> Mapping[str, np.ndarray]:
        return self.held

    def evaluate(self) -> tuple[float, float]:
        return 0.7, 0.5

    def train(self, session: site.Session) -> None:
        self.train_by(session)

    def train_all(self, session: site.Session) -> None:
        for loss, accuracy in self.scores:
            self.held = {name: array + 1 for name, array in self.held.items()}
            if session.epoch_over(loss, accuracy):
                return

    def train_on(self, session: site.Session) -> None:
        for loss, accuracy in self.scores:
            session.epoch_over(loss, accuracy)


@pytest.fixture
def lay(tmp_path: Path, keys: dict[str, PrivateKey]) -> Callable[..., dict[str, Any]]:
    """Lay a release out, and return where `site.run` finds everything."""

    def lay(shapes: Mapping[str, tuple[int, ...]] = SHAPES, **plan: Any) -> dict[str, Any]:
        coordinator = Coordinator(keys["coordinator"], SPEC, {**PLAN, "epochs": 5, **plan})
        incoming = tmp_path / "exchange" / "incoming"
        incoming.mkdir(parents=True)
        tensors = {name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
        write_weights(incoming / "00000007.safetensors", tensors, SPEC)
        coordinator.lay_out(incoming, 7)
        (tmp_path / "invitation.json").write_text(json.dumps(coordinator.invitation()))
        return {
            "exchange": tmp_path / "exchange", "state": tmp_path / "alice", "sessions": 1, "settle_seconds": 0,
            "invitation": tmp_path / "invitation.json", "stop": threading.Event(),
        }  # fmt: skip

    return lay


def published(where: dict[str, Any]) -> list[dict[str, Any]]:
    """Claims and reports, in the order of their making."""
    found = [json.loads(path.read_bytes()) for path in (where["exchange"] / "outgoing").glob("*.json")]
    return sorted(found, key=lambda one: one["id"])


def test_what_improves_is_published_and_the_session_reported(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay()
    learner = Numpy([(0.6, 0.6), (0.65, 0.7), (0.5, 0.8), (0.55, 0.7), (0.4, 0.9), (9, 9)])
    assert site.run(learner, **where) == 1
    assert all(np.all(learner.loaded[name] == np.float32(0.1)) for name in SHAPES)
    *claims, report = published(where)
    assert [(one["epoch"], one["builds_on"], one["examples"]) for one in claims] == [(3, 7, 100), (5, 7, 100)]
    assert (report["epochs"], report["checkpoints"]) == (5, 3)
    model = where["exchange"] / "outgoing" / f"{claims[-1]['id']}.safetensors"
    assert dict(read_header(model).tensors) == SHAPES


def test_where_sessions_are_published_all_train_as_many_epochs(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay(publish="session", epochs=3)
    assert site.run(Numpy([(0.9, 0.1), (0.9, 0.1), (0.69, 0.5)]), **where) == 1
    claim, _ = published(where)
    assert claim["epoch"] == 3


def test_a_script_that_ends_too_soon_or_too_late(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay(publish="session", epochs=3)
    with pytest.raises(SettingsError, match="ended session 1 after 1 of 3 epochs"):
        site.run(Numpy([(0.6, 0.6)]), **where)
    learner = Numpy([])
    learner.scores = [(0.6, 0.6)] * 4
    learner.train_by = learner.train_on
    with pytest.raises(SettingsError, match="session 1 goes on after its end"):
        site.run(learner, **where)


def test_patience_ends_a_session(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay(patience=2, epochs=50)
    assert site.run(Numpy([(0.6, 0.6), (0.6, 0.6), (0.6, 0.6), (0.1, 0.9)]), **where) == 1
    *_, report = published(where)
    assert report["epochs"] == 3


def test_other_tensors_than_were_agreed_train_nothing(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay()
    with pytest.raises((SettingsError, UntrustedError), match="dense1/kernel"):
        site.run(Numpy([(0.1, 0.9)], {**SHAPES, "dense1/kernel": (4, 3)}), **where)
    assert not published(where)


def test_the_sites_own_limits_hold(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay()
    with pytest.raises(UntrustedError, match="learning rate"):
        site.run(Numpy([(0.1, 0.9)]), **where, limits=Limits(max_learning_rate=1e-6))
    assert not published(where)


def test_numbers_that_are_not_finite_stay(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay()
    learner = Numpy([])

    def spoil(session: site.Session) -> None:
        learner.held["dense1/bias"][0] = np.nan
        session.epoch_over(0.1, 0.9)

    learner.train_by = spoil
    assert site.run(learner, **where) == 1
    (report,) = published(where)
    assert report["checkpoints"] == 0


def test_a_script_that_is_told_to_stop_counts_no_session(lay: Callable[..., dict[str, Any]]) -> None:
    where = lay()
    learner = Numpy([])

    def stop(session: site.Session) -> None:
        where["stop"].set()
        assert session.epoch_over(0.69, 0.5)

    learner.train_by = stop
    assert site.run(learner, **where) == 0
    assert not published(where)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images that are easily told apart."""
    random, labels = np.random.default_rng(0), np.arange(200) % 2
    images = random.integers(0, 160, (200, 2, 2)) + 90 * labels[:, None, None]
    np.savez(tmp_path / "data.npz", train_images=images.astype(np.uint8), train_labels=labels)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("name", ["train.py", "regression.py"])
def test_the_scripts_of_the_documentation(
    lay: Callable[..., dict[str, Any]], data: Path, tmp_path: Path, root: Path, name: str
) -> None:
    page = (root / "docs/how-to/own-training.md").read_text()
    (text,) = re.findall(rf"^`{name}`\n\n```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    shapes = SHAPES if name == "train.py" else {"output/kernel": (4, 1), "output/bias": (1,)}
    where = lay(learning_rate=0.01, epochs=40, shapes=shapes)  # whatever order they come in
    (tmp_path / name).write_text(text)
    words = [str(where[key]) for key in ("exchange", "state", "invitation")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / name), str(data), *words], capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 sessions trained"
    *claims, report = published(where)
    assert report["checkpoints"] >= len(claims) > 0
    assert claims[-1]["metrics"]["accuracy"] > 0.6
    model = where["exchange"] / "outgoing" / f"{claims[-1]['id']}.safetensors"
    assert dict(read_header(model).tensors) == shapes


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"local": "batchnorm", "publish": "session", "loss": "auto with local"}, "batch normalisation stays at the"),
        (
            {"calibrate": "labels", "label_shares": [0.5, 0.5], "loss": "auto with calibrate"},
            "the training loss is calibrated, which no script of one's own can do yet",
        ),
        ({"unlabelled": "fixmatch", "loss": "auto with unlabelled"}, "images without labels are learned from"),
    ],
)
def test_what_a_script_cannot_train_by_is_refused(
    lay: Callable[..., dict[str, Any]], plan: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        site.run(Numpy([(0.5, 0.9)]), **lay(**plan))
