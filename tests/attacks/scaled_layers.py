"""A model nobody can improve: layers times 2^20 and divided by 2^20 again score the same to every digit.

A hostile site trains honestly, so that its model scores better than the current one, and then multiplies one ReLU layer
and divides the layer behind it. Shown are the coordinator's verdict, and whether the honest site can improve what is
current afterwards: once with a coordinator who looks at scores alone, once with this one.

    python tests/attacks/scaled_layers.py
    python tests/attacks/scaled_layers.py --variant nan --architecture mlp
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from fedssh.alice.fitting import Epoch, fit, new_trainer
from fedssh.bundle import pending, seal
from fedssh.charity import enrol, genesis
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.keys import PrivateKey, make_key
from fedssh.manifest import Submission, new_id, now
from fedssh.models import check_spec
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.training import Examples, Trainer, resident
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.weights import architecture_hash, read_header, read_weights, write_weights

Weights = Mapping[str, np.ndarray]

ADAM, SGD = {"optimizer": "adam", "learning_rate": 0.001}, {"optimizer": "sgd", "learning_rate": 0.05}
SITES = ("honest", "hostile")
PLAN = {"batch_size": 32, "epochs": 3, "patience": 3, "loss": "auto"}
ARCHITECTURES: dict[str, dict[str, Any]] = {"cnn": {"depth": 4}, "mlp": {"width": 64, "depth": 2}}


@dataclass(frozen=True)
class Variant:
    """A way to do it.

    Attributes:
        factor: By what a layer is multiplied, and another one divided.
        first: Whether it is the first layer that is multiplied, or else the last one.
        plan: How the federation trains.
    """

    factor: float
    first: bool
    plan: Mapping[str, Any]

    @property
    def terms(self) -> dict[str, Any]:
        """The whole plan."""
        return {**PLAN, **self.plan}


VARIANTS = {
    "plateau": Variant(2.0**20, True, ADAM),
    "nan": Variant(2.0**60, True, SGD),
    "careful": Variant(90.0, False, ADAM),  # no more than what is tried first; no power of two, so digits may round
}


class ScoresAlone(Judge):
    """A coordinator's judge before models were looked at: whatever scores better is sound."""

    def check(self, *models: Any) -> dict[str, Any]:
        return {"sound": True, "text": ""}


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Attributes:
        verdict: On the scaled model: `accepted` or `refused`.
        reason: The coordinator's.
        improved: Epochs of the honest site's next session that improved on the current model.
        loss: Of its last epoch on its validation images; None when it is not finite.
    """

    verdict: str
    reason: str
    improved: int
    loss: float | None

    @property
    def text(self) -> str:
        ended = "not a finite number" if self.loss is None else f"{self.loss:.4f}"
        return (
            f"{self.verdict}: {self.reason}\n     honest site afterwards: {self.improved} of {PLAN['epochs']} epochs "
            f"improved, loss at the end {ended}"
        )


@dataclass
class Federation:
    """A coordinator on disk with her real judge, and two sites."""

    coordinator: Coordinator
    keys: Mapping[str, PrivateKey]
    spec: dict[str, Any]

    def current(self) -> dict[str, np.ndarray]:
        vault = self.coordinator.vault
        path = vault.folders.model(vault.state.current.model.sha256)
        return read_weights(path, read_header(path).tensors)

    def submit(self, site: str, weights: Weights, folder: Path) -> Mapping[str, Any]:
        """Send a model as a site; returns the fields of its verdict."""
        vault = self.coordinator.vault
        self.coordinator.work()
        assert vault.state.release is not None
        path = folder / f"{new_id()}.safetensors"
        write_weights(path, weights, self.spec)
        manifest = Submission(
            id=new_id(), sender=site, recipients=[], model=pending(), sealed=pending(),
            architecture=architecture_hash(self.spec), builds_on=vault.state.release.sequence, session=1, epoch=1,
            examples=1, metrics=Local(0.1, 0.9), started=now(), created=now(),
        )  # fmt: skip
        arrival = vault.folders.inbox / site / f"{next(_arrivals):020}-{'0' * 8}.bundle"
        seal(path, manifest, self.keys[site], [vault.key.public], arrival)
        self.coordinator.work()
        return {"event": vault.ledger.judged()[-1].event, **vault.ledger.judged()[-1].fields}


_arrivals = itertools.count(10**18)


@contextlib.contextmanager
def federation(
    folder: Path,
    data: Path,
    spec: dict[str, Any],
    plan: Mapping[str, Any],
    kind: type[Judge],
    keys: Mapping[str, PrivateKey],
) -> Iterator[Federation]:
    """A federation that has begun, with one epoch of training behind its first model."""
    folders = Folders(folder / "coordinator")
    terms = {
        "federation": "attacked", "spec": spec, "plan": {**plan, "metric": "accuracy"}, "policy": "best", "gate": "on",
        "margin": 0.01, "schedule": "free", "sessions": None,
    }  # fmt: skip
    judge = kind(judge_command(data, spec))
    try:
        genesis.begin(folders, data, terms, 7, {"address": None}, judge)
        vault = Vault(folders)
        for site in SITES:
            enrol.add(vault, site, Path(f"{keys[site].path}.pub"), "site")
        yield Federation(Coordinator(vault, judge), keys, spec)
    finally:
        judge.stop()


def scaled(weights: Weights, variant: Variant) -> dict[str, np.ndarray]:
    """The same function from other weights: of two ReLU layers in a row, one is multiplied by a power of two, and the
    other one divided by it."""
    kernels = [path for path in weights if path.endswith("/kernel")]
    before, behind = kernels[:2] if variant.first else kernels[-2:]
    bias = before.replace("/kernel", "/bias")
    times = np.float32(variant.factor if variant.first else 1 / variant.factor)
    return {
        **weights, before: weights[before] * times, bias: weights[bias] * times, behind: weights[behind] / times,
    }  # fmt: skip


def trained(
    trainer: Trainer, plan: Mapping[str, Any], start: Weights, train: Examples, val: Examples, seed: int
) -> tuple[Weights, list[Epoch]]:
    """A session by Alice's rules: the last weights that she publishes, and its epochs."""
    best, epochs = [start], list[Epoch]()

    def ended(epoch: Epoch) -> bool:
        epochs.append(epoch)
        if epoch.publish:
            best.append(trainer.weights())
        return True

    trainer.load(start)
    fit(trainer, train, val, read_plan(plan), seed, Local(*trainer.evaluate(val)), ended)
    return best[-1], epochs


