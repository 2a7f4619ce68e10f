"""How long a round of many small sites takes, beside the arithmetic it cannot do without.

A round is 100 sites with 400 images each and one local epoch: load the release's weights, train, take the weights out.

    mlp   784-200-200-10 on MNIST, SGD with rate 0.2 and momentum 0.2, batch 64     199,210 weights
    cnn   depth 4 on 28x28 images in two classes, Adam, batch 64                    223,873 weights; fewer sites

The floor of the mlp is its matrix products alone, the same shapes and number in float32: in NumPy on one thread, and
in TensorFlow in the same arrangement of threads as the round. Both are measured in between the rounds, because a
machine is seldom as fast now as a minute ago. Prints JSON.

Measured on 2 cores: `python tests/benchmarks/training.py`; MNIST comes from FEDSSH_DATA, else the pixels are random.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.models.backend import load_keras
from fedssh.models.data import images
from fedssh.models.data.images import Images
from fedssh.models.pool import Pool
from fedssh.models.training import Examples, Trainer, resident

MLP: dict[str, Any] = {"name": "mlp", "input": [28, 28, 1], "classes": 10}
CNN: dict[str, Any] = {"name": "cnn", "input": [28, 28, 1], "classes": 2, "depth": 4}
EXAMPLES, BATCH = 400, 64
WIDTHS = (784, 200, 200, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainers", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each training")
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cnn-sites", type=int, default=10)
    options = parser.parse_args()
    load_keras(options.threads, options.trainers)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({
        **machine, "date": time.strftime("%Y-%m-%d"), **vars(options),
        "mlp": mlp(options.trainers, options.sites, options.rounds),
        "cnn": cnn(options.trainers, options.cnn_sites),
    }, indent=2))  # fmt: skip


def mlp(trainers: int, sites: int, rounds: int) -> dict[str, Any]:
    """Rounds with their floors in between."""
    held = parts(digits(sites * EXAMPLES), sites)
    with made(lambda: Trainer(MLP, "sgd", 0.2, momentum=0.2), trainers) as (pool, seconds):
        release = one_weights(pool)
        one, floor_tensorflow = a_round(pool, held, release), products(pool, sites)
        spent: dict[str, list[float]] = {"round": [], "tensorflow": [], "numpy": []}
        memory = []
        for _ in range(rounds):
            spent["round"].append(timed(one))
            memory.append(resident_mb())
        for _ in range(5):
            spent["round"].append(timed(one))
            spent["tensorflow"].append(timed(floor_tensorflow))
            spent["numpy"].append(timed(lambda: numpy_products(sites)))
    floor = min(spent["tensorflow"])
    return {
        "seconds_to_make_trainers": round(seconds, 2),
        **{f"{name}_seconds": summary(values) for name, values in spent.items()},
        "round_by_floor": round(min(spent["round"]) / floor, 2),
        "resident_mb_after_rounds": [memory[0], memory[len(memory) // 2], memory[-1]],
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def cnn(trainers: int, sites: int) -> dict[str, Any]:
    """The same with convolutions, where nearly all time is arithmetic."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, EXAMPLES)
    held = resident(Images(random.random((EXAMPLES, 28, 28, 1), dtype=np.float32), labels))
    with made(lambda: Trainer(CNN, "adam", 0.001), trainers) as (pool, seconds):
        one = a_round(pool, [held] * sites, one_weights(pool))
        spent = [timed(one) for _ in range(4)]
    return {"seconds_to_make_trainers": round(seconds, 2), "sites": sites, "round_seconds": summary(spent)}


@contextlib.contextmanager
def made(make: Callable[[], Trainer], size: int) -> Iterator[tuple[Pool, float]]:
    """A pool and how long it took to make, graphs and first run included."""
    begun = time.perf_counter()
    pool = Pool(make, size)
    try:
        yield pool, time.perf_counter() - begun
    finally:
        pool.close()


def one_weights(pool: Pool) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = pool.run([lambda trainer: trainer.weights()])[0]
    return weights


def a_round(pool: Pool, sites: list[Examples], release: dict[str, np.ndarray]) -> Callable[[], object]:
    """One local epoch of every site from the same weights."""

    def job(number: int) -> Callable[[Trainer], dict[str, np.ndarray]]:
        order = np.random.default_rng([number, 1]).permutation(EXAMPLES)

        def train(trainer: Trainer) -> dict[str, np.ndarray]:
            trainer.load(release)
            trainer.fresh(number)
            trainer.epoch(sites[number], order, BATCH)
            return trainer.weights()

        return train

    jobs = [job(number) for number in range(len(sites))]
    return lambda: pool.run(jobs)


def batches() -> list[int]:
    """The sizes of an epoch's batches."""
    rest = EXAMPLES % BATCH
    return [BATCH] * (EXAMPLES // BATCH) + [rest] * bool(rest)


def products(pool: Pool, sites: int) -> Callable[[], object]:
    """The matrix products of every site's epoch as graphs of nothing else, on the threads of the pool."""
    import tensorflow

    random = np.random.default_rng(0)
    weights = [tensorflow.constant(random.random(pair, dtype=np.float32)) for pair in itertools.pairwise(WIDTHS)]
    layers = {
        size: [tensorflow.constant(random.random((size, width), dtype=np.float32)) for width in WIDTHS]
        for size in set(batches())
    }

    @tensorflow.function  # type: ignore[untyped-decorator]
    def epoch(layers: dict[int, list[Any]], weights: list[Any]) -> Any:
        total = 0.0
        for size in batches():
            x = layers[size]
            for number, weight in enumerate(weights):
                with tensorflow.control_dependencies([total] if not isinstance(total, float) else []):
                    parts = [x[number] @ weight, tensorflow.matmul(x[number], x[number + 1], transpose_a=True)]
                    parts += [tensorflow.matmul(x[number + 1], weight, transpose_b=True)] * bool(number)
                total += sum(part[0, 0] for part in parts)
        return total

    epoch(layers, weights)
    return lambda: pool.run([lambda trainer: float(epoch(layers, weights))] * sites)


def numpy_products(sites: int) -> None:
    """The same products in NumPy, one site after the other, with the threads that NumPy takes."""
    random = np.random.default_rng(0)
    weights = [random.random(pair, dtype=np.float32) for pair in itertools.pairwise(WIDTHS)]
    layers = {size: [random.random((size, width), dtype=np.float32) for width in WIDTHS] for size in set(batches())}
    for size in batches() * sites:
        x = layers[size]
        for number, weight in enumerate(weights):
            np.matmul(x[number], weight)
            np.matmul(x[number].T, x[number + 1])
            if number:
                np.matmul(x[number + 1], weight.T)


def parts(examples: Images, sites: int) -> list[Examples]:
    """As many as a site has, for each."""
    every = np.arange(sites * EXAMPLES).reshape(sites, EXAMPLES)
    return [resident(examples.take(own)) for own in every]


def digits(number: int) -> Images:
    """MNIST where it is, else random pixels: the time is the same."""
    folder = os.environ.get("FEDSSH_DATA")
    path = Path(folder or ".") / "mnist.npz"
    if path.is_file():
        return images.load(path, MLP["input"], MLP["classes"], "train").take(np.arange(number))
    random = np.random.default_rng(0)
    return Images(random.random((number, *MLP["input"]), dtype=np.float32), random.integers(0, 10, number))


def timed(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "least": round(ordered[0], 3),
        "median": round(ordered[len(ordered) // 2], 3),
        "most": round(ordered[-1], 3),
    }


def resident_mb() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() // 2**20


if __name__ == "__main__":
    main()
