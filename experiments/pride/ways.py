"""Five ways to make one sum of what several parties have. Each says what it took; all give the same but for rounding.

What goes in is float64 [n] of each party: what each weight has gone from where the round began, at most `REACH`. What
comes out is the mean, weighed by each party's number of examples.

    plain       the coordinator adds
    masks       nobody holds a key to a summand, see `fedssh.masks`
    packed      Paillier, 95 numbers of 32 bits in each plaintext; the parties have the key, the coordinator adds
    single      Paillier, a number in each plaintext
    ckks        CKKS by TenSEAL, polynomials of degree 8192, primes of 60, 40, 40 and 60 bits; who has the key as above

Seconds are those of one party (all of its steps, one party after the other was timed, the longest counts) and of the
coordinator; bytes are those that one party sends.
"""

from __future__ import annotations

import functools
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.machine import ROOT
from experiments.pride.paillier import Key
from experiments.pride.watch import Cost, Watch
from fedssh.errors import SettingsError
from fedssh.keys import PrivateKey, make_key
from fedssh.masks import signing, words
from fedssh.masks.numbers import Fixed
from fedssh.masks.site import MaskedRound
from fedssh.masks.total import opened
from fedssh.rules.masking import Roster, to_agree

REACH = 8.0
BITS = 32

Summed = tuple[np.ndarray, Cost]
Way = Callable[[Sequence[np.ndarray], Sequence[int]], Summed]


def plain(steps: Sequence[np.ndarray], examples: Sequence[int]) -> Summed:
    """The coordinator sees everything."""
    watch = Watch(len(steps))
    sent = [watch.party(number, _float32, one) for number, one in enumerate(steps)]
    mean = watch.coordinator(_averaged, sent, examples)
    return mean, watch.cost(len(sent[0]))


def _float32(step: np.ndarray) -> bytes:
    return step.astype("<f4").tobytes()


def _averaged(sent: Sequence[bytes], examples: Sequence[int]) -> np.ndarray:
    steps = [np.frombuffer(one, "<f4").astype(np.float64) for one in sent]
    mean: np.ndarray = np.average(steps, axis=0, weights=examples)
    return mean


class Masks:
    """A round under masks from its first word to its sum, for parties whose site keys there are already.

    Args:
        parties: How many; at least three.
        folder: Where the site keys are written.
    """

    def __init__(self, parties: int, folder: Path) -> None:
        self._keys: dict[str, PrivateKey] = {
            name: make_key(folder / name, name) for name in (f"party-{number:02}" for number in range(parties))
        }
        self._round = 0

    def __call__(self, steps: Sequence[np.ndarray], examples: Sequence[int]) -> Summed:
        """The mean, see `Way`."""
        self._round += 1
        names, watch = list(self._keys), Watch(len(steps))
        pinned = {name: key.public for name, key in self._keys.items()}
        fixed = Fixed(len(names), REACH, max(examples))
        every = list(enumerate(names))
        sites = {name: MaskedRound.begin("0" * 64, self._round, name) for name in names}
        adverts = [watch.party(place, sites[name].advert, self._keys[name]) for place, name in every]
        roster = Roster.of(adverts)
        for place, name in every:
            sites[name] = watch.party(place, sites[name].agree, roster, pinned)
        given = {name: watch.party(place, sites[name].shares) for place, name in every}
        vectors = []
        for place, name in every:
            vector = watch.party(place, fixed.write, steps[place], examples[place])
            sites[name], masked = watch.party(place, sites[name].mask, vector, names)
            vectors.append(masked)
        total = watch.coordinator(functools.reduce, words.added, vectors)
        agreed = {}
        for place, name in every:
            sites[name], agreed[name] = watch.party(place, sites[name].confirm, names, self._keys[name])
        message = to_agree(roster, names, names)
        signed = [watch.party(place, signing.signers, message, agreed, pinned) for place, _ in every]
        answers = [watch.party(place, sites[name].answer, names, given, signed[place])[1] for place, name in every]
        found = watch.coordinator(opened, roster, names, names, total, given, answers)
        mean, _ = watch.coordinator(fixed.read, found.vector, len(names))
        said = len(repr(adverts[0])) + len(repr(given[names[0]])) + len(agreed[names[0]]) + len(repr(answers[0]))
        return mean, watch.cost(len(vectors[0]) + said)


class Paillier:
    """Paillier; every party has the key.

    Args:
        packed: How many numbers are in a plaintext.
        textbook: With exponents as long as they were published.
    """

    def __init__(self, packed: int, textbook: bool = False, key: Key | None = None) -> None:
        self._packed, self._key = packed, key or Key.new()
        self._encrypt = self._key.encrypt_textbook if textbook else self._key.encrypt

    def __call__(self, steps: Sequence[np.ndarray], examples: Sequence[int]) -> Summed:
        """The mean, see `Way`."""
        watch, key, number = Watch(len(steps)), self._key, len(steps[0])
        share = np.asarray(examples) / sum(examples)
        scale = ((1 << (BITS - 1)) - len(steps)) / REACH  # the sum of all, with what lifts it above 0, is below 2**BITS
        lift = 1 << (BITS - 1)

        def sealed(place: int) -> list[Any]:
            numbers = np.rint(steps[place] * share[place] * scale).astype(np.int64) + (lift if place == 0 else 0)
            return [self._encrypt(_together(numbers[at : at + self._packed])) for at in range(0, number, self._packed)]

        def added(every: Sequence[list[Any]]) -> list[Any]:
            found = []
            for column in zip(*every, strict=True):
                total = column[0]
                for one in column[1:]:
                    total = key.add(total, one)
                found.append(total)
            return found

        def read(totals: list[Any]) -> np.ndarray:
            found: list[int] = []
            for total in totals:
                found += _apart(key.decrypt(total), min(self._packed, number - len(found)))
            return (np.array(found, np.float64) - lift) / scale

        every = [watch.party(place, sealed, place) for place in range(len(steps))]
        totals = watch.coordinator(added, every)
        mean = watch.party(0, read, totals)
        return mean, watch.cost(len(totals) * key.bytes)


def ckks(steps: Sequence[np.ndarray], examples: Sequence[int]) -> Summed:
    """CKKS (Cheon et al. 2017); every party has the key. See `experiments.pride.ckks`, a process of its own.

    Raises:
        SettingsError: TenSEAL is not installed, or cannot do it.
    """
    given = io.BytesIO()
    np.savez(given, steps=np.stack(steps), examples=np.asarray(examples))
    command = [sys.executable, "-P", "-m", "experiments.pride.ckks"]
    done = subprocess.run(command, input=given.getvalue(), capture_output=True, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise SettingsError(f"CKKS by TenSEAL ended with code {done.returncode}, it said {last}")
    found = np.load(io.BytesIO(done.stdout))
    party, coordinator, sent = found["cost"]
    return found["mean"], Cost(float(party), float(coordinator), int(sent))


def _together(numbers: np.ndarray) -> int:
    """Numbers, some of them below 0, each in its place of so many bits."""
    total = 0
    for number in numbers[::-1].tolist():
        total = (total << BITS) + number
    return total


def _apart(total: int, number: int) -> list[int]:
    return [(total >> (BITS * place)) & ((1 << BITS) - 1) for place in range(number)]


def masks(parties: int) -> tuple[Masks, TemporaryDirectory[str]]:
    """The way `masks`, and the folder of its keys."""
    folder = TemporaryDirectory()
    return Masks(parties, Path(folder.name)), folder
