"""Ensembles (Gupta and Raskar 2018, section 6): several networks, each trained in two rooms, and a majority vote.

X-rays of three sites, which take turns; the same order and seed for all networks, float16 at the cut. Where each of the
three networks says something else, which two classes do not allow, the first one's word would count.

    python -m experiments.parties.vote            what was not done yet
    python -m experiments.parties.vote --tables   its table, into docs/explanation/split-learning.md
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.engines.memory.passing import passing
from experiments.leaks import found
from experiments.leaks.session import first_weights
from experiments.parties import page
from fedssh.alice.fitting import epoch_order
from fedssh.models import build, check_spec, set_weights
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets, partition
from fedssh.models.data.images import Images
from fedssh.models.parts import Part
from fedssh.models.together import Together
from fedssh.models.training import resident
from fedssh.split.wire import Wire

NAME = "ensemble-vote"
CUTS = {"cnn": "pool2", "lenet": "s4", "mlp": "dense1"}
SITES, TURNS, EPOCHS, BATCH = 3, 3, 2, 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = found.parse(parser, NAME, (1, 2, 3), arguments)
    if options.tables:
        return page.write(NAME, table)
    load_keras(threads=1)
    data = datasets.open_dataset("pneumoniamnist", options.data_dir)
    head = {"input": list(data.input), "classes": data.classes}
    specs = {name: check_spec({"name": name, **head}) for name in CUTS}
    wanted = [{"seed": seed} for seed in options.seed]
    found.work(NAME, options.out, wanted, lambda keys: [one(specs, data.splits["train"], data.splits["test"], **keys)])
    return 0


def one(specs: Mapping[str, Mapping[str, Any]], train: Images, test: Images, seed: int) -> dict[str, float]:
    """What each network alone and their vote get right of the test split."""
    sites = [train.take(own) for own in partition.iid(train.labels, SITES, seed)]
    said = {name: predicted(spec, trained(spec, CUTS[name], sites, seed), test) for name, spec in specs.items()}
    right = {name: float((classes == test.labels).mean()) for name, classes in said.items()}
    return {**right, "vote": float((voted(list(said.values())) == test.labels).mean())}


def trained(spec: Mapping[str, Any], cut: str, sites: Sequence[Images], seed: int) -> dict[str, np.ndarray]:
    """The weights of a network after all turns."""
    parts = [Part(spec, [cut], number, "adam", 0.001) for number in (0, 1)]
    for part in parts:
        part.load(first_weights(spec, seed))
        part.fresh(seed)
    rooms, everything = Together(parts, passing(Wire.f16)), [resident(site, spec) for site in sites]
    for turn in range(TURNS):
        for number, examples in enumerate(everything):
            for epoch in range(1, EPOCHS + 1):
                order = epoch_order(1000 * seed + 100 * turn + number, epoch, len(examples))
                rooms.epoch(examples, order, BATCH)
    return {name: array for part in parts for name, array in part.weights().items()}


def predicted(spec: Mapping[str, Any], weights: Mapping[str, np.ndarray], test: Images) -> np.ndarray:
    """The class of each image, of two: int64 [n]."""
    network = build(spec)
    set_weights(network, weights)
    outputs = network.predict(test.images, batch_size=256, verbose=0)
    classes: np.ndarray = (outputs[:, 0] > 0.5).astype(np.int64)
    return classes


def voted(said: Sequence[np.ndarray]) -> np.ndarray:
    """The class that most of several networks give an image; of equally many, that of the first of these networks.

    Args:
        said: Of each network: int64 [n].
    """
    every = np.stack(said)
    votes = (every[:, None, :] == every[None, :, :]).sum(axis=0)  # how many say what this one says: [networks, n]
    most: np.ndarray = every[votes.argmax(axis=0), np.arange(every.shape[1])]
    return most


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy of each network and of the vote, and by how much the vote is better, paired by seed."""
    lines = []
    for name in (*CUTS, "vote"):
        more = "–" if name == "vote" else found.mean([row["vote"] - row[name] for row in rows], "+", 4)
        lines.append([name, str(len(rows)), found.mean([row[name] for row in rows], digits=4), more])
    return found.markdown(("network", "seeds", "test accuracy", "the vote is better by"), lines)


if __name__ == "__main__":
    raise SystemExit(main())
