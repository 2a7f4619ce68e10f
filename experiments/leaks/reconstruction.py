"""What a coordinator could see of a site's images at each cut: a decoder trained on her holdout, tried on the site's.

    python -m experiments.leaks.reconstruction [--seed 1 2 3] [--only pool2] [--data-dir DIR] [--out FILE]
    python -m experiments.leaks.reconstruction --tables

A `cnn` is trained on PneumoniaMNIST, split at a cut. Then who has the head, as a coordinator has with
`weights=coordinator`, has the holdout's 524 images pass it, with the wire and the noise that are agreed, trains a
decoder from what comes out to the images, and gives it what passes of 1,000 images of the site. Their likeness is
measured by `ssim`, beside that of the holdout's mean image, which knows nothing of an image.

A run takes half a minute on one core; what FILE has is not done again. `--tables` writes the tables of FILE into the
pages that have them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.leaks import found, tables
from experiments.leaks.decoder import BATCH, Decoder
from experiments.leaks.session import Session
from experiments.leaks.ssim import mean_squared_error, ssim
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images

NAME = "reconstruction"
SPEC = {"name": "cnn", "input": [28, 28, 1], "classes": 2}
CUTS = ("pool1", "pool2", "dense")
WAYS = (("f16", 0.0), ("f16", 1.0), ("int8", 0.0), ("int8", 1.0), ("f16", 4.0))  # wire, noise
EPOCHS, LESSONS = 5, 30  # of the network, of the decoder
TRIED = 1000  # images of the site


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not done yet and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CUTS, nargs="+", default=CUTS, help="cuts")
    options = found.parse(parser, NAME, (1, 2, 3), arguments)
    if options.tables:
        return tables.write(NAME)
    load_keras(threads=1)
    data = datasets.open_dataset("pneumoniamnist", options.data_dir).splits
    wanted = [
        {"cut": cut, "wire": wire, "noise": noise, "seed": seed}
        for seed in options.seed
        for wire, noise in WAYS
        for cut in options.only
    ]
    found.work(NAME, options.out, wanted, lambda keys: [one(data, **keys)])
    return 0


def one(data: Mapping[str, Images], cut: str, wire: str, noise: float, seed: int) -> dict[str, Any]:
    """One network and one decoder; what they reach."""
    own, holdout = data["train"], data["val"]
    session = Session(SPEC, cut, seed, wire, noise)
    for _ in session.train(own, EPOCHS):
        pass
    decoder = taught(session, holdout.images, seed)
    site = own.images[np.random.default_rng([seed, 3]).permutation(len(own))[:TRIED]]
    made = decoder.images(np.concatenate([session.features(site[at : at + BATCH]) for at in range(0, TRIED, BATCH)]))
    mean = np.broadcast_to(holdout.images.mean(axis=0), site.shape)
    return {
        "ssim": float(ssim(site, made).mean()),
        "mse": float(mean_squared_error(site, made).mean()),
        "mean_image_ssim": float(ssim(site, mean).mean()),
        "mean_image_mse": float(mean_squared_error(site, mean).mean()),
        "holdout_accuracy": session.accuracy(holdout),
        "test_accuracy": session.accuracy(data["test"]),
    }


def taught(session: Session, images: np.ndarray, seed: int, lessons: int = LESSONS) -> Decoder:
    """A decoder for what passes a session's cut, trained on images of the coordinator's; fresh noise in each epoch."""
    decoder = Decoder(session.head.after, images.shape[1:], seed)
    for lesson in range(lessons):
        order = np.random.default_rng([seed, 4, lesson]).permutation(len(images))
        for start in range(0, len(order), BATCH):
            some = images[order[start : start + BATCH]]
            decoder.step(session.features(some), some)
    return decoder


if __name__ == "__main__":
    raise SystemExit(main())
