"""`scripts/experiment pride`: federated averaging, with its sums made in several ways, side by side.

Iris with two parties and three, MNIST with as many as one likes; each way trains the same rounds from the same weights,
with the same batches. A sum under masks takes three parties: of two, each would know the other's.

    scripts/experiment pride                     what was not done yet
    scripts/experiment pride --tables            its tables, into docs/explanation/private-sums.md

A row of its JSON file is one way with one seed: what the last model gets right of the test examples, by how much a
sum was away from the plain one of the same steps, and what one round took on average: see `ways`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from experiments.leaks import found
from experiments.machine import ROOT
from experiments.pride import ways
from experiments.pride.paillier import Key
from experiments.pride.watch import Cost
from fedssh.alice.fitting import epoch_order
from fedssh.files import write_whole
from fedssh.models import build, check_spec, get_weights, set_weights
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets, partition
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident
from fedssh.rules.masking import LEAST

NAME = "pride"
PAGE = ROOT / "docs" / "explanation" / "private-sums.md"
FEW = 2  # rounds where each takes long: enough to say what one takes
WAYS = ("plain", "masks", "packed", "single", "ckks", "whole")
SAID = {
    "plain": "plain",
    "masks": "masks (Bonawitz et al. 2017)",
    "packed": "Paillier, 95 numbers in a plaintext",
    "single": "Paillier, a number in a plaintext",
    "ckks": "CKKS",
    "whole": "plain, weights rounded to whole numbers",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/experiment pride", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parties", type=int, nargs="+", default=[3, 10], metavar="N", help="of MNIST  [3 10]")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="[20 of Iris, 5 of MNIST]")
    parser.add_argument("--bits", type=int, default=3072, help="of Paillier's modulus  [3072]")
    options = found.parse(parser, NAME, (1, 2, 3, 4, 5), arguments)
    if options.tables:
        return tables()
    load_keras(threads=1)
    key = Key.new(options.bits)
    cases = [("iris", parties, way) for parties in (2, 3) for way in WAYS]
    cases += [("mnist", parties, way) for parties in options.parties for way in WAYS]
    wanted = [
        {"data": data, "parties": parties, "way": way, "seed": seed}
        for data, parties, way in cases
        for seed in _seeds(data, parties, way, options.seed)
    ]
    found.work(NAME, options.out, wanted, lambda keys: [one(options.data_dir, key, options.rounds, **keys)])
    return 0


def _seeds(data: str, parties: int, way: str, seeds: Sequence[int]) -> Sequence[int]:
    """Fewer where a round takes long: with a number in each plaintext half a minute for Iris, and an hour for MNIST."""
    if way == "masks" and parties < LEAST:
        return []
    if way == "single":
        return seeds[: (data, parties) == ("iris", 2)]
    if way == "packed" and data == "mnist":
        return seeds[: parties == LEAST]
    return seeds if data == "iris" else seeds[:3]


def one(folder: Path, key: Key, rounds: int, data: str, parties: int, way: str, seed: int) -> dict[str, Any]:
    """A federation; what its last model gets right, and what a round took."""
    spec, train, test, plan = iris(seed) if data == "iris" else mnist(folder, seed)
    rounds = rounds or (FEW if way == "single" else plan["rounds"])
    sites = [train.take(own) for own in partition.iid(train.labels, parties, seed)]
    trainer = Trainer(spec, "adam", plan["rate"])
    with contextlib.ExitStack() as stack:
        summed = _way(way, parties, key, stack)
        weights, costs, apart = learned(trainer, sites, summed, plan, rounds, seed, whole=way == "whole")
    network = build(check_spec(spec))
    set_weights(network, weights)
    outputs = network.predict(test.images, batch_size=256, verbose=0)
    return {
        "accuracy": float((outputs.argmax(axis=1) == test.labels).mean()),
        "apart": f"{apart:.1e}",
        "weights": sum(one.size for one in weights.values()), "rounds": rounds,
        "party_ms": 1e3 * fmean(cost.party for cost in costs),
        "coordinator_ms": 1e3 * fmean(cost.coordinator for cost in costs), "bytes": costs[0].sent,
    }  # fmt: skip


def learned(
    trainer: Trainer, sites: Sequence[Images], summed: ways.Way, plan: Mapping[str, Any], rounds: int, seed: int,
    *, whole: bool = False,
) -> tuple[dict[str, np.ndarray], list[Cost], float]:  # fmt: skip
    """The weights after all rounds, what each sum took, and by how much one was away from the plain one at most.

    Args:
        whole: What a party sends is its weights, rounded to whole numbers, instead of steps.
    """
    weights, costs, apart = _first(trainer.spec, seed), list[Cost](), 0.0
    everything = [resident(site, trainer.spec) for site in sites]
    for number in range(1, rounds + 1):
        steps = []
        for place, examples in enumerate(everything):
            trainer.load(weights)
            trainer.fresh(1000 * seed + number)
            for epoch in range(1, plan["epochs"] + 1):
                order = epoch_order(100_000 * seed + 100 * number + place, epoch, len(examples))
                trainer.epoch(examples, order, plan["batch"])
            after = trainer.weights()
            ends = np.concatenate([after[name].ravel() for name in weights])
            begins = np.concatenate([one.ravel() for one in weights.values()])
            steps.append(np.rint(ends) if whole else ends.astype(np.float64) - begins)
        counts = [len(site) for site in sites]
        mean, cost = summed(steps, counts)
        costs.append(cost)
        apart = max(apart, float(np.abs(mean - np.average(steps, axis=0, weights=counts)).max()))
        weights = _moved(weights, mean, whole=whole)
    return weights, costs, apart


def _moved(weights: Mapping[str, np.ndarray], mean: np.ndarray, *, whole: bool) -> dict[str, np.ndarray]:
    moved, at = {}, 0
    for name, one in weights.items():
        step = mean[at : at + one.size].reshape(one.shape)
        moved[name] = (step if whole else one + step).astype(np.float32)
        at += one.size
    return moved


def _first(spec: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    import keras

    keras.utils.set_random_seed(seed)
    return dict(get_weights(build(spec)))


def _way(way: str, parties: int, key: Key, stack: contextlib.ExitStack) -> ways.Way:
    if way == "masks":
        masks, folder = ways.masks(parties)
        stack.enter_context(folder)
        return masks
    known: dict[str, Callable[[], ways.Way]] = {
        "plain": lambda: ways.plain, "whole": lambda: ways.plain, "ckks": lambda: ways.ckks,
        "packed": lambda: ways.Paillier(int(key.n.bit_length()) // ways.BITS - 1, key=key),
        "single": lambda: ways.Paillier(1, textbook=True, key=key),
    }  # fmt: skip
    return known[way]()


def iris(seed: int) -> tuple[dict[str, Any], Images, Images, dict[str, Any]]:
    """Fisher's irises: 120 to train on and 30 to test, ten of each sort; lengths in decimetres."""
    from sklearn.datasets import load_iris

    loaded = load_iris()
    order = np.random.default_rng(seed).permutation(len(loaded.target))
    test = np.concatenate([order[loaded.target[order] == sort][:10] for sort in range(3)])
    train = np.setdiff1d(order, test)
    images = (loaded.data / 10).astype(np.float32).reshape(-1, 1, 4, 1)
    spec = check_spec({"name": "mlp", "width": 16, "depth": 1, "input": [1, 4, 1], "classes": 3})
    plan = {"rate": 0.01, "epochs": 5, "batch": 8, "rounds": 20}
    labels = loaded.target.astype(np.int64)
    return spec, Images(images[train], labels[train]), Images(images[test], labels[test]), plan