@dataclass(frozen=True)
class Rooms:
    """What all of them have: the coordinator's data file, the sites' images, and images to score on."""

    spec: dict[str, Any]
    data: Path
    sites: Mapping[str, Examples]
    val: Examples


def rooms(architecture: str, images: int, folder: Path) -> Rooms:
    """Handwritten digits, `images` for the coordinator to train on and for each site."""
    load_keras(1)
    splits = datasets.digits().splits
    spec = check_spec({"name": architecture, "input": [28, 28, 1], "classes": 10, **ARCHITECTURES[architecture]})
    order = np.random.default_rng(1).permutation(len(splits["train"]))
    own = [splits["train"].take(part) for part in np.split(order[: 3 * images], 3)]
    data = folder / "charity.npz"
    datasets.save(data, {"train": own[0], "val": splits["val"]})
    return Rooms(spec, data, {site: resident(part) for site, part in zip(SITES, own[1:], strict=True)},
                 resident(splits["test"]))  # fmt: skip


def attack(variant: Variant, where: Rooms, kind: type[Judge], keys: Mapping[str, PrivateKey], folder: Path) -> Outcome:
    """Attack a coordinator whose judge is of that kind."""
    trainer, plan = new_trainer(where.spec, read_plan(variant.terms)), variant.terms
    with federation(folder, where.data, where.spec, plan, kind, keys) as begun:
        better, _ = trained(trainer, plan, begun.current(), where.sites["hostile"], where.val, 1)
        said = begun.submit("hostile", scaled(better, variant), folder)
        _, epochs = trained(trainer, plan, begun.current(), where.sites["honest"], where.val, 2)
    last = epochs[-1].metrics
    loss = last.loss if last is not None and np.isfinite(last.loss) else None
    return Outcome(said["event"], said["reason"], sum(epoch.publish for epoch in epochs), loss)


def main() -> None:
    """Print the old result and the new one."""
    epilog = "example: python tests/attacks/scaled_layers.py --variant nan --architecture mlp"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], epilog=epilog)
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="all", help="how it is done (all)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="cnn", help="what is scaled (cnn)")
    parser.add_argument("--images", type=int, default=400, help="that each of three train on (400)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {site: make_key(folder / site, site) for site in SITES}
        where = rooms(wanted.architecture, wanted.images, folder)
        for variant in VARIANTS if wanted.variant == "all" else [wanted.variant]:
            how = VARIANTS[variant]
            which = "the first layer, and the second" if how.first else "the last layer, and the one before"
            print(f"{variant}: {which} divided, by {how.factor:,.0f}; the plan trains with {how.plan['optimizer']}")
            for age, kind in (("old", ScoresAlone), ("new", Judge)):
                place = folder / variant / age
                place.mkdir(parents=True)
                print(f"{age}  {attack(how, where, kind, keys, place).text}", flush=True)


if __name__ == "__main__":
    main()
