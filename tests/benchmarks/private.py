"""How long a private epoch takes, beside a plain one of the same images, network, optimizer and batches.

One epoch of each in turn, after one that is not counted; the ratio is of the medians of all, once by the clock and
once by the processor time of the process, which a busy machine changes less. `apart` is the same in a loop of one
image after the other, as networks are trained for which `models.clipped` does not know a way.

    cnn       depth 4 and 8, PneumoniaMNIST, 28x28x1, 2 classes
    lenet     MNIST, 28x28x1, 10 classes
    mlp       784-200-200-10, MNIST
    alexnet   units 64, random pixels, 64x64x3, 2 classes      squeezenet   the same pixels

The first images of the data in FEDSSH_DATA, else random pixels. Prints JSON. `python -m tests.benchmarks.private`
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.models import check_spec
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.models.private import PrivateTrainer
from fedssh.models.training import Trainer, resident

DIGITS, XRAYS, PHOTOGRAPHS = ([28, 28, 1], 10), ([28, 28, 1], 2), ([64, 64, 3], 2)
NETWORKS: dict[str, tuple[dict[str, Any], str, tuple[list[int], int]]] = {
    "cnn": ({"name": "cnn", "depth": 4}, "pneumoniamnist", XRAYS),
    "cnn-8": ({"name": "cnn", "depth": 8}, "pneumoniamnist", XRAYS),
    "lenet": ({"name": "lenet"}, "mnist", DIGITS),
    "mlp": ({"name": "mlp"}, "mnist", DIGITS),
    "alexnet": ({"name": "alexnet", "units": 64}, "", PHOTOGRAPHS),
    "squeezenet": ({"name": "squeezenet"}, "", PHOTOGRAPHS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5, help="of each kind")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    load_keras(options.threads)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({
        **machine, "date": time.strftime("%Y-%m-%d"), **vars(options),
        **{name: _measured(*NETWORKS[name], options) for name in options.networks.split(",")},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }, indent=2))  # fmt: skip


def _measured(
    network: dict[str, Any], dataset: str, kind: tuple[list[int], int], options: argparse.Namespace
) -> dict[str, Any]:
    shape, classes = kind
    spec = check_spec({**network, "input": shape, "classes": classes})
    examples = resident(_images(dataset, shape, classes, options.images))
    private: dict[str, Any] = {"unit": "image", "clip": 1.0, "noise": 1.0}
    trainers = {"plain": Trainer(spec, "sgd", 0.01), "private": PrivateTrainer(spec, "sgd", 0.01, **private)}
    if trainers["private"]._piece:  # type: ignore[attr-defined]
        trainers["apart"] = PrivateTrainer(spec, "sgd", 0.01, **private, pieces=False)
    order = np.random.default_rng(1).permutation(len(examples))
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for one in trainers.values():
        one.fresh(1)
        one.epoch(examples, order, options.batch_size)
    for _ in range(options.epochs):
        for name, one in trainers.items():
            wall, processor = time.perf_counter(), time.process_time()
            one.epoch(examples, order, options.batch_size)
            spent[name].append((time.perf_counter() - wall, time.process_time() - processor))
    found: dict[str, Any] = {"data": dataset if Path(os.environ.get("FEDSSH_DATA", "")).is_dir() else "random"}
    for number, clock in enumerate(("seconds", "processor_seconds")):
        medians = {name: statistics.median(each[number] for each in all_of) for name, all_of in spent.items()}
        found[clock] = {name: round(value, 3) for name, value in medians.items()}
        found[f"{clock}_ratio"] = {
            name: round(value / medians["plain"], 2) for name, value in medians.items() if name != "plain"
        }
    return found


def _images(dataset: str, shape: list[int], classes: int, count: int) -> Images:
    folder = os.environ.get("FEDSSH_DATA")
    if dataset and folder:
        return datasets.open_dataset(dataset, Path(folder)).splits["train"].take(np.arange(count))
    random = np.random.default_rng(2)
    return Images(random.random((count, *shape), np.float32), random.integers(0, classes, count))


if __name__ == "__main__":
    main()
