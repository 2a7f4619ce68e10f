"""docs/how-to/own-network.md: its files are those of the tree, and its commands run as they stand there."""

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

BLOCK = re.compile(r"^`(?P<file>[^`\n]+)`\n\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(root: Path, tmp_path: Path) -> str:
    """The page's text; its files and data to train on are in a folder."""
    text = (root / "docs" / "how-to" / "own-network.md").read_text()
    for block in BLOCK.finditer(text):
        path = tmp_path / block["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["code"])
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val"):
        arrays |= {f"{split}_images": random.integers(0, 256, (8, 32, 32), np.uint8)}
        arrays |= {f"{split}_labels": np.arange(8) % 2}
    np.savez(tmp_path / "clinics.npz", allow_pickle=False, **arrays)
    return text


def test_the_network_is_the_one_in_the_tree(page: str, root: Path, tmp_path: Path) -> None:
    there = (root / "experiments" / "networks" / "resnet.py").read_text()
    assert (tmp_path / "networks" / "resnet.py").read_text() == there


def test_its_commands_begin_federations(page: str, tmp_path: Path) -> None:
    commands = COMMAND.findall(page)
    assert len(commands) == 2
    environ = os.environ | {"FEDSSH_NETWORKS": "", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "notop.py"], cwd=tmp_path, env=environ, check=True, timeout=120)
    found = []
    for number, command in enumerate(commands):
        words = shlex.split(command)
        program = str(Path(sys.executable).with_name(words[0]))
        state = f"--state=state{number}"
        done = subprocess.run(
            [program, *words[1:], state], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        shown = [program, "show", "1", "--json", state]
        record = subprocess.run(shown, cwd=tmp_path, env=environ, capture_output=True, check=True, timeout=60)
        found.append((done.stdout, json.loads(record.stdout)))
    (_, own), (said, keras) = found
    assert own["spec"]["name"] == "resnet" and own["plan"]["local"] == "batchnorm" and "lines" in own["network"]
    told = re.search(r"It says `([^`]+)`", page)
    assert told and told[1] in said
    assert keras["spec"]["frozen"] == "all" and keras["weights"]["tensors"] == 260
