"""docs/how-to/split.md: what it says of beginning a federation whose network is in two rooms."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedssh.history import work
from fedssh.rules.policies import read_policy
from fedssh.rules.policies.split import OPTIONS
from scripts import terms


def charity(folder: Path, *words: str, code: int = 0) -> str:
    program = str(Path(sys.executable).with_name("charity"))
    environ = os.environ | {"CHARITY_STATE": str(folder / "state")}
    done = subprocess.run(
        [program, *words], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random, arrays = np.random.default_rng(0), dict[str, np.ndarray]()
    for split in ("train", "val"):
        arrays |= {f"{split}_images": random.integers(0, 256, (8, 28, 28), np.uint8)}
        arrays |= {f"{split}_labels": np.arange(8) % 2}
    np.savez(tmp_path / "xrays.npz", allow_pickle=False, **arrays)
    return tmp_path


def test_the_page(root: Path, images: Path) -> None:
    page = (root / "docs" / "how-to" / "split.md").read_text()
    quickstart, init = re.search(r"```sh\n(.*?)```", page, re.DOTALL)[1].splitlines()  # type: ignore[index]
    assert terms.agree(shlex.split(quickstart, comments=True)[2], None, "free", None, None, 3)
    charity(images, *shlex.split(init, comments=True)[1:])
    agreed = json.loads(charity(images, "show", "1", "--json"))
    assert agreed["policy"] == "split:cut=pool1,labels=coordinator,wire=f16,checkpoint=1"
    assert (agreed["schedule"], agreed["plan"]["publish"], agreed["plan"]["epochs"]) == ("relay", "session", 2)
    assert all(f"`{name}=" in page or f"`{name}:" in page or f"{name}=" in page for name in OPTIONS)
    took = {"steps": 38, "images": 2400, "received": 7_844_241, "sent": 7_835_518, "seconds": 2.043}
    assert f"over a channel: {work.told(took)}\n" in page
    assert read_policy("split:pool2") == read_policy("split:cut=pool2")


def test_an_error_lists_the_cuts_and_nothing_is_begun(images: Path) -> None:
    said = charity(images, "init", "--data", "xrays.npz", "--policy", "split:pol2", code=2)
    assert "cnn has no layer 'pol2'; did you mean 'pool2'? it can be cut after conv1, pool1, conv2, pool2," in said
    said = charity(images, "init", "--data", "xrays.npz", "--policy", "split:dense,labels=site", code=2)
    assert "there is a second cut after dense, and cnn has none there" in said
    charity(images, "init", "--data", "xrays.npz", "--policy", "split:pool1,labels=site")
    agreed = json.loads(charity(images, "show", "1", "--json"))
    assert agreed["policy"] == "split:cut=pool1,labels=site,tail=dense,wire=f16,checkpoint=1"


def test_what_takes_a_network_in_one_piece_is_refused(images: Path) -> None:
    for words in (["--clip-norm", "1"], ["--class-weights", "balanced"], ["--proximal", "0.1"]):
        said = charity(images, "init", "--data", "xrays.npz", "--policy", "split", *words, code=2)
        assert f"{words[0].removeprefix('--')} takes a network in one piece" in said
