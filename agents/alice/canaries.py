"""Canaries: a few of this site's images with a wrong label, of which a coin decides whether they are trained on.

    state/canaries-GENESIS.json   {"canaries":[{"image","label","inside","loss"}, …]}   mode 0600, of one federation

They are drawn once, out of the images that are trained on, and stay those of the federation: half of them, by one coin
each, go on with a wrong label, the others are not trained on at all. Who has that file and a model can say how well the
coins are told from the model, and with that how private it is not (`fedssh.rules.canaries`). Nothing of it leaves the
site but what the model learned. An image is known by what the network is given of it and by its label, as in `online`.

Coins, images and labels come from the system's randomness, no seed has a part in them. One that is taken away from the
data is no canary any more. A patient of its own has each, so that it is one unit of privacy by itself.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssh.alice.online import digests
from fedssh.alice.terms import load_pin
from fedssh.errors import SettingsError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.models.data.images import Images

FEWEST = 20  # all of them guessed rightly say epsilon 1.5, and that none or all are in happens to one site in 500,000
SHARE = 0.1  # of the training images, at most


@dataclass(frozen=True)
class Canary:
    """One of them.

    Attributes:
        image: Of the image with its right label, as hexadecimal digits.
        label: The wrong one.
        inside: Whether it is trained on.
        loss: What it cost the model that this site's training began with; None where that is not measured yet.
    """

    image: str
    label: int
    inside: bool
    loss: float | None = None


@dataclass(frozen=True)
class Parted:
    """Training images, and which of them are canaries.

    Attributes:
        train: All, with their right labels.
        places: int64 [n], where the canaries stand in it.
        known: Which they are; those that are not in the data any more are in neither.
        drawn: All.
    """

    train: Images
    places: np.ndarray
    known: Sequence[Canary]
    drawn: Sequence[Canary]

    @property
    def rest(self) -> np.ndarray:
        """Where the others stand: int64."""
        return np.setdiff1d(np.arange(len(self.train)), self.places)

    @property
    def aside(self) -> Images:
        """The canaries with their wrong labels, whether they are in or not."""
        return self._mixed(self.places[:0], self.places, self.known)

    @property
    def trained(self) -> Images:
        """What is trained on: the others, and behind them the canaries that are in."""
        inside = np.array([one.inside for one in self.known], bool)
        return self._mixed(self.rest, self.places[inside], [one for one in self.known if one.inside])

    def _mixed(self, rest: np.ndarray, places: np.ndarray, canaries: Sequence[Canary]) -> Images:
        found = self.train.take(np.concatenate([rest, places]))
        labels, patients = found.labels.copy(), found.patients
        labels[len(rest) :] = [one.label for one in canaries]
        if patients is not None:
            own = [f"canary {one.image}" for one in canaries]
            patients = np.array([str(one) for one in patients[: len(rest)]] + own)
        return Images(found.images, labels, patients)


class Canaries:
    """Those of one federation at this site.

    Args:
        state: Alice's own folder.
        genesis: Of the federation.
        wanted: How many to draw where none are drawn yet.

    Raises:
        SettingsError: Other ones are drawn already; the number is too small; the file is not one that Alice wrote.
    """

    def __init__(self, state: Path, genesis: str, wanted: int = 0) -> None:
        self._path = state / f"canaries-{genesis[:16]}.json"
        self._wanted = wanted
        self.drawn = _load(self._path)
        if wanted and self.drawn and wanted != len(self.drawn):
            raise SettingsError(
                f"--canaries is {wanted}, and {self._path} has {len(self.drawn)} of this federation",
                "they are drawn once, since the model knows them; leave the option out, or give the same number",
            )
        if 0 < wanted < FEWEST:
            raise SettingsError(f"--canaries is {wanted}, expected at least {FEWEST}", "so few could tell nothing")

    def __len__(self) -> int:
        return len(self.drawn) or self._wanted

    @property
    def measured(self) -> bool:
        """Whether is known what they cost before this site trained on any."""
        return bool(self.drawn) and all(one.loss is not None for one in self.drawn)

    def among(self, train: Images, classes: int) -> Parted:
        """The training images, told apart; canaries are drawn of them where there are none yet.

        Args:
            classes: How many the network tells apart, at least 2.

        Raises:
            SettingsError: There are too few images for so many.
            OSError: The disk is full or read-only.
        """
        known_by = digests(train)
        if not self.drawn:
            self._draw(train, known_by, classes)
        at = {one.hex(): place for place, one in reversed(list(enumerate(known_by)))}
        known = [one for one in self.drawn if one.image in at]
        return Parted(train, np.array([at[one.image] for one in known], np.int64), known, self.drawn)

    def measure(self, known: Sequence[Canary], losses: np.ndarray) -> None:
        """Write down what canaries cost before any was trained on.

        Args:
            known: As `Parted` has them.
            losses: float [n].

        Raises:
            OSError: The disk is full or read-only.
        """
        found = {one.image: float(loss) for one, loss in zip(known, losses, strict=True)}
        self._write([dataclasses.replace(one, loss=found.get(one.image, 0.0)) for one in self.drawn])

    def _draw(self, train: Images, known_by: list[bytes], classes: int) -> None:
        if self._wanted > SHARE * len(train):
            raise SettingsError(
                f"--canaries is {self._wanted}, and {len(train):,} images are trained on here",
                f"at most {SHARE:.0%} of them, since half of the canaries have wrong labels and half are left out",
            )
        once = [place for place, count in enumerate(map(Counter(known_by).get, known_by)) if count == 1]
        if len(once) < self._wanted:
            raise SettingsError(f"--canaries is {self._wanted}, and {len(once):,} images are here only once")
        lots = secrets.SystemRandom()
        drawn = []
        for place in lots.sample(once, self._wanted):
            wrong = (int(train.labels[place]) + lots.randrange(1, classes)) % classes
            drawn.append(Canary(known_by[place].hex(), wrong, lots.random() < 0.5))
        self._write(drawn)

    def _write(self, drawn: list[Canary]) -> None:
        write_whole(self._path, canonical({"canaries": [dataclasses.asdict(one) for one in drawn]}) + b"\n")
        self.drawn = drawn


def agreed(state: Path, wanted: int = 0) -> Canaries | None:
    """Those of the federation that this site has agreed to; None where there are none, and none are wanted.

    Raises:
        SettingsError: As `Canaries`.
    """
    pin = load_pin(state)
    return (Canaries(state, pin.genesis, wanted) or None) if pin is not None else None


def _load(path: Path) -> list[Canary]:
    try:
        found = [Canary(**one) for one in json.loads(path.read_bytes())["canaries"]]
        if not all(type(one.inside) is bool and len(bytes.fromhex(one.image)) and one.label >= 0 for one in found):
            raise ValueError("a canary is none")
        return found
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        hint = "put it back from a copy: without it, images are trained on that no audit knows of"
        raise SettingsError(f"{path} cannot be read: {error}", hint) from None
