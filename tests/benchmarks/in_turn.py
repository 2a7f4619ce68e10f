"""Two checkouts in turn: the way of a checkpoint, the start of the forced command and of `--help`, new against old.

    .venv/bin/python tests/benchmarks/in_turn.py OLD NEW [--rounds 5] [--checkpoints 20] [--case "reference CNN"]

OLD and NEW are checkouts, each with its own `.venv` (`scripts/test --help` makes one). A round measures both, the
second one first in every other round, so that a machine that becomes slow or busy is so for both. Each checkout runs
its own code by its own `tests/benchmarks/path.py`. Printed are the medians over all rounds, and NEW / OLD of each
round's medians: the median of those ratios is what to quote.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Run inside a checkout by its own interpreter. `path` is its own tests/benchmarks/path.py.
WAY = """
import dataclasses, json, sys
root, name, times, door, out = sys.argv[1:]
sys.path[:0] = [root, f"{root}/tests/benchmarks"]
import path
case = dataclasses.replace(next(case for case in path.CASES if case.name == name), times=int(times))
results = {}
path.measure(case, door, results, with_alice=False)
result = next(iter(results.values()))
json.dump(result, open(out, "w"))
"""
STARTS = 25
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBlr6qcRZn0Lbn1mAnp3Zb5Zm4vGkzEJ0uZTb0v1aQ8R"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--checkpoints", type=int, default=20, metavar="N", help="per round and checkout")
    parser.add_argument("--case", default="reference CNN", metavar="NAME", help="a case of path.py")
    parser.add_argument("--door", default="sshd", choices=["sshd", "embedded"])
    options = parser.parse_args()
    checkouts = {"old": options.old.resolve(), "new": options.new.resolve()}
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        order = ("old", "new") if number % 2 == 0 else ("new", "old")
        found = {which: measure(checkouts[which], options) for which in order}
        starts = in_turn(checkouts)
        rounds.append({which: found[which] | starts[which] for which in checkouts})
        print(f"round {number + 1}: " + line(rounds[-1]), flush=True)
    print(f"\n{options.case}, door {options.door}, {options.rounds} rounds of {options.checkpoints} checkpoints each")
    report(rounds)


def measure(checkout: Path, options: argparse.Namespace) -> dict[str, float]:
    """Medians of one round of one checkout: milliseconds by step, and peak megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        words = [str(checkout), options.case, str(options.checkpoints), options.door, str(out)]
        subprocess.run(
            [str(checkout / ".venv/bin/python"), "-c", WAY, *words],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        result: dict[str, Any] = json.loads(out.read_text())
    steps = result["samples"][0]
    found = {f"{step}, ms": statistics.median(sample[step] for sample in result["samples"]) for step in steps}
    found |= {f"{name}, MB": megabytes for name, megabytes, _ in result.get("memory", ()) if ":" in name}
    return found


def in_turn(checkouts: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Median milliseconds of the forced command's start and of `--help`, the two checkouts call by call."""
    taken: dict[str, dict[str, list[float]]] = {which: {} for which in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        (state / "outbox").mkdir()
        sites = {"sites": [{"key": KEY, "role": "auditor", "site": "reader"}]}
        (state / "outbox" / "sites.json").write_text(json.dumps(sites))
        for _ in range(STARTS):
            for which, checkout in checkouts.items():
                for name, (command, environment) in calls(checkout, state).items():
                    begun = time.perf_counter()
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
                    taken[which].setdefault(name, []).append(1000 * (time.perf_counter() - begun))
    return {which: {name: statistics.median(values) for name, values in of.items()} for which, of in taken.items()}


def calls(checkout: Path, state: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """What is timed as a whole process: the command and what it has in its environment."""
    # As the line in authorized_keys has it, but for the limits, which cost nothing.
    flags = ["--state", str(state), "--site", "reader", "--role", "auditor", "--key-ends", KEY.split()[1][-24:]]
    limits = ("--max-bytes", "--quota-bytes", "--quota-bundles", "--max-channels")
    flags += [word for limit in limits for word in (limit, "16")]
    program = ask_forced(checkout)
    return {
        "forced command, ms": ([*program, *flags], {"SSH_ORIGINAL_COMMAND": "help"}),
        "charity --help, ms": ([str(checkout / ".venv/bin/charity"), "--help"], {}),
        "bob --help, ms": ([str(checkout / ".venv/bin/bob"), "--help"], {}),
    }


def ask_forced(checkout: Path) -> list[str]:
    """How that checkout's door starts its forced command, without its flags."""
    package = "fedssh.door" if (checkout / "agents/door/command.py").exists() else "agents.charity"
    code = f"import sys; sys.path.insert(0, {str(checkout)!r}); from {package}.command import main; main()"
    return [str(checkout / ".venv/bin/python"), "-I", "-S", "-c", code]


def line(found: dict[str, dict[str, float]]) -> str:
    """The round's totals, as progress."""
    return ", ".join(
        f"{name.removesuffix(', ms')} {found['old'][name]:.1f} -> {found['new'][name]:.1f} ms"
        for name in ("total, ms", "forced command, ms")
    )


def report(rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print one row per figure."""
    print(f"{'':<28}{'old':>10}{'new':>10}{'new / old':>12}{'of rounds':>20}")
    for name in rounds[0]["old"]:
        if not all(name in found[which] for found in rounds for which in ("old", "new")):
            continue
        old, new = (statistics.median(found[which][name] for found in rounds) for which in ("old", "new"))
        ratios = [found["new"][name] / found["old"][name] for found in rounds if found["old"][name]]
        if not ratios:
            continue
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:<28}{old:>10.1f}{new:>10.1f}{statistics.median(ratios):>12.3f}{spread:>20}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"in_turn: {' '.join(map(str, error.cmd[:2]))} … ended with {error.returncode}")
