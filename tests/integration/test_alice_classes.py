"""Alice's images against the federation's class names, with real training: labels follow names, never folders."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh import models
from fedssh.alice.learner import Network
from fedssh.alice.terms import read_terms
from fedssh.errors import LedgerError, SettingsError
from fedssh.keys import PrivateKey
from fedssh.models.backend import load_keras
from fedssh.rules.plan import read_plan
from fedssh.weights import read_header, write_weights
from tests.harness.images import easy_images
from tests.harness.releases import Coordinator

SPEC: dict[str, Any] = models.check_spec({"name": "mlp", "input": [6, 6, 1], "classes": 2, "width": 16, "depth": 1})
PLAN = read_plan({
    "batch_size": 16, "epochs": 20, "patience": 10, "optimizer": "adam", "learning_rate": 0.02, "loss": "auto",
    "metric": "accuracy",
})  # fmt: skip
XRAYS = ("NORMAL", "PNEUMONIA")


def xrays(folder: Path, names: Sequence[str], number: int = 80, size: int = 6) -> Path:
    """A folder per class: dark images under the first name, bright ones under the second."""
    easy = easy_images(number)
    for index, (pixels, label) in enumerate(zip(easy.images, easy.labels, strict=True)):
        if label < len(names):
            path = folder / names[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((pixels[..., 0] * 255).astype(np.uint8))
            picture.resize((size, size)).convert("RGB" if size != 6 else "L").save(path)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of random weights, as far as a network looks at it."""
    path = tmp_path_factory.mktemp("release") / "model.safetensors"
    load_keras(1).utils.set_random_seed(1)
    write_weights(path, models.get_weights(models.build(SPEC)), SPEC)
    standing = SimpleNamespace(policy="best")
    return SimpleNamespace(model=path, header=read_header(path), layers=None, standing=standing)


def trained(network: Network, release: Any) -> float:
    """Train a session; the accuracy on images that nobody has seen, with bright ones in class 1."""
    start = network.adopt(release, PLAN)
    network.fit(1, PLAN, start, lambda epoch: False, threading.Event())
    model = models.build(SPEC)
    models.set_weights(model, network.weights())
    test = easy_images(200, seed=7)
    return float(((np.asarray(model(test.images))[:, 0] > 0.5) == test.labels).mean())


def test_exchanged_names_are_refused_and_with_a_mapping_train_right(tmp_path: Path, release: Any) -> None:
    """`infiltrate` comes before `no_finding`: by the order of folders the ill would train as NORMAL."""
    data = xrays(tmp_path, ("no_finding", "infiltrate"))
    network = Network(data, 1, 1, None, class_names=XRAYS)
    with pytest.raises(
        SettingsError, match="here are infiltrate, no_finding, the federation's are NORMAL, PN"
    ) as caught:
        network.adopt(release, PLAN)
    assert caught.value.hint
    assert "--classes 'infiltrate=?,no_finding=?' with one of NORMAL, PNEUMONIA for each ?" in caught.value.hint

    told: list[str] = []
    given = {"infiltrate": "PNEUMONIA", "no_finding": "NORMAL"}
    network = Network(data, 1, 1, None, classes=given, tell=told.append, class_names=XRAYS)
    assert trained(network, release) > 0.8
    assert told == ["train: classes: infiltrate as PNEUMONIA (40), no_finding as NORMAL (40)"]

    wrong = Network(data, 1, 1, None, classes={"infiltrate": "NORMAL", "no_finding": "PNEUMONIA"}, class_names=XRAYS)
    assert trained(wrong, release) < 0.3, "what is said is done, and this is what it would cost"


def test_the_same_names_need_no_mapping_in_any_order_and_one_class_may_be_missing(tmp_path: Path, release: Any) -> None:
    told: list[str] = []
    network = Network(xrays(tmp_path / "a", ("z", "a")), 1, 1, None, tell=told.append, class_names=("Z", "A"))
    assert trained(network, release) > 0.8
    only = Network(xrays(tmp_path / "b", ("NORMAL",)), 1, 1, None, tell=told.append, class_names=XRAYS)
    only.adopt(release, PLAN)
    assert told == ["train: classes: a as A (40), z as Z (40)", "train: no images here of PNEUMONIA"]


def test_data_without_names_says_once_what_its_numbers_mean(tmp_path: Path, release: Any) -> None:
    easy, data = easy_images(40), tmp_path / "site.npz"
    np.savez(data, train_images=easy.images, train_labels=easy.labels)
    with pytest.raises(SettingsError, match="here are 0, 1, the federation's are NORMAL, PNEUMONIA") as caught:
        Network(data, 1, 1, None, class_names=XRAYS).adopt(release, PLAN)
    assert caught.value.hint
    assert "--classes 0=NORMAL,1=PNEUMONIA if that is what these numbers mean" in caught.value.hint
    network = Network(data, 1, 1, None, classes={"0": "NORMAL", "1": "PNEUMONIA"}, class_names=XRAYS)
    network.adopt(release, PLAN)
    assert network.examples == 34
    Network(data, 1, 1, None).adopt(release, PLAN)  # an older federation has no names, and holds nobody


def test_what_happens_to_images_is_said(tmp_path: Path, release: Any) -> None:
    told: list[str] = []
    data = xrays(tmp_path, XRAYS, 20, size=9)
    Network(data, 1, 1, None, tell=told.append).adopt(release, PLAN)
    assert told == [
        "the federation has no class names; here 0 is NORMAL, 1 is PNEUMONIA: compare that with the coordinator",
        "20 images are resized from 9x9 to 6x6 and their colours turned grey",
    ]


def test_the_names_come_from_the_genesis_record(keys: dict[str, PrivateKey]) -> None:
    plan = {"batch_size": 16, "epochs": 20, "patience": 10, "optimizer": "adam", "learning_rate": 0.02, "loss": "auto"}
    for fields, names in (({"class_names": list(XRAYS)}, XRAYS), ({"class_names": None}, None), ({}, None)):
        agreed: dict[str, Any] = fields
        assert read_terms(Coordinator(keys["coordinator"], SPEC, plan, **agreed).genesis).class_names == names
    for wrong in ([1, 2], "ab", ["NORMAL"], ["NORMAL", "NORMAL"], ["NORMAL", "\x1b[2J"], {"NORMAL": 0, "PNEUMONIA": 1}):
        with pytest.raises(LedgerError, match="class names"):
            read_terms(Coordinator(keys["coordinator"], SPEC, plan, class_names=wrong).genesis)
