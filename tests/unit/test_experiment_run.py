"""The runner with an engine that only pretends: what is kept, what is done again, what a failure or Ctrl-C leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import run as runner
from experiments.definition.read import Experiment, read
from experiments.run import Told, finished, run_all
from fedssh.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """
import os, time
from experiments.definition.config import Outcome, Point

def run(run, prepared, folder, progress, cores):
    (folder / "history.jsonl").touch()
    with open(os.environ["DONE"], "a") as file:
        file.write(run.slug + "\\n")
    open(os.path.join(os.path.dirname(os.environ["DONE"]), f"worker-{os.getpid()}"), "w").close()
    if run.sites == 4:
        raise RuntimeError("this one cannot\\nbe done")
    if run.sites == 5:
        os._exit(9)
    if run.sites == 6:
        progress(0.5, "sleeping")
        time.sleep(600)
    scores = {"accuracy": 0.5, "auc": 0.5, "loss": run.seed / 10, "precision": 0.5, "recall": 0.5}
    points = tuple(Point(n, n + 1, 10.0 * n, 30 * n, 100 * n, None, scores, scores) for n in range(3))
    return Outcome(points, 3, {"accepted": 2}, 4, 0.5, 60, 20.0, 200)
"""


class Bench:
    """A folder with tiny data, a pretended engine, and what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.done = folder, folder / "out", folder / "done.txt"
        (folder / "pretended" / "memory").mkdir(parents=True)
        (folder / "pretended" / "memory" / "engine.py").write_text(ENGINE)
        pixels, labels = np.zeros((90, 12, 12), np.uint8), np.arange(90) % 2
        np.savez(folder / "tiny.npz", train_images=pixels, train_labels=labels)

    def experiment(self, runs: str, more: str = "") -> Experiment:
        path = self.folder / "tiny.toml"
        path.write_text(f'question = "?"\n[data]\ndataset = "tiny.npz"\n{more}\n[[runs]]\n{runs}\n')
        return read(path)

    def run(self, experiment: Experiment, jobs: int = 1, tell: Callable[[Told], None] | None = None) -> list[str]:
        """Names of the runs that failed."""
        tell = tell or (lambda told: None)
        failed = run_all(experiment, self.out, self.folder, jobs, 1, tell, engines="pretended")
        return [run.slug for run in failed]

    def asked(self) -> list[str]:
        """What the engine was asked to do since the last question."""
        slugs = self.done.read_text().split() if self.done.exists() else []
        self.done.unlink(missing_ok=True)
        return slugs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path)
    monkeypatch.setenv("DONE", str(bench.done))
    monkeypatch.syspath_prepend(tmp_path)
    return bench


def test_finished_runs_are_kept_and_changed_ones_done_again(bench: Bench) -> None:
    experiment = bench.experiment("sites = [2, 3]")
    assert bench.run(experiment, jobs=2) == []
    assert sorted(bench.asked()) == ["sites2-seed1", "sites3-seed1"]

    events: list[str] = []
    bench.run(experiment, tell=lambda told: events.append(told.event))
    assert bench.asked() == []
    assert events == ["kept", "kept"]

    changed = bench.experiment("sites = [2, 3]", "per_label = 20")
    assert finished(bench.out, changed.runs[0], "memory") is None
    events.clear()
    bench.run(changed, tell=lambda told: events.append(told.event))
    assert bench.asked() == ["sites2-seed1", "sites3-seed1"]
    assert events[:2] == ["changed", "changed"]
    assert finished(bench.out, changed.runs[0], "memory") is not None


def test_nobody_is_told_what_a_candidate_scores_on_the_test_split(bench: Bench) -> None:
    more = '[choice]\nby = "holdout accuracy"\nseeds = [11]\n'
    experiment = bench.experiment("sites = [2]", more)
    both = dataclasses.replace(experiment, runs=(*experiment.trials, *experiment.runs))
    said: dict[str, str] = {}
    bench.run(both, tell=lambda told: said.update({told.run.slug: told.text}) if told.event == "done" else None)
    assert said["sites2-seed1"].startswith("test accuracy 0.5000")
    assert "0.5" not in said["sites2-seed11"] and "candidate" in said["sites2-seed11"]


