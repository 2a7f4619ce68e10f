"""A small experiment from its file to its report, with real training: the same whatever the number of jobs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import cli

TEXT = """
question = "Which of these is worth using on a handful of digits?"
[federation]
architecture = { name = "mlp", width = 16, depth = 1 }
sites = 3
sessions = 2
[plan]
optimizer = "adam"
learning_rate = 0.01
epochs = 2
[data]
dataset = "digits"
train = 900
holdout = 60
test = 60
[[runs]]
schedule = "centralised"
[[runs]]
policy = ["merge", "fedavg"]
[[runs]]
policy = "krum:0"
attack = "sign-flip:4"
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The results with one job and with two."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "digits.toml").write_text(TEXT)
    for jobs in (1, 2):
        words = [str(folder / "digits.toml"), f"--out={folder / str(jobs)}", f"--jobs={jobs}", f"--data-dir={folder}"]
        assert cli.main(words) == 0
    return [folder / "1", folder / "2"]


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    runs = json.loads((folder / "results.json").read_text())["runs"]
    measured = ("train_seconds", "wall_seconds", "peak_mb")
    return {run["slug"]: {key: value for key, value in run["outcome"].items() if key not in measured} for run in runs}


def test_the_number_of_jobs_changes_nothing_but_times(folders: list[Path]) -> None:
    one, two = map(outcomes, folders)
    assert list(one) == ["centralised-seed1", "merge-seed1", "fedavg-seed1", "krum-0-sign-flip-4-seed1"]
    assert one == two


def test_every_run_learns_or_says_who_attacked(folders: list[Path]) -> None:
    for slug, outcome in outcomes(folders[0]).items():
        points = outcome["points"]
        assert points[0]["version"] == 0
        assert all(before["clock"] <= after["clock"] for before, after in itertools.pairwise(points)), slug
        assert (folders[0] / "runs" / slug / "history.jsonl").stat().st_size
        if slug.startswith("krum"):
            assert sum(outcome["attacker"].values()) >= 2
        else:
            assert points[-1]["holdout"]["accuracy"] > points[0]["holdout"]["accuracy"], slug


def test_every_release_is_scored_by_balanced_accuracy_and_the_work_is_counted(folders: list[Path]) -> None:
    steps = {}
    for slug, outcome in outcomes(folders[0]).items():
        for point in outcome["points"]:
            assert {"balanced_accuracy", "auc"} <= point["holdout"].keys() & point["test"].keys(), slug
        steps[slug] = outcome["steps"], outcome["synchronisations"]
    # batches of 64: of all 900 images, or of the 270 that each site has beside the coordinator's 90; 15 % are held out
    assert steps["centralised-seed1"] == (2 * 2 * 12, 0)
    assert steps["fedavg-seed1"] == (2 * 2 * 4, 2)


CHOICE = (
    TEXT.partition("[[runs]]")[0].replace("sessions = 2", "sessions = 1").replace("epochs = 2", "epochs = 1")
    + """
[choice]
by = "holdout accuracy"
seeds = [11]
[[runs]]
policy = "fedavg"
learning_rate = [0.000001, 0.01]
"""
)


def test_only_what_was_chosen_is_confirmed(tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(CHOICE)
    words = [str(tmp_path / "digits.toml"), f"--out={tmp_path / 'out'}", "--jobs=1", f"--data-dir={tmp_path}"]
    assert cli.main(words) == 0
    done = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert done == [
        "fedavg-learning-rate0.01-seed1", "fedavg-learning-rate0.01-seed11", "fedavg-learning-rate1e-06-seed11",
    ]  # fmt: skip
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| fedavg-learning-rate0.01 |" in text and "**chosen**" in text and "missing" not in text


def test_the_report_has_numbers_and_a_picture(folders: list[Path]) -> None:
    text = (folders[0] / "report.md").read_text()
    assert "| fedavg | one seed | 0." in text
    assert "sign-flip:4" in text
    assert list(folders[0].glob("*.png"))
