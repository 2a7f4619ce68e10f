"""The arithmetic of a round on one core: processor time against reading the same bytes once, and the memory it takes.

    python tests/benchmarks/averaging.py [--quick]

The floor is `numpy.sum` over every update, measured in the same run: the machine may be slow or busy, the ratio is what
counts. `whole arrays` is the same rule as NumPy or SciPy give it on one stacked array, where there is one. Memory is
what is allocated at the peak beyond the updates, the result included.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from fedssh.commands import print_table
from fedssh.rules.averaging import mix, round_result
from fedssh.rules.policies import read_policy

# Tensors of the 784-200-200-10 network of McMahan et al. 2017: 199,210 weights.
SHAPES = {"1/k": (784, 200), "1/b": (200,), "2/k": (200, 200), "2/b": (200,), "3/k": (200, 10), "3/b": (10,)}
POLICIES = (
    "fedavg",
    "fedavg:clip=1",
    "fedavg:server=momentum",
    "fedavg:server=adam",
    "median",
    "trimmed:1",
    "krum:1",
    "multi-krum:1",
)
WHOLE: Mapping[str, Callable[[np.ndarray, list[int]], object]] = {
    "fedavg": lambda stacked, examples: np.average(stacked, axis=0, weights=examples),
    "median": lambda stacked, _: np.median(stacked, axis=0),
    "trimmed:1": lambda stacked, _: stats.trim_mean(stacked, 1 / len(stacked) + 1e-9, axis=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the arithmetic of a round on one core.")
    parser.add_argument("--quick", action="store_true", help="each only once")
    times = 1 if parser.parse_args().quick else 5
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, one core, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, commit {commit}"
    )
    for sites in (5, 100):
        measure(sites, times)


def measure(sites: int, times: int) -> None:
    """Print a table for a number of updates."""
    random = np.random.default_rng(sites)
    updates = [
        {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(sites)
    ]
    examples = random.integers(1, 1000, sites).tolist()
    base = updates[0]
    size = sum(array.size for array in base.values())
    floor = best(lambda: [array.sum() for update in updates for array in update.values()], times)
    print(f"\n{sites} updates of {size:,} weights, {4 * size * sites / 1e6:.1f} MB; read once: {1e3 * floor:.2f} ms")
    stacked = np.stack([np.concatenate([array.ravel() for array in update.values()]) for update in updates])
    rows = []
    for name in POLICIES:
        policy, whole = read_policy(name), WHOLE.get(name)
        work = functools.partial(round_result, policy, base, updates, examples, [])
        alone = f"{1e3 * best(functools.partial(whole, stacked, examples), times):.1f} ms" if whole else None
        rows.append([*row(name, work, floor, times), alone])
    print_table(["policy", "time", "x read once", "memory", "whole arrays"], rows)
    if sites == 5:
        two = best(lambda: [array.sum() for update in updates[:2] for array in update.values()], times)
        print()
        mixed = row("mix of two", lambda: mix(updates[0], updates[1], 0.25), two, times)
        print_table(["", "time", "x read once", "memory"], [mixed])


def row(name: str, work: Callable[[], object], floor: float, times: int) -> list[str]:
    """Time and memory of one piece of work."""
    seconds = best(work, times)
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [name, f"{1e3 * seconds:.1f} ms", f"{seconds / floor:.1f}", f"{peak / 1e6:.1f} MB"]


def best(work: Callable[[], object], times: int) -> float:
    """The least processor time of some runs, in seconds, after one that does not count."""
    work()
    seconds = []
    for _ in range(times):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
