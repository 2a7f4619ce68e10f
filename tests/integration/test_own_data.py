"""A coordinator with no holdout of her own: it is cut at `charity init`, and is the same from then on, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PATTERN = r"(person\d+)_"


def charity(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedssh.charity.cli", *words, "--state", str(state)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def folder(root: Path) -> Path:
    random = np.random.default_rng(0)
    for at in range(80):
        path = root / "train" / ("normal", "pneumonia")[at % 2] / f"person{at // 4}_{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return root


def test_a_holdout_is_cut_once_and_used_ever_after(tmp_path: Path) -> None:
    data, state = folder(tmp_path / "xrays"), tmp_path / "coordinator"
    begin = ("init", "--data", str(data), "--architecture", "mlp")
    refused = charity(state, *begin)
    assert refused.returncode == 2 and not (state / "vault" / "ledger.sqlite").exists()
    assert refused.stderr.splitlines()[-2:] == [
        f"charity: error: {data} has no val split to score models on",
        "charity: hint: `--holdout 0.2` cuts one out of train",
    ]
    begun = charity(state, *begin, "--holdout", "0.2", "--patient", PATTERN, "--seed", "3")
    assert begun.returncode == 0, begun.stderr
    assert "the holdout is 16 of 80 images; 64 stay to train on; none of 20 patients is in both" in begun.stdout
    assert begun.stderr.count("warning: ") == 1 and "warning: on 16 images an accuracy of 90% is" in begun.stderr
    genesis = json.loads(charity(state, "show", "1", "--json").stdout)
    assert (genesis["holdout"]["examples"], genesis["examples"]) == (16, 64)

    scored = json.loads(charity(state, "score", "--split", "val", "--json").stdout)
    assert scored["examples"] == 16 and scored["metrics"]["accuracy"] == genesis["metrics"]["accuracy"]
    assert json.loads(charity(state, "score", "--split", "train", "--json").stdout)["examples"] == 64
    checked = charity(state, "check", str(data), "--json")
    assert checked.returncode == 0, checked.stdout
    remarks = [one["text"] for one in json.loads(checked.stdout)["remarks"]]
    assert "the holdout is the one that the genesis record names" in remarks
    assert charity(state, "verify").returncode == 0

    first = data / "train/normal/person0_0.png"
    (data / "train/normal/person0_new.png").write_bytes(first.read_bytes())
    changed = "xrays has changed since `charity init` cut the holdout out of it: train and val had 80 images, now 81"
    for words in (("check", str(data)), ("score", "--split", "train"), ("serve",)):
        done = charity(state, *words)
        assert done.returncode != 0 and changed in done.stdout + done.stderr, words
    (data / "train/normal/person0_new.png").unlink()

    for path in data.rglob("*.png"):  # the same names, other pixels
        Image.new("L", (8, 8), 255).save(path)
    for words, said in (
        (("check", str(data)), "not those that the genesis record names (16)"),
        (("serve",), "the holdout has 16 images with hash"),
    ):
        done = charity(state, *words)
        assert done.returncode != 0 and said in done.stdout + done.stderr, words
