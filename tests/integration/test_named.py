"""Models with names, by the commands that people type: given, used, scored on the test split, and taken away."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPEC = {"name": "mlp", "depth": 1, "width": 4, "input": [6, 6, 1], "classes": 2}


def run(home: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`charity`, in the folder that has the folder `coordinator`."""
    command = [str(Path(sys.executable).with_name("charity")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=home)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def told(home: Path, *words: object) -> Any:
    return json.loads(run(home, *words, "--json").stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that has just begun, of images with a test split."""
    folder = tmp_path_factory.mktemp("named")
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(["=healthy", "ill"])}
    for split, number in (("train", 80), ("val", 40), ("test", 70)):
        labels = np.arange(number) % 2
        pixels = random.integers(0, 160, (number, 6, 6)) + 90 * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    run(folder, "init", "--data=data.npz", f"--architecture={json.dumps(SPEC)}", "--genesis-epochs=6", "--batch-size=8")
    return folder


def test_the_page_gives_a_name_asks_for_it_and_takes_it_away(home: Path, root: Path) -> None:
    page = (root / "docs" / "how-to" / "read-history.md").read_text()
    [block] = re.findall(r"^```sh\n(charity tag .*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[1] for line in lines] == ["tag", "best", "untag"]
    given, shown, taken = (run(home, *line[1:]) for line in lines)
    assert "the model of record 1 is champion" in given.stdout and "no model is champion any more" in taken.stdout
    assert re.search(r"called +champion since .*, by .*: better on the night shift's images", shown.stdout)
    note = [move["note"] for move in told(home, "tags", "--history")["moves"]]
    assert note == ["better on the night shift's images", "withdrawn"] and told(home, "tags")["names"] == []


def test_the_test_split_is_written_down_and_told_everywhere(home: Path, tmp_path: Path) -> None:
    plain = told(home, "score", "best", "--split", "test")
    assert "recorded" not in plain and told(home, "best")["tested"] is None
    run(home, "tag", 1, "scored", "--by", "me *bold* <b>", "--note", "|")
    found = told(home, "score", "scored", "--split", "test", "--record")
    again = told(home, "score", "--record")
    assert again["recorded"] == found["recorded"] + 1 and found["metrics"] == plain["metrics"]
    tested = told(home, "best", "scored")["tested"]
    assert (tested["times"], tested["in_all"], tested["record"], tested["examples"]) == (2, 2, again["recorded"], 70)
    assert tested["metrics"].items() >= found["metrics"].items()
    assert tested["assessed"]["figures"][0] == found["assessed"]["figures"][0]
    written = told(home, "show", again["recorded"])
    assert len(written["curve"]) > 3 and written["curve"][-1][1:] == [1, 1]
    shown = re.sub(" +", " ", run(home, "show", again["recorded"]).stdout)
    assert f"curve {len(written['curve'])} points; with --json in full" in shown
    assert told(home, "verify")["unchecked"]["what an operator decided"] >= 1

    out = tmp_path / "model.keras"
    run(home, "export", "scored", out)
    with zipfile.ZipFile(out) as archive:
        card = archive.read("README.md").decode()
    assert "- **scored** since " in card and "by me \\*bold\\* \\<b\\>: \\|" in card
    assert "## On the coordinator's test split\n\n70 examples that no model was chosen by; record " in card
    assert "This model was scored 2 times: a split says the less" in card
    assert f"| accuracy | {found['metrics']['accuracy']:.4f} |" in card
    assert "is not in the history" not in card


def test_a_name_stands_for_a_record_wherever_one_is_asked_for(home: Path, tmp_path: Path) -> None:
    run(home, "tag", 1, "first")
    [named, numbered] = (
        run(
            home,
            "predict",
            "data.npz",
            "--key",
            "test_images",
            "--record",
            one,
            "--json",
            "--csv",
            tmp_path / "said.csv",
        )
        for one in ("first", "1")
    )
    assert named.stdout == numbered.stdout and json.loads(named.stdout)["record"] == 1
    assert "no model is called 'frist'" in run(home, "predict", "data.npz", "--record", "frist", code=2).stderr
    assert "the model of record 1 is the current one" in run(home, "rollback", "first", code=2).stderr
    assert "neither the number of a record, nor the name" in run(home, "export", "No!", "x.keras", code=2).stderr
    assert "called first already" in run(home, "tag", "best", "first", code=2).stderr
    audited = told(home, "audit", "first")
    assert audited["record"] == 1
