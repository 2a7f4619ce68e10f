"""How the next model comes about: the policies, their options, and how they are written. Pure.

    best                       keep the better of the current model and the candidate
    polyak:K                   K x current + (1 - K) x candidate
    merge                      the candidate and a few mixes with the current model; whichever scores best
    fedavg                     rounds: the mean of all updates, weighted by number of examples
    median, trimmed:N          rounds: coordinate-wise median; mean without the N lowest and N highest
    krum:F, multi-krum:F       rounds: the update, or the updates, nearest to the others, with F faulty sites

A policy is agreed once, as one text such as `fedavg:fraction=0.5,server=momentum`, and stands in every release. What it
decides from scores is in `decision`; what it does to weights, in `averaging`; who takes part in a round, and when it
closes, in `rounds`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Value = float | int | str

SERVERS = ("momentum", "adam", "yogi")
MAX_STEPS = 16


def _number(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high or (open_low and value == low) or (open_high and value == high):
            more, less = (">" if open_low else ">=", "<" if open_high else "<=")
            limit = f" and {less} {high:g}" if math.isfinite(high) else ""
            raise ValueError(f"expected a number {more} {low:g}{limit}")
        return value

    return read


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number in {low}..{high}")
        return int(text)

    return read


def _server(text: str) -> str:
    if text not in SERVERS:
        raise ValueError(f"expected one of {', '.join(SERVERS)}")
    return text


_SHARE = _number(0, 1, open_low=True)
_POSITIVE = _number(0, math.inf, open_low=True, open_high=True)
_SMALL = _number(0, 1, open_high=True)

# Option: how it is read, and its default; None is absent. Options of rounds have the meaning told in `rounds`.
_ROUNDS: dict[str, tuple[Callable[[str], Value], Value | None]] = {
    "fraction": (_SHARE, 1.0),
    "minimum": (_SHARE, 0.5),
    "deadline": (_POSITIVE, 600.0),
    "sites": (_whole(1, 10_000), 1),
    "clip": (_POSITIVE, None),
    "server": (_server, None),
    "rate": (_POSITIVE, None),
    "momentum": (_SMALL, None),
    "beta2": (_SMALL, None),
    "tau": (_POSITIVE, None),
}
_OPTIONS: dict[str, dict[str, tuple[Callable[[str], Value], Value | None]]] = {
    "best": {},
    "polyak": {"keep": (_SMALL, 0.5)},
    "merge": {"steps": (_whole(1, MAX_STEPS), 4), "staleness": (_number(0, math.inf, open_high=True), 0.5)},
    "fedavg": {**_ROUNDS, "cap": (_whole(1, 10**9), None)},
    "median": _ROUNDS,
    "trimmed": {"trim": (_whole(1, 1000), 1), **_ROUNDS},
    "krum": {"faulty": (_whole(0, 1000), 1), **_ROUNDS},
    "multi-krum": {"faulty": (_whole(0, 1000), 1), **_ROUNDS},
}
NAMES = tuple(_OPTIONS)
ROUND_OPTIONS = tuple(_ROUNDS)
_SERVER_DEFAULTS: dict[str, dict[str, Value]] = {
    "momentum": {"rate": 1.0, "momentum": 0.9},
    "adam": {"rate": 0.01, "momentum": 0.9, "beta2": 0.99, "tau": 0.001},
    "yogi": {"rate": 0.01, "momentum": 0.9, "beta2": 0.99, "tau": 0.001},
}


@dataclass(frozen=True)
class Policy:
    """A policy with every option that counts written out.

    Attributes:
        name: One of `NAMES`.
        values: Its options by name.
    """

    name: str
    values: Mapping[str, Value]

    @property
    def text(self) -> str:
        """The one way to write it down; `read_policy` reads it back."""
        options = ",".join(f"{key}={_shown(value)}" for key, value in self.values.items())
        return f"{self.name}:{options}" if options else self.name

    @property
    def rounds(self) -> bool:
        """Whether sites train in rounds; else each submission is judged when it comes."""
        return "fraction" in self.values

    @property
    def least(self) -> int:
        """The fewest updates that its rule is defined for."""
        if self.name == "trimmed":
            return 2 * int(self.values["trim"]) + 1
        if self.name in ("krum", "multi-krum"):
            return 2 * int(self.values["faulty"]) + 3  # Blanchard et al. 2017, section 4: 2f + 2 < n
        return 1


def read_policy(text: str) -> Policy:
    """Read `NAME[:VALUE][,OPTION=VALUE…]`, such as `best`, `polyak:0.5` or `krum:1,deadline=60`.

    Raises:
        ValueError: No such policy or option, or a value is out of range.
    """
    name, _, rest = text.strip().partition(":")
    if name not in _OPTIONS:
        raise ValueError(f"no policy is called {name!r}{_nearest(name, NAMES)}")
    known = _OPTIONS[name]
    given: dict[str, Value] = {}
    for place, part in enumerate(rest.split(",") if rest else ()):
        key, equals, value = part.strip().partition("=")
        if not equals and place == 0 and known:
            key, value = next(iter(known)), key
        elif not equals:
            raise ValueError(f"{part!r} of the policy {name} is not OPTION=VALUE")
        if key not in known:
            raise ValueError(f"the policy {name} has no option {key!r}{_nearest(key, tuple(known))}")
        if key in given:
            raise ValueError(f"the policy {name} has {key} twice")
        given[key] = _read(name, key, value, known[key][0])
    return Policy(name, _written_out(name, known, given))


DOES = {
    "best": "keep the better of the current model and the candidate",
    "polyak": "keep x current + (1 - keep) x candidate",
    "merge": "the candidate or a mix with the current model, whichever scores best",
    "fedavg": "rounds: mean of the updates, weighted by number of examples",
    "median": "rounds: coordinate-wise median",
    "trimmed": "rounds: coordinate-wise mean without the `trim` lowest and highest",
    "krum": "rounds: the update nearest to the others, with `faulty` bad ones",
    "multi-krum": "rounds: mean of all but the `faulty` updates farthest from the others",
}


MEANS = {
    "keep": "how much of the current model stays",
    "steps": "how many are scored: the candidate and steps - 1 mixes",
    "staleness": "its share in mixes is divided by (1 + changes by others since its start) to this power",
    "trim": "how many are left out at each end",
    "faulty": "how many sites may send anything",
    "cap": "as how many images a site counts at most; 1: all sites alike",
    "fraction": "share of the sites that is selected for a round",
    "minimum": "share of the selected sites that suffices at the deadline",
    "deadline": "seconds after which a round closes without the missing ones",
    "sites": "sites that must be enrolled before the first round",
    "clip": "the longest step (L2 norm) that an update may make",
    "server": f"what makes a step of a round's result: {', '.join(SERVERS)}",
    "rate": "its learning rate [momentum 1, adam and yogi 0.01]",
    "momentum": "how much of the last step stays [0.9]",
    "beta2": "adam and yogi: the same for the squares [0.99]",
    "tau": "adam and yogi: keeps small squares from making large steps [0.001]",
}


def described() -> list[dict[str, Any]]:
    """The policies as a person reads about them: what each does and which options it has."""
    return [{"policy": name, "does": DOES[name], "options": list(options)} for name, options in _OPTIONS.items()]


def described_options() -> list[dict[str, Any]]:
    """The options with their meanings and defaults; None where an option is absent unless given."""
    every = {key: default for options in _OPTIONS.values() for key, (_, default) in options.items()}
    return [{"option": key, "default": every[key], "means": means} for key, means in MEANS.items()]


def _read(name: str, key: str, text: str, read: Callable[[str], Value]) -> Value:
    try:
        return read(text)
    except ValueError as error:
        reason = "expected a number" if "convert" in str(error) else str(error)
        raise ValueError(f"{key} of the policy {name} is {text!r}, {reason}") from None


def _written_out(
    name: str, known: Mapping[str, tuple[Callable[[str], Value], Value | None]], given: Mapping[str, Value]
) -> dict[str, Value]:
    defaults = {key: default for key, (_, default) in known.items() if default is not None}
    used = _SERVER_DEFAULTS.get(str(given.get("server")), {})
    for key in ("rate", "momentum", "beta2", "tau"):
        if key in given and key not in used:
            chosen = given.get("server", "none")
            raise ValueError(f"{key} of the policy {name} belongs to another server optimizer than {chosen}")
    found = {**defaults, **used, **given}
    return {key: found[key] for key in known if key in found}


def _shown(value: Value) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known) or 'none'}"