def test_a_result_comes_back_as_it_was(bench: Bench) -> None:
    experiment = bench.experiment("sites = 2\nattack = 'noise:2'")
    bench.run(experiment)
    (run,) = experiment.runs
    found = finished(bench.out, run, "memory")
    assert found is not None
    assert found.run == run
    assert found.outcome.final.clock == 20.0
    assert found.outcome.wall_seconds is not None
    assert found.outcome.peak_mb is not None
    assert found.made["machine"]["python"] == sys.version.split()[0]
    folder = bench.out / "runs" / run.slug
    assert sorted(path.name for path in folder.iterdir()) == ["history.jsonl", "result.json"]


def test_a_failure_stops_no_other_run_and_is_tried_again(bench: Bench) -> None:
    experiment = bench.experiment("sites = [4, 5, 2]")
    told: list[Told] = []
    assert bench.run(experiment, tell=told.append) == ["sites4-seed1", "sites5-seed1"]
    said = {one.run.slug: one.text for one in told if one.event == "failed"}
    assert said["sites4-seed1"].startswith("RuntimeError: this one cannot (see ")
    assert "ended with code 9" in said["sites5-seed1"]
    assert "be done" in (bench.out / "runs" / "sites4-seed1.failed.txt").read_text()
    assert [path.name for path in (bench.out / "runs").iterdir() if path.is_dir() and path.name[0] != "."] == [
        "sites2-seed1"
    ]
    bench.asked()
    bench.run(experiment)
    assert bench.asked() == ["sites4-seed1", "sites5-seed1"]


def test_a_worker_is_replaced_before_it_has_grown_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RUNS_PER_WORKER", 2)
    experiment = bench.experiment("sites = [1, 2, 3]\nepochs = [1, 2]")
    assert bench.run(experiment, jobs=2) == []
    workers = {path.name for path in bench.folder.glob("worker-*")}
    assert 3 <= len(workers) <= 4  # six runs, two each, and two workers side by side


def test_an_unknown_engine_is_a_failure_not_a_hang(bench: Bench) -> None:
    (bench.folder / "pretended" / "memory" / "engine.py").write_text("import nothing_like_this\n")
    told: list[Told] = []
    bench.run(bench.experiment("sites = 2"), tell=told.append)
    assert "nothing_like_this" in told[-1].text


def test_two_commands_do_not_share_a_folder(bench: Bench) -> None:
    experiment = bench.experiment("sites = 2")

    def again(told: Told) -> None:
        with pytest.raises(SettingsError, match="another command works in"):
            bench.run(experiment)

    bench.run(experiment, tell=again)


def test_a_damaged_result_is_not_taken_for_one(bench: Bench) -> None:
    experiment = bench.experiment("sites = [2]")
    bench.run(experiment)
    (bench.out / "runs" / "sites2-seed1" / "result.json").write_text("{")
    with pytest.raises(SettingsError, match="is damaged"):
        bench.run(experiment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_and_keeps_what_is_finished(bench: Bench, number: signal.Signals) -> None:
    bench.experiment("sites = [2, 6]")
    program = (
        "import sys; from experiments import cli, run; do = run.run_all; "
        "run.run_all = lambda *a: do(*a, engines='pretended'); sys.exit(cli.main(sys.argv[1:]))"
    )
    words = [str(bench.folder / "tiny.toml"), f"--out={bench.out}", f"--data-dir={bench.folder}", "--jobs=1"]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{bench.folder}"}
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=environ, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            if bench.done.exists() and "sites6" in bench.done.read_text():
                break
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as a terminal does
        else:
            child.send_signal(number)
        out, error = child.communicate(timeout=60)  # ends when nobody holds the pipes, so no worker is left either
    finally:
        child.kill()
    assert child.returncode == 130, error
    assert error.strip() == "stopped; finished runs are kept, the same command goes on from here"
    assert "sites2-seed1: test accuracy" in out
    assert sorted(path.name for path in (bench.out / "runs").iterdir()) == ["sites2-seed1"]
    assert json.loads((bench.out / "runs" / "sites2-seed1" / "result.json").read_text())["slug"] == "sites2-seed1"
