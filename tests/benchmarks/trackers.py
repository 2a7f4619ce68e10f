"""How long a long history takes into TensorBoard's and MLflow's hands, and how many bytes they make of it.

    python -m tests.benchmarks.trackers [--records 10000] [--sites 10]

The history is invented, but of the form of a real one: a verdict on each site in turn, every tenth accepted. The times
are those of the writing alone; to start Python and to import MLflow comes to that.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedssh.history.totals import fold
from fedssh.use import to_mlflow, to_tensorboard
from fedssh.use.tracked import Told

SCORES = ("loss", "accuracy", "precision", "recall", "balanced_accuracy", "f1", "auc")


def history(count: int, sites: int) -> Iterator[dict[str, Any]]:
    """Rows as the views have them."""
    for number in range(1, count + 1):
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(1_800_000_000 + 60 * number))
        metrics = dict.fromkeys(SCORES, number * 37 % 1000 / 1000)
        row = {"sequence": number, "hash": f"{number:064x}", "time": when, "metrics": metrics}
        if number == 1:
            spec, plan = {"name": "cnn", "classes": 2}, {"metric": "accuracy", "batch_size": 32}
            agreed = {"federation": "long", "policy": "best", "schedule": "free", "spec": spec, "plan": plan}
            yield row | agreed | {"event": "genesis", "model": {"sha256": "00", "size": 1}}
        elif number <= sites + 1:
            key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB"
            yield row | {"event": "site-added", "site": f"site-{number - 1}", "role": "site", "key": key}
        else:
            said = {"session": 1, "epoch": 1, "examples": 100, "claim": {"loss": 0.5, "accuracy": 0.5}, "reason": ""}
            event = "refused" if number % 10 else "accepted"
            about = {"event": event, "site": f"site-{number % sites + 1}", "current_metrics": metrics}
            yield row | said | about | {"model": {"sha256": "00", "size": 1_000_000}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time how a long history gets into trackers.")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=10)
    options = parser.parse_args()
    rows = list(history(options.records, options.sites))
    totals = fold(rows)
    assert totals is not None
    told = Told(
        rows[0], len(rows), rows[-1]["hash"], totals, lambda number: rows[number - 1], lambda after: rows[after:],
        lambda number: None,
    )  # fmt: skip
    print(f"{platform.machine()}, {time.strftime('%Y-%m-%d')}: {len(rows):,} records, {options.sites} sites,", end=" ")
    print(f"{sum(1 for _ in told.points(0)):,} numbers")
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        to_mlflow._client(f"sqlite:///{where / 'first.db'}").search_experiments()  # makes its tables, and imports it
        ways: list[tuple[str, Callable[[], object]]] = [
            ("tensorboard", lambda: to_tensorboard.export(told, where / "runs")),
            ("mlflow, SQLite", lambda: to_mlflow.export(told, f"sqlite:///{where / 'runs.db'}")),
        ]
        for name, write in ways:
            for again in ("", " again, nothing new"):
                began = time.perf_counter()
                write()
                taken = time.perf_counter() - began
                files = [*(where / "runs").rglob("*.fedssh")] if name == "tensorboard" else [where / "runs.db"]
                size = sum(path.stat().st_size for path in files)
                print(f"{name + again:<32} {taken:6.1f} s  {size / 1e6:6.1f} MB")


if __name__ == "__main__":
    main()
