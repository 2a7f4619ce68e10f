"""Whoever writes a release asks for the images: an imprint network, and one step of gradient descent.

    python -m tests.attacks.imprint [--images 1201] [--width 6000]

Fowl et al. 2022, "Robbing the Fed", section 4: every unit of the first layer measures the same scalar of an image, here
its mean brightness, against a threshold of its own. So unit i fires for all images brighter than its threshold, and the
gradients of two neighbouring units differ by exactly the images between their thresholds. Where that is one image,
the difference of the weights' gradients over that of the biases' is the image. The thresholds are quantiles of a normal
distribution, fitted to images that the attacker has himself.

Played against the training code below Alice's checks, as a release was followed before, and against Alice as she is.
Needs no network; takes PneumoniaMNIST from $FEDSSH_DATA where it is, else the digits of scikit-learn.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedssh import files, models
from fedssh.alice import terms
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Received
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.alice.train import Alice
from fedssh.errors import UntrustedError
from fedssh.keys import PrivateKey, make_key
from fedssh.models.data import datasets, images
from fedssh.models.data.images import Images
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.weights import write_weights
from tests.harness.releases import Coordinator

HONEST_PLAN: dict[str, Any] = {
    "batch_size": 32, "epochs": 2, "patience": 10, "optimizer": "adam", "learning_rate": 0.001, "loss": "auto",
    "metric": "accuracy",
}  # fmt: skip
# One step with all images at once, and the weights as they are after it.
EVIL_PLAN: dict[str, Any] = {
    "batch_size": 1 << 20, "epochs": 1, "patience": 1, "optimizer": "sgd", "learning_rate": 1.0, "loss": "auto",
    "publish": "session", "metric": "accuracy",
}  # fmt: skip
SCALE = 1e-3  # of the first layer: small, so that what one step adds to it is not rounded away
OUTPUT = 0.1


@dataclass(frozen=True)
class Imprint:
    """An imprint network as a release carries it."""

    spec: dict[str, Any]
    tensors: dict[str, np.ndarray]


def imprint(data: Path, width: int, brightness: np.ndarray) -> Imprint:
    """A network of `width` units, with thresholds fitted to the mean brightness of the attacker's own images.

    Args:
        data: The site's images, of which only the size is looked at.
        brightness: float [n].
    """
    normal = statistics.NormalDist(float(brightness.mean()), float(brightness.std()) or 0.1)
    thresholds = np.array([normal.inv_cdf((number + 0.5) / width) for number in range(width)])
    size = images.describe(data).input
    assert size is not None, "images of several sizes"
    shape, pixels = list(size), math.prod(size)
    spec = models.check_spec({"name": "mlp", "input": shape, "classes": 2, "width": width, "depth": 1})
    tensors = {
        "dense1/kernel": np.full((pixels, width), SCALE / pixels),
        "dense1/bias": -SCALE * thresholds,
        "output/kernel": np.full((width, 1), OUTPUT),
        "output/bias": np.zeros(1),
    }
    return Imprint(spec, {name: array.astype(np.float32) for name, array in tensors.items()})


def read_out(sent: Mapping[str, np.ndarray], received: Mapping[str, np.ndarray]) -> set[bytes]:
    """The images in what came back, as uint8 pixels: differences of neighbouring units that are images at all."""
    kernel, bias = (
        sent[name].astype(np.float64) - received[name] for name in ("dense1/kernel", "dense1/bias")
    )  # proportional to the gradients
    kernel, bias = kernel - np.roll(kernel, -1, axis=1), bias - np.roll(bias, -1)
    found = set()
    for column, scale in zip(kernel.T, bias, strict=True):
        if abs(scale) < 1e-9:
            continue  # no image in between
        pixels = 255 * column / scale
        if pixels.min() > -0.5 and pixels.max() < 255.5 and np.abs(pixels - pixels.round()).max() < 0.25:
            found.add(pixels.round().astype(np.uint8).tobytes())
    return found


def unchecked(data: Path, model: Path, attack: Imprint) -> tuple[int, int]:
    """A session as it was trained before: whatever the release says. How many images come back, and of how many."""
    network = Network(data, 1, 1, None)
    header = write_weights(model, attack.tensors, attack.spec)
    nothing: Any = None  # nobody looks at it below the checks
    standing: Any = SimpleNamespace(policy="best")
    plan, sent = read_plan(EVIL_PLAN), dict(attack.tensors)
    network.adopt(Received("alice-1", nothing, standing, model, header), plan)
    network.fit(1, plan, Local(1.0, 0.0), lambda epoch: True, threading.Event())
    theirs = {(255 * image).round().astype(np.uint8).tobytes() for image in trained_on(data, attack.spec)}
    return len(read_out(sent, network.weights()) & theirs), network.examples


def trained_on(data: Path, spec: dict[str, Any]) -> np.ndarray:
    """The images that Alice trains on: float32 [n, height, width, 1], in 0..1."""
    every = images.load(data, spec["input"], spec["classes"], "train")
    kept, _ = images.hold_out(every.labels, 0.15, 1, every.patients)
    return np.asarray(every.take(kept).images)


def checked(folder: Path, data: Path, key: PrivateKey, attack: Imprint) -> dict[str, str]:
    """What Alice says to the same release in the hands of Bob and of the coordinator, by who tries what.

    Raises:
        AssertionError: Something was trained or published.
    """
    honest = models.check_spec({"name": "cnn", "input": attack.spec["input"], "classes": 2, "depth": 4})
    agreed = Coordinator(key, honest, HONEST_PLAN)
    stranger = Coordinator(make_key(folder / "bobs", "bob"), attack.spec, EVIL_PLAN)
    wanted = Coordinator(key, attack.spec, EVIL_PLAN)
    changes = {"architecture": wanted.agreed["architecture"], "plan": EVIL_PLAN}
    tries: dict[str, tuple[Coordinator, Callable[[Path], object]]] = {
        "bob writes the release himself": (agreed, lambda place: _by_bob(agreed, stranger, place)),
        "the coordinator changes architecture and plan midway": (
            agreed, lambda place: agreed.lay_out(place, 2, **changes),
        ),
        "she changes the weights' architecture only": (agreed, lambda place: agreed.lay_out(place, 2)),
        "she begins another federation for it": (agreed, lambda place: wanted.lay_out(place, 2)),
        "she has had it agreed to from the beginning": (wanted, lambda place: wanted.lay_out(place, 2)),
    }  # fmt: skip
    said = {}
    for number, (who, (pinned, lay_out)) in enumerate(tries.items()):
        exchange, state = Exchange(folder / f"{number}" / "exchange"), folder / f"{number}" / "alice"
        exchange.tidy()
        state.mkdir()
        terms.save_pin(state, terms.Pin(pinned.hash))
        write_weights(exchange.incoming / "00000002.safetensors", attack.tensors, attack.spec)
        lay_out(exchange.incoming)
        alice = Alice(exchange, state, Network(data, 1, 1, None), None, 0.0, threading.Event(), Limits())
        try:
            trained = alice.run(sessions=1)
        except UntrustedError as error:
            said[who] = f"{type(error).__name__}: {error}"
        else:
            raise AssertionError(f"{who}: {trained} sessions were trained")
        assert not list(exchange.outgoing.iterdir()), who
    return said


def _by_bob(agreed: Coordinator, bob: Coordinator, incoming: Path) -> None:
    """The agreed genesis, and beside it a release that only Bob signed."""
    bob.lay_out(incoming, 2)
    files.write_whole(incoming / "genesis.json", agreed.genesis + b"\n")


def site_data(folder: Path, count: int) -> tuple[Path, np.ndarray]:
    """A site's images, `count` of which are trained on, and the mean brightness of others that the attacker has."""
    dataset = datasets.open_or_digits("pneumoniamnist", Path(os.environ.get("FEDSSH_DATA", "data")), lambda *_: None)
    train = dataset.splits["train"]
    whole = min(round(count / 0.85), len(train.labels) * 9 // 10)
    data = folder / "site.npz"
    labels = (train.labels % 2).astype(np.int64)
    datasets.save(data, {"train": Images(train.images[:whole], labels[:whole])})
    return data, np.asarray(train.images[whole:], np.float64).mean(axis=(1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description="Play the imprint attack against Alice without and with her checks.")
    parser.add_argument("--images", type=int, default=1201, metavar="N", help="the site's training images")
    parser.add_argument("--width", type=int, default=6000, metavar="N", help="units of the imprint layer")
    options = parser.parse_args()
    logging.getLogger("alice").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fedssh-imprint-") as name:
        folder = Path(name)
        data, brightness = site_data(folder, options.images)
        attack = imprint(data, options.width, brightness)
        found, of = unchecked(data, folder / "evil.safetensors", attack)
        print(f"below the checks: {found:,} of {of:,} training images come back bit for bit from one session")
        key = make_key(folder / "coordinator", "coordinator")
        print("Alice as she is: nothing is trained, nothing leaves")
        for who, words in checked(folder, data, key, attack).items():
            print(f"  {who}:\n    {words}")


if __name__ == "__main__":
    main()
