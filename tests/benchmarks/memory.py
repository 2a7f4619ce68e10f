"""Federated averaging of a hundred small sites in memory: seconds per round, beside the arithmetic alone.

    python tests/benchmarks/memory.py [--rounds N] [--cores N] [--policy POLICY] [--json FILE]

A hundred sites with 400 images of 28x28 each train a 784-200-200-10 perceptron for one epoch in batches of 64; the
updates are averaged, and the result is scored on 2,000 images of the holdout and 10,000 of the test split. The images
are MNIST's where FEDSSH_DATA has them, else random numbers, on which the arithmetic is the same.

The floor, measured in the same run, is nothing but the matrix products of these epochs in NumPy, on as many threads:
for every batch and layer forward, and backward to weights and inputs. The machine may be slow or busy; look at the
ratio.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads are ours; before NumPy loads

import argparse
import itertools
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments import machine
from experiments.definition.config import Prepared, Run
from experiments.engines.memory import engine
from fedssh.models import check_spec
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.rules.policies import read_policy

SITES, IMAGES, BATCH, WIDTHS = 100, 400, 64, (784, 200, 200, 10)
PLAN = {
    "optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.2, "batch_size": BATCH, "epochs": 1, "patience": 10,
    "publish": "session", "proximal": 0.0, "loss": "auto",
}  # fmt: skip


def prepared(run: Run) -> tuple[Prepared, str]:
    """A hundred parts, and where the images are from."""
    folder = os.environ.get("FEDSSH_DATA")
    if folder and (Path(folder) / "mnist.npz").exists():
        splits = datasets.open_dataset("mnist", Path(folder)).splits
        train, val, test = (splits[name] for name in ("train", "val", "test"))
        train, name = train.take(np.random.default_rng(0).permutation(len(train))[: SITES * IMAGES]), "MNIST"
    else:
        train, val, test = (_random(number) for number in (SITES * IMAGES, 2000, 10000))
        name = "random numbers"
    parts = {site: train.take(np.arange(IMAGES) + number * IMAGES) for number, site in enumerate(run.site_names)}
    spec = check_spec({**run.architecture, "input": [28, 28, 1], "classes": 10})
    return Prepared(spec, None, val.take(np.arange(2000)), test, parts), name


def _random(number: int) -> Images:
    random = np.random.default_rng(number)
    return Images(random.random((number, 28, 28, 1), dtype=np.float32), random.integers(0, 10, number))


def floor(cores: int) -> tuple[float, float]:
    """Seconds and processor seconds of the matrix products of one round."""
    random = np.random.default_rng(0)
    layers = [random.random((wide, out), dtype=np.float32) for wide, out in itertools.pairwise(WIDTHS)]
    sizes = [min(BATCH, IMAGES - start) for start in range(0, IMAGES, BATCH)]
    inputs = {size: [random.random((size, wide), dtype=np.float32) for wide in WIDTHS] for size in set(sizes)}

    def site(_: int) -> None:
        for size in sizes:
            for number, weights in enumerate(layers):
                before, after = inputs[size][number], inputs[size][number + 1]
                before @ weights
                before.T @ after
                if number:  # nobody asks for the gradient of the images
                    after @ weights.T

    with ThreadPoolExecutor(cores) as threads:
        list(threads.map(site, range(cores)))
        begun, worked = time.perf_counter(), time.process_time()
        list(threads.map(site, range(SITES)))
        return time.perf_counter() - begun, time.process_time() - worked


class Laps:
    """Notes time and memory whenever a round is over."""

    def __init__(self) -> None:
        self.share = 0.0
        self.times: list[float] = []
        self.processor: list[float] = []
        self.main: list[float] = []
        self.megabytes: list[float] = []

    def __call__(self, share: float, text: str) -> None:
        if share > self.share:
            self.share = share
            self.times.append(time.perf_counter())
            self.processor.append(time.process_time())
            self.main.append(time.thread_time())
            self.megabytes.append(resident_mb())


def resident_mb() -> float:
    """What this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return machine.peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cores", type=int, default=machine.cores())
    parser.add_argument("--policy", default="fedavg")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    run = Run(
        experiment="benchmark", slug="benchmark", seed=1, architecture={"name": "mlp", "width": 200, "depth": 2},
        sites=SITES, schedule="rounds", policy=read_policy(options.policy).text, gate="on", margin=0.01,
        metric="accuracy", sessions=options.rounds + 1, plan=PLAN, validation=0.0, attack=None, straggler=1.0,
        score_sites=False, data={},
    )  # fmt: skip
    data, name = prepared(run)
    laps = Laps()
    before = floor(options.cores)
    with tempfile.TemporaryDirectory() as folder:
        outcome = engine.run(run, data, Path(folder), laps, options.cores)
    after = floor(options.cores)
    products, product_work = min(before[0], after[0]), min(before[1], after[1])
    seconds, processor, main_thread = (
        [end - begin for begin, end in itertools.pairwise(times)] for times in (laps.times, laps.processor, laps.main)
    )
    result = {
        "machine": machine.describe(),
        "images": name,
        "cores": options.cores,
        "rounds": len(seconds),
        "median_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "slowest_seconds": max(seconds),
        "processor_seconds": statistics.median(processor),
        "main_thread_seconds": statistics.median(main_thread),
        "floor_seconds": products,
        "floor_processor_seconds": product_work,
        "ratio": statistics.median(seconds) / products,
        "processor_ratio": statistics.median(processor) / product_work,
        "training_seconds": outcome.train_seconds / (len(seconds) + 1) / options.cores,
        "megabytes_first": laps.megabytes[0],
        "megabytes_last": laps.megabytes[-1],
        "test_accuracy": outcome.final.test["accuracy"],
    }
    print(
        f"{name}, {options.cores} cores, {len(seconds)} rounds: median {result['median_seconds']:.2f} s a round "
        f"({min(seconds):.2f} to {max(seconds):.2f}), of which training {result['training_seconds']:.2f} s; "
        f"processor time {result['processor_seconds']:.2f} s, of which beside training "
        f"{result['main_thread_seconds']:.2f} s\n"
        f"the matrix products alone: {products:.2f} s, processor time {product_work:.2f} s; "
        f"ratio {result['ratio']:.2f}, of processor time {result['processor_ratio']:.2f}\n"
        f"memory: {laps.megabytes[0]:.0f} MB after the first round, {laps.megabytes[-1]:.0f} MB after the last; "
        f"test accuracy {outcome.final.test['accuracy']:.4f}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