def mnist(folder: Path, seed: int) -> tuple[dict[str, Any], Images, Images, dict[str, Any]]:
    """6,000 digits to train on, and all 10,000 to test."""
    data = datasets.open_dataset("mnist", folder)
    some = np.random.default_rng(seed).permutation(len(data.splits["train"]))[:6000]
    spec = check_spec({"name": "mlp", "width": 32, "depth": 1, "input": list(data.input), "classes": data.classes})
    plan = {"rate": 0.002, "epochs": 2, "batch": 32, "rounds": 5}
    return spec, data.splits["train"].take(some), data.splits["test"], plan


def tables() -> int:
    """Write the page's tables."""
    write_whole(PAGE, page().encode(), 0o644)
    print(f"{PAGE.relative_to(ROOT)} has the tables of {NAME}", file=sys.stderr)
    return 0


def page() -> str:
    """The page as it should be."""
    rows, text = found.read(found.path_of(NAME))["runs"], PAGE.read_text()
    for data in ("iris", "mnist"):
        text = found.replaced(text, f"{NAME}-{data}", table([row for row in rows if row["data"] == data]))
    return text


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each number of parties and way."""
    lines = []
    for parties in sorted({row["parties"] for row in rows}):
        plainly = [row for row in rows if (row["parties"], row["way"]) == (parties, "plain")]
        for way in WAYS:
            some = [row for row in rows if (row["parties"], row["way"]) == (parties, way)]
            if not some:
                continue
            times = fmean(row["bytes"] for row in some) / fmean(row["bytes"] for row in plainly)
            lines.append([
                str(parties), SAID[way], str(len(some)),
                "–" if way == "single" else found.mean([row["accuracy"] for row in some], digits=4),
                f"{max(float(row['apart']) for row in some):.1e}",
                f"{fmean(row['party_ms'] for row in some):,.2f} ms",
                f"{fmean(row['coordinator_ms'] for row in some):,.2f} ms", f"{times:,.2f}",
            ])  # fmt: skip
    heads = (
        "parties", "sum", "seeds", "test accuracy", "a sum is away by at most", "a party, in a round",
        "the coordinator", "bytes, times plain",
    )  # fmt: skip
    return found.markdown(heads, lines)


if __name__ == "__main__":
    raise SystemExit(main())
