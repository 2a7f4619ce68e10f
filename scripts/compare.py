"""Compare the federation with training on all of its data in one place, see tests/benchmarks/centralised.py."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.results.intervals import half_width
from scripts import environment, terms

CENTRALISED = environment.ROOT / "tests" / "benchmarks" / "centralised.py"
METRICS = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auc": "AUC"}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Which federation, and with which seeds; ends the program where they say something else."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare",
        description="Run the quickstart and one centralised training on the union of the same data, with the same "
        "network, first weights and number of epochs; print what both score on the test split nobody selected on.",
        epilog="example: scripts/compare --seeds 1 2 3 4 5 --partition dirichlet:0.3",
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N", help="one run each  [1 2 3 4 5]")
    add("--policy", default=terms.POLICY, metavar="POLICY", help=f"how models become one  [{terms.POLICY}]")
    add("--sessions", type=int, metavar="N", help="sessions per site, or rounds  [as the quickstart]")
    add("--epochs", type=int, metavar="N", help="epochs per session at most, or of each round  [as the quickstart]")
    add("--sites", type=int, default=3, metavar="N", help="sites that train  [3]")
    add("--partition", default="iid", metavar="iid|dirichlet:ALPHA", help="spread of the data  [iid]")
    add("--dataset", default="pneumoniamnist", metavar="NAME|FILE|DIR", help="data set")
    options = parser.parse_args(arguments)
    try:
        agreed = terms.agree(options.policy, None, "free", options.sessions, options.epochs, options.sites)
    except ValueError as error:
        parser.error(str(error))
    options.sessions, options.epochs = agreed.sessions, agreed.epochs
    return options


def main(arguments: list[str]) -> int:
    """Print a row per seed, their means and differences; returns the exit code."""
    options = parse(arguments)
    programs = environment.ensure("dev")
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="fedssh-compare-") as folder:
            rows.append(run(options, seed, Path(folder), programs))
    print(f"\n{options.dataset}, {options.sites} sites, {options.partition}, {options.policy}, {options.sessions} "
          f"sessions of {options.epochs} epochs at most; test split\n")  # fmt: skip
    print(table(options.seeds, rows), end="")
    return 0


def table(seeds: Sequence[int], rows: Sequence[Sequence[float]]) -> str:
    """A row per seed, the means, and how far the federation is from centralised training, paired by seed.

    Args:
        rows: For each seed the `METRICS` of the federation, then those of centralised training.
    """
    heads = [f"{side} {name}" for side in ("federated", "centralised") for name in METRICS.values()]
    lines = [["seed", *heads], ["---"] * (len(heads) + 1)]
    lines += [[str(seed), *(f"{value:.4f}" for value in row)] for seed, row in zip(seeds, rows, strict=True)]
    lines.append(["mean", *(mean(column) for column in zip(*rows, strict=True))])
    differences = [mean([row[at] - row[at + len(METRICS)] for row in rows], "+") for at in range(len(METRICS))]
    said = ", ".join(f"{name} {found}" for name, found in zip(METRICS.values(), differences, strict=True))
    sure = "`±` is half the interval of Student's t at 95 %" if len(rows) > 1 else "one seed has no interval"
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (
        f"\nFederated less centralised, paired by seed: {said}; {sure}.\n"
    )


def mean(values: Sequence[float], sign: str = "") -> str:
    """A mean, with its interval where there are two values or more."""
    return f"{fmean(values):{sign}.4f}" + (f" ± {half_width(values):.4f}" if len(values) > 1 else "")


def run(options: argparse.Namespace, seed: int, state: Path, programs: Path) -> list[float]:
    """The metrics of both, for one seed."""
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
    return [result["metrics"][name] for result in (federated, centralised) for name in METRICS]


def ask(*command: object) -> dict[str, Any]:
    """The JSON that a command prints; CalledProcessError where it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    environment.run("compare", main)
