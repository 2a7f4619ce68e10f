"""Outcomes of experiments made by hand: runs of which every release scores what a test says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.definition.config import Outcome, Point, Run
from experiments.definition.read import read
from experiments.results.file import Result, Results

MADE = {
    "engine": "memory",
    "date": "2030-01-01T00:00:00+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "machine": {"processor": "Abacus", "cores": 2},
}


def scores(accuracy: float, auc: float | None = 0.9) -> dict[str, Any]:
    half = {"precision": 0.5, "recall": 0.25, "confusion": [[7, 1], [2, 3]], "per_class_accuracy": [0.875, 0.6]}
    return {"loss": 1 - accuracy, "accuracy": accuracy, "balanced_accuracy": accuracy - 0.05, "auc": auc, **half}


def result(run: Run, accuracies: Sequence[float], step: float, **more: Any) -> Result:
    """A run whose releases score so on the holdout (0.1 less on test), one every `step` images."""
    points = tuple(
        Point(n, n + 1, step * n, int(3 * step * n), 1_000_000 * n, None, scores(one), scores(one - 0.1))
        for n, one in enumerate(accuracies)
    )
    fields: dict[str, Any] = {
        "points": points, "submissions": 5, "verdicts": {"accepted": 3}, "records": 9, "train_seconds": 2.0,
        "trained_examples": 1000, "clock": points[-1].clock, "bytes": points[-1].bytes, "wall_seconds": 4.0,
    }  # fmt: skip
    return Result(run, run.digest("memory"), Outcome(**{**fields, **more}), MADE)


def loaded(folder: Path, text: str, *accuracies: float) -> Results:
    """An experiment of which every run ended with one of these accuracies on the holdout, in order."""
    path = folder / "other.toml"
    path.write_text('question = "?"\n' + text)
    experiment = read(path)
    every = tuple(result(run, [0.5, one], 100, bytes=0) for run, one in zip(experiment.runs, accuracies, strict=True))
    return Results(experiment, every, "scripts/experiment other", "2030-01-02")
