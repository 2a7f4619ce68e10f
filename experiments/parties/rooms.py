"""Layers at several parties (Gupta and Raskar 2018, section 6): a network in two, three and four rooms in a row.

Each room has some layers and an optimizer of its own, and speaks only to the rooms beside it. What passes is float32,
so the network's SHA-256 must be that of training in one room, which is computed beside it.

    python -m experiments.parties.rooms            what was not done yet, about a minute a network on an idle core
    python -m experiments.parties.rooms --tables   its table, into docs/explanation/split-learning.md
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.leaks import found
from experiments.leaks.session import first_weights
from experiments.parties import page
from fedssh.alice.fitting import epoch_order
from fedssh.models import check_spec
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.models.parts import Part
from fedssh.models.together import Together
from fedssh.models.training import Examples, Trainer, resident

NAME = "rooms-in-a-row"
CUTS: Mapping[tuple[str, str], Sequence[Sequence[str]]] = {
    ("mnist", "lenet"): (("s2",), ("s2", "s4"), ("s2", "s4", "c5")),
    ("pneumoniamnist", "cnn"): (("pool2",), ("pool1", "pool2"), ("pool1", "pool2", "dense")),
}
IMAGES, EPOCHS, BATCH = 4000, 3, 32
FLOAT_BYTES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = found.parse(parser, NAME, (1,), arguments)
    if options.tables:
        return page.write(NAME, table)
    load_keras(threads=1)
    opened = {name: datasets.open_dataset(name, options.data_dir) for name, _ in CUTS}

    def do(keys: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
        data, cuts = opened[keys["data"]], CUTS[keys["data"], keys["network"]]
        spec = check_spec({"name": keys["network"], "input": list(data.input), "classes": data.classes})
        some = np.random.default_rng(keys["seed"]).permutation(len(data.splits["train"]))[:IMAGES]
        return every(spec, cuts, data.splits["train"].take(some), data.splits["test"], keys["seed"])

    wanted = [{"data": data, "network": network, "seed": seed} for data, network in CUTS for seed in options.seed]
    found.work(NAME, options.out, wanted, do)
    return 0


def every(
    spec: Mapping[str, Any], cuts: Sequence[Sequence[str]], train: Images, test: Images, seed: int
) -> list[dict[str, Any]]:
    """A row for one room and for each way of cutting."""
    start, examples = first_weights(spec, seed), resident(train, spec)
    trainer = Trainer(spec, "adam", 0.001)
    trainer.load(start)
    trainer.fresh(seed, EPOCHS, -(-len(train) // BATCH))
    for epoch in range(1, EPOCHS + 1):
        trainer.epoch(examples, epoch_order(seed, epoch, len(train)), BATCH)
    held = resident(test, spec)
    one = {"cuts": [], "megabytes": [], "sha256": sha256(trainer.weights()), "test_accuracy": trainer.evaluate(held)[1]}
    rows = [one]
    for after in cuts:
        parts = in_rooms(spec, after, start, examples, seed)
        weights = {name: array for part in parts for name, array in part.weights().items()}
        trainer.load(weights)
        passed = [2 * FLOAT_BYTES * math.prod(part.after) * len(train) * EPOCHS / 1e6 for part in parts[:-1]]
        row = {"cuts": list(after), "megabytes": passed, "sha256": sha256(weights)}
        rows.append({**row, "test_accuracy": trainer.evaluate(held)[1]})
    return rows


def in_rooms(
    spec: Mapping[str, Any], after: Sequence[str], start: Mapping[str, np.ndarray], examples: Examples, seed: int
) -> list[Part]:
    """The parts of a network, each trained in a room of its own."""
    parts = [Part(spec, after, number, "adam", 0.001) for number in range(len(after) + 1)]
    for part in parts:
        part.load(start)
        part.fresh(seed, EPOCHS, -(-len(examples) // BATCH))
    rooms = Together(parts)
    for epoch in range(1, EPOCHS + 1):
        rooms.epoch(examples, epoch_order(seed, epoch, len(examples)), BATCH)
    return parts


def sha256(weights: Mapping[str, np.ndarray]) -> str:
    """Of all weights, by name in alphabetical order."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + weights[name].tobytes())
    return found.hexdigest()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What passed each cut, both ways, and the hash of what was learned."""
    lines = [
        [
            f"`{row['network']}`, {row['data']}", str(len(row["cuts"]) + 1),
            ", ".join(f"`{cut}` {size:,.1f}" for cut, size in zip(row["cuts"], row["megabytes"], strict=True)) or "–",
            f"{row['test_accuracy']:.4f}", f"`{row['sha256'][:16]}`",
        ]
        for row in rows
    ]  # fmt: skip
    heads = ("network", "rooms", "MB through each cut, both ways", "test accuracy", "SHA-256 of the weights begins")
    return found.markdown(heads, lines)


if __name__ == "__main__":
    raise SystemExit(main())
