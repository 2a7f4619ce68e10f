"""Networks of one's own, from a folder or an installed package: agreed, built, and held against what was agreed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedssh import models
from fedssh.alice.learner import Network
from fedssh.errors import SettingsError
from fedssh.models import likeness, own

TINY = """
PARAMETERS = {"width": 3, "dropout": 0.3, "bias": True, "activation": "relu"}

def check(spec):
    if spec["width"] > 100:
        raise ValueError("tiny is not that wide")

def hidden(images, spec):
    from keras import layers
    x = layers.Flatten(name="flat")(images)
    x = layers.Dense(spec["width"], spec["activation"], use_bias=spec["bias"], name="dense1")(x)
    return layers.Dropout(spec["dropout"], name="dropout")(x)
"""
SPEC = {
    "name": "tiny",
    "input": [6, 6, 1],
    "classes": 2,
    "width": 3,
    "dropout": 0.25,
    "bias": False,
    "activation": "relu",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the network `tiny`, known to this process until the test is over."""
    found = tmp_path / "networks"
    found.mkdir()
    (found / "tiny.py").write_text(TINY)
    monkeypatch.setenv(own.VARIABLE, "")
    own.use(found)
    yield found
    sys.modules.pop("fedssh_networks_tiny", None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val"):
        labels = np.arange(40) % 2
        pixels = random.integers(0, 160, (40, 6, 6)) + 90 * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    return tmp_path / "data.npz"


def charity(*words: str, code: int = 0, **variables: str) -> str:
    command = [str(Path(sys.executable).with_name("charity")), *words]
    environ = {name: value for name, value in os.environ.items() if name != own.VARIABLE} | variables
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environ)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_parameters_are_of_the_kind_of_their_defaults(folder: Path) -> None:
    small = {"name": "tiny", "input": [6, 6, 1], "classes": 2}
    full = models.check_spec(small)
    assert full == {**small, "width": 3, "dropout": 0.3, "bias": True, "activation": "relu"}
    assert models.check_spec({**small, "dropout": 1})["dropout"] == 1.0
    assert "tiny" in models.architectures()
    assert models.is_own("tiny") and not models.is_own("cnn")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dropout", "0.3", "dropout must be a number, found '0.3'"),
        ("dropout", float("nan"), "dropout must be a number, found nan"),
        ("dropout", True, "dropout must be a number, found True"),
        ("bias", 1, "bias must be true or false, found 1"),
        ("activation", "re\nlu", r"activation must be a short text, found 're\nlu'"),
        ("width", 2.5, "width must be a whole number"),
        ("width", 101, "tiny is not that wide"),
        ("depth", 1, "tiny has no parameter 'depth'"),
    ],
)
def test_other_values_are_refused(folder: Path, name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models.check_spec({**SPEC, name: value})


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "broken.py").write_text("def hidden(images, spec:\n")
    (folder / "half.py").write_text("PARAMETERS = {}\n")
    for name, said in (("broken", "broken.py cannot be loaded: SyntaxError"), ("half", "lacks check and hidden")):
        with pytest.raises(ValueError, match=said):
            models.check_spec({"name": name, "input": [6, 6, 1], "classes": 2})
    for name in ("../tiny", "tiny.py", "os", ""):
        with pytest.raises(ValueError, match="no architecture is called"):
            models.check_spec({"name": name, "input": [6, 6, 1], "classes": 2})


def test_a_file_cannot_take_the_name_of_one_that_comes_with_fedssh(folder: Path) -> None:
    (folder / "cnn.py").write_text("raise SystemExit(17)")
    assert models.check_spec({"name": "cnn", "input": [28, 28, 1], "classes": 2})["depth"] == 4


def test_a_federation_begins_with_one_and_records_what_it_is(folder: Path, data: Path, tmp_path: Path) -> None:
    state = f"--state={tmp_path / 'state'}"
    spec = json.dumps({"name": "tiny", "dropout": 0.25})
    words = ("init", state, f"--data={data}", f"--architecture={spec}")
    assert "no architecture is called 'tiny'" in charity(*words, code=2)
    charity(*words, f"--networks={folder}")
    record = json.loads(charity("show", "1", "--json", state))
    assert record["spec"] == {**models.check_spec({**SPEC, "bias": True}), "dropout": 0.25}
    assert record["network"]["lines"][:3] == ["InputLayer images 6x6x1", "Flatten flat 36", "Dense dense1 3 relu"]
    assert record["network"] == likeness.describe(record["spec"])
    scored = json.loads(charity("score", "--split=val", "--json", state))  # the folder is remembered
    assert scored["metrics"]["accuracy"] == pytest.approx(record["metrics"]["accuracy"])


def test_a_network_of_an_installed_package_is_found(data: Path, tmp_path: Path) -> None:
    package = tmp_path / "site"
    (package / "mine-1.0.dist-info").mkdir(parents=True)
    (package / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "mine-1.0.dist-info" / "entry_points.txt").write_text("[fedssh.networks]\ntiny = mine_tiny\n")
    (package / "mine_tiny.py").write_text(TINY)
    words = ("init", f"--state={tmp_path / 'state'}", f"--data={data}", "--architecture=tiny")
    assert "genesis of fedssh" in charity(*words, PYTHONPATH=str(package))


def test_a_site_with_another_file_is_told_the_difference(folder: Path, data: Path) -> None:
    agreed = likeness.describe(SPEC)
    site = Network(data, 1, 0, None)
    site.agreed = agreed
    assert site.shapes(SPEC)["dense1/kernel"] == (36, 3)
    (folder / "tiny.py").write_text(TINY.replace('spec["activation"], use_bias', '"tanh", use_bias'))
    sys.modules.pop("fedssh_networks_tiny")
    other = Network(data, 1, 0, None)
    other.agreed = agreed
    with pytest.raises(SettingsError) as raised:
        other.shapes(SPEC)
    assert str(raised.value) == (
        "the network tiny of this site is not the one that was agreed: part 3 is `Dense dense1 3 tanh` here and "
        "`Dense dense1 3 relu` as agreed"
    )
