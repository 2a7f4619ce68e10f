"""Compare the federation with training on all of its data in one place, see tests/benchmarks/centralised.py."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from scripts import environment

CENTRALISED = environment.ROOT / "tests" / "benchmarks" / "centralised.py"
COLUMNS = ("accuracy", "auc")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Which federation, and with which seeds; ends the program where they say something else."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare",
        description="Run the quickstart and one centralised training on the union of the same data, with the same "
        "network, first weights and number of epochs; print what both score on the test split nobody selected on.",
        epilog="example: scripts/compare --seeds 1 2 3 --partition dirichlet:0.3",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="one run each  [1 2 3]")
    parser.add_argument("--policy", default="best", metavar="POLICY", help="how models become one  [best]")
    parser.add_argument("--sessions", type=int, default=3, metavar="N", help="sessions per site  [3]")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="epochs per session, at most  [10]")
    parser.add_argument("--sites", type=int, default=3, metavar="N", help="sites that train  [3]")
    parser.add_argument("--partition", default="iid", metavar="iid|dirichlet:ALPHA", help="spread of the data  [iid]")
    parser.add_argument("--dataset", default="pneumoniamnist", metavar="NAME|FILE|DIR", help="data set")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Print a row per seed and their means; returns the exit code."""
    options = parse(arguments)
    programs = environment.ensure("dev")
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="fedssh-compare-") as folder:
            rows.append(run(options, seed, Path(folder), programs))
    print(f"\n{options.dataset}, {options.sites} sites, {options.partition}, {options.sessions} sessions of "
          f"{options.epochs} epochs at most; test split\n")  # fmt: skip
    print("| seed | federated accuracy | federated AUC | centralised accuracy | centralised AUC |")
    print("|---|---|---|---|---|")
    for seed, row in zip(options.seeds, rows, strict=True):
        print(f"| {seed} | {' | '.join(f'{value:.4f}' for value in row)} |")
    print(f"| mean | {' | '.join(f'{mean(column):.4f}' for column in zip(*rows, strict=True))} |")
    return 0


def run(options: argparse.Namespace, seed: int, state: Path, programs: Path) -> list[float]:
    """Accuracy and AUC of both, for one seed."""
    same = ("sites", "dataset", "policy", "sessions", "epochs", "partition")
    words = [f"--{name}={getattr(options, name)}" for name in same]
    print(f"seed {seed}: federated", flush=True)
    log = state.with_suffix(".log")
    with open(log, "w") as file:
        command = [sys.executable, "-P", "-m", "scripts.demo.quickstart", f"--state={state}", f"--seed={seed}", *words]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            sys.exit(f"compare: error: the federation failed, see {log}")
    log.unlink()
    coordinator = state / "coordinator"
    federated = ask(programs / "charity", "score", f"--state={coordinator}", "--split=test", "--json")
    print(f"seed {seed}: centralised", flush=True)
    epochs = options.sessions * options.epochs
    centralised = ask(programs / "python", CENTRALISED, state, f"--epochs={epochs}", f"--seed={seed}")
    return [result["metrics"][name] for result in (federated, centralised) for name in COLUMNS]


def ask(*command: object) -> dict[str, Any]:
    """The JSON that a command prints; CalledProcessError where it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    environment.run("compare", main)
