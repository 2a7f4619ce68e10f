"""Differential privacy of what a site sends: what is agreed, what a session costs, and what is spent. Pure.

What is counted is DP-SGD (Abadi et al. 2016, algorithm 1) with Poisson batches: each step takes every unit, an image or
a patient with all images, with the same probability, by itself; each unit's gradient is at most `clip` long; the noise
has the deviation `noise` * `clip`. Neighbours are two data sets of which one has one unit more. What many steps reveal
together is composed by privacy loss distributions (Doroshenko et al. 2022), as dp-accounting does it, which errs on the
side of more. Only `epsilon` needs that library, the extra `privacy`, and loads it when it is called.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedssh.errors import SettingsError
from fedssh.forms import Expected, Form, checked, number, one_of

POISSON = "poisson"  # how units come into a step
UNITS = ("image", "patient")
INSTALL = "pip install 'fedssh[privacy]' counts what differential privacy costs"
SITE_LEVEL = (
    "privacy of a whole site is refused: with ten sites its noise is 190 times the signal, so nothing is learned; "
    "units are image and patient"
)
MOST = 1e6  # an epsilon beyond which nothing is said
STEP = 1e-4  # what is spent is rounded up to a multiple of this, so that machines agree about it
NEAR = 1e-3  # by what two machines may differ: the share of what is spent

UNMIXED = ("class_weights", "calibrate", "clip_norm", "augment", "precision", "local", "site_rates", "unlabelled")

_FORMS: Mapping[str, Form[Any]] = {
    "unit": one_of(*UNITS),
    "clip": number(above=0),
    "noise": number(above=0, most=1000),
    "delta": number(above=0, below=1),
    "budget": number(above=0),
    "rate": number(above=0, most=1),
}
_NEEDED = tuple(name for name in _FORMS if name != "rate")


@dataclass(frozen=True)
class Privacy:
    """What is agreed of it.

    Attributes:
        unit: What one more or less of is hidden: `image`, or `patient` with all images of one.
        clip: The longest that a unit's gradient may be, all weights together.
        noise: The noise's deviation, in units of `clip`.
        delta: The probability with which epsilon need not hold; less than one in the number of units.
        budget: The most that a site may spend, as epsilon at this delta.
        rate: The probability with which a step takes a unit, the same at every site, so that it does not tell how many
            units a site has; None is the batch size of the plan over the site's images.
    """

    unit: str
    clip: float
    noise: float
    delta: float
    budget: float
    rate: float | None = None

    def fields(self) -> dict[str, Any]:
        """The same as JSON, without a rate where none is agreed."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def rate_of(self, examples: int, batch_size: int) -> float:
        """The probability with which a step at a site takes a unit.

        Args:
            examples: Images that the site trains on, at least 1.
            batch_size: Of the plan.
        """
        return min(1.0, batch_size / examples) if self.rate is None else self.rate

    def steps_of(self, examples: int, batch_size: int) -> int:
        """How many steps an epoch has: as many as take each unit once in the mean, rounded up."""
        return math.ceil(examples / batch_size if self.rate is None else 1 / self.rate)


@dataclass(frozen=True)
class Charge:
    """Steps that were taken, or are about to be.

    Attributes:
        noise: As of `Privacy`.
        rate: The probability with which a step takes a unit, above 0, at most 1.
        steps: At least 1.
    """

    noise: float
    rate: float
    steps: int


def read_privacy(value: Any) -> Privacy:
    """What stands in a plan, or in `--privacy unit=image,clip=1,noise=1.1,delta=1e-5,budget=8`.

    Raises:
        ValueError: A member is missing, unknown or out of range, or the unit is a site.
    """
    given = _parts(value) if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not given.keys() <= _FORMS.keys():
        raise Expected(f"expected some of {', '.join(_FORMS)}")
    if given.get("unit") == "site":
        raise ValueError(SITE_LEVEL)
    if missing := [name for name in _NEEDED if name not in given]:
        raise Expected(f"expected all of {', '.join(_NEEDED)}; {missing[0]} is missing")
    return Privacy(**{name: checked(name, given[name], form) for name, form in _FORMS.items() if name in given})


def _parts(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _FORMS or name in found:
            raise Expected(f"expected each of {', '.join(_FORMS)} once, as in unit=image,clip=1")
        try:
            found[name] = value if name == "unit" else float(value)
        except ValueError:
            raise Expected(f"expected a number as {name}") from None
    return found


def check_privacy(agreed: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Raise ValueError where something is agreed beside privacy that it does not cover, or that has no test with it.

    Args:
        agreed: Of a plan, by name; what is missing is as usual.
        usual: What each is where nobody asks for it.
    """
    if agreed.get("privacy") is None:
        return
    for name in UNMIXED:
        if (found := agreed.get(name, usual[name])) != usual[name]:
            raise ValueError(f"privacy goes with no {name.replace('_', '-')}, found {found}")


PRIVACY: Form[dict[str, Any]] = Form(lambda value: read_privacy(value).fields())


def charge_of(privacy: Privacy, examples: int, batch_size: int, epochs: int) -> Charge:
    """What a session takes: at the rate that is agreed; else batches of so many images in the mean.

    Args:
        examples: Images that the site trains on, at least 1.
    """
    steps = epochs * privacy.steps_of(examples, batch_size)
    return Charge(privacy.noise, privacy.rate_of(examples, batch_size), steps)


def epsilon(charges: Iterable[Charge], delta: float) -> float:
    """What these steps reveal together: epsilon at `delta`, rounded up to `STEP`; 0 for none, at most `MOST`.

    The order of charges makes no difference. Takes some tenths of a second.

    Raises:
        SettingsError: dp-accounting is not installed.
    """
    return _epsilon(tuple(merged(charges)), delta)


def merged(charges: Iterable[Charge]) -> list[Charge]:
    """The same charges, of each rate and noise one, in one order."""
    steps: dict[tuple[float, float], int] = {}
    for charge in charges:
        steps[charge.noise, charge.rate] = steps.get((charge.noise, charge.rate), 0) + charge.steps
    return [Charge(noise, rate, count) for (noise, rate), count in sorted(steps.items())]


@functools.lru_cache(maxsize=1024)
def _epsilon(charges: tuple[Charge, ...], delta: float) -> float:
    if not charges:
        return 0.0
    total = None
    for charge in charges:
        part = _of_a_step(charge.noise, charge.rate).self_compose(charge.steps)
        total = part if total is None else total.compose(part)
    found = float(total.get_epsilon_for_delta(delta))  # type: ignore[union-attr]
    return round(math.ceil(found / STEP - 1e-6) * STEP, 4) if found < MOST else MOST


@functools.lru_cache(maxsize=64)
def _of_a_step(noise: float, rate: float) -> Any:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError:
        raise SettingsError("dp-accounting is not installed, which counts what is spent", INSTALL) from None
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=STEP, use_connect_dots=True, sampling_prob=rate
    )
