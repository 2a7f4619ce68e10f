"""How often a site that watches its gradients stops at a hijacker, and how often at an honest coordinator.

    python -m experiments.leaks.hijacking [--seed 2 3 4] [--only mnist] [--site alike] [--data-dir DIR] [--out FILE]
    python -m experiments.leaks.hijacking --tables

For each data set, kind of site and seed: one honest session and, where sites are of the usual size, one for each way of
hijacking it, see `hijacker`. Each is watched by `models.watching` as it is, and by the rule as its authors have it
(as many neighbours as honest gradients less one, the limit 1.5, a rehearsal of one epoch). What the hijacker sees of
200 images of the site is measured when the site notices, and at the end, as if nobody had looked.

What the watch is made of was chosen with seed 1, which is not among those of the table. What FILE has is not done
again. `--tables` writes the tables of FILE into the pages that have them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.leaks import found, tables
from experiments.leaks.hijacker import WAYS, Hijacker
from experiments.leaks.session import BATCH, Session, first_weights
from experiments.leaks.ssim import ssim
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets, partition
from fedssh.models.data.images import Images
from fedssh.models.watching import STEPS, Watch, rehearse

NAME = "hijacking"
DATA: Mapping[str, tuple[dict[str, Any], str]] = {
    "pneumoniamnist": ({"name": "cnn", "input": [28, 28, 1], "classes": 2}, "pool2"),
    "mnist": ({"name": "lenet", "input": [28, 28, 1], "classes": 10}, "s4"),
}
# How the data is divided, among how many, how many examples of all of it there are; whether to hijack; epochs before.
SITES: Mapping[str, tuple[str, int, int, bool, int]] = {
    "alike": ("iid", 4, 4000, True, 0),
    "unlike": ("dirichlet:0.3", 4, 4000, True, 0),
    "small": ("iid", 40, 4000, False, 0),
    "later": ("iid", 4, 4000, False, 5),
}
HONEST_STEPS, HIJACKED_STEPS = 300, 80
SHOWN, HERS = 200, 1000  # images of the site that she tries; images that she has


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet and print a line for each; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(DATA), nargs="+", default=list(DATA), help="data sets")
    parser.add_argument("--site", choices=list(SITES), nargs="+", default=list(SITES), help="kinds of sites")
    options = found.parse(parser, NAME, (2, 3, 4), arguments)
    if options.tables:
        return tables.write(NAME)
    load_keras(threads=1)
    wanted = [
        {"data": data, "site": site, "seed": seed}
        for seed in options.seed
        for data in options.only
        for site in options.site
    ]
    found.work(NAME, options.out, wanted, lambda keys: every(options.data_dir, **keys))
    return 0


def every(folder: Any, data: str, site: str, seed: int) -> list[dict[str, Any]]:
    """All sessions of a site; when each rule notices something, and what was seen by then."""
    spec, cut = DATA[data]
    own, hers = examples(folder, data, site, seed)
    weights = begun(spec, own, seed, SITES[site][4])
    first, second = (rehearse(spec, weights, own, BATCH, "adam", 0.001, seed=[seed, number]) for number in (7, 8))
    rooms = Session(spec, cut, seed, weights=weights)
    rows = [watched(rooms, own, HONEST_STEPS, watches(first, second, len(own)), None)]
    rows[0] |= {"session": "honest", "images": len(own)}
    if SITES[site][3]:
        mean = np.broadcast_to(hers.images.mean(axis=0), (SHOWN, *hers.images.shape[1:]))
        hijacker = Hijacker(spec, cut, hers.images, seed)
        for way in WAYS:
            rooms.again()
            answers = hijacker.answers(way, rooms), lambda: likeness(rooms, hijacker, own.images[:SHOWN])
            row = watched(rooms, own, HIJACKED_STEPS, watches(first, second, len(own)), answers)
            rows.append({**row, "session": way, "ssim_mean_image": float(ssim(own.images[:SHOWN], mean).mean())})
    return rows


def watches(first: np.ndarray, second: np.ndarray, examples: int) -> dict[str, Watch]:
    """The watch as it is, and as its authors have it."""
    epoch = min(max(-(-examples // BATCH), 10), STEPS)
    return {"noticed": Watch(first, second), "noticed_as_published": Watch(first[:epoch], neighbours=None)}


def watched(
    rooms: Session,
    own: Images,
    steps: int,
    watches: Mapping[str, Watch],
    hijacked: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Callable[[], float]] | None,
) -> dict[str, Any]:
    """One session.

    Args:
        hijacked: What answers for her, and how like the site's images are to what she sees by now.
    """
    answer, like = hijacked or (None, None)
    row: dict[str, Any] = {"steps": steps, **dict.fromkeys(watches)}
    if like:
        row |= {"ssim_when_noticed": None, "ssim_at_the_end": None}
    for step, _ in enumerate(rooms.train(own, steps, answer), 1):
        assert rooms.head.felt is not None
        for name, watch in watches.items():
            if watch.look(rooms.head.felt).hijacked and row[name] is None:
                row[name] = step
                if like and name == "noticed":
                    row["ssim_when_noticed"] = like()
        if step == steps:
            break
    if like:
        row["ssim_at_the_end"] = like()
    return row


def examples(folder: Any, data: str, site: str, seed: int) -> tuple[Images, Images]:
    """A site's own examples, and those of the coordinator."""
    splits = datasets.open_dataset(data, folder).splits
    rule, sites, number, _, _ = SITES[site]
    random = np.random.default_rng([seed, 6])
    pool = splits["train"].take(random.permutation(len(splits["train"]))[:number])
    own = pool.take(partition.split(rule, pool.labels, sites, seed)[0])
    return own, splits["val"].take(random.permutation(len(splits["val"]))[:HERS])


def begun(spec: Mapping[str, Any], own: Images, seed: int, epochs: int) -> Mapping[str, np.ndarray]:
    """The weights that a session begins with: drawn, or trained for so many epochs."""
    if not epochs:
        return first_weights(spec, seed)
    cut = next(cut for known, cut in DATA.values() if known == spec)
    before = Session(spec, cut, seed + 100)
    for _ in before.train(own, epochs):
        pass
    return {**before.head.weights(), **before.tail.weights()}


def likeness(rooms: Session, hijacker: Hijacker, images: np.ndarray) -> float:
    """How like the site's images are to what she makes of their features."""
    features = np.concatenate([rooms.features(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])
    return float(ssim(images, hijacker.images(features)).mean())


if __name__ == "__main__":
    raise SystemExit(main())
