"""What a site sends that means harm, or is broken. Pure: weights in, weights out.

    sign-flip:SCALE   the step it trained, backwards and SCALE times as long: base - SCALE x (trained - base)
                      (Li et al. 2019, "RSA", section 5)
    noise:SIGMA       what it trained, and normal noise with the standard deviation SIGMA on every weight
    nan               not a number, everywhere
    label-flip        what it trained from wrong labels, class c for class C - 1 - c; done to its data, not here
    perturb:SIGMA     never trained: the current model with normal noise of SIGMA times each tensor's own standard
                      deviation, again and again, to climb the coordinator's holdout by chance

`sites=N` after any of them is how many sites do it, the last ones; 1 without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedssh.forms import checked, nearest, number

if TYPE_CHECKING:
    import numpy as np

# Kind and the value that it has unless another is given; None takes none.
KINDS: dict[str, float | None] = {"sign-flip": 4.0, "noise": 1.0, "nan": None, "label-flip": None, "perturb": 0.1}


@dataclass(frozen=True)
class Attack:
    """What how many sites do.

    Attributes:
        kind: One of `KINDS`.
        value: SCALE or SIGMA; 0 where there is none.
        sites: At least 1.
    """

    kind: str
    value: float
    sites: int

    @property
    def text(self) -> str:
        """The one way to write it down; `read_attack` reads it back."""
        words = [f"{self.kind}:{self.value:g}" if KINDS[self.kind] is not None else self.kind]
        if self.sites > 1:
            words.append(f"sites={self.sites}")
        return ",".join(words)


def read_attack(text: str) -> Attack:
    """Read `KIND[:VALUE][,sites=N]`.

    Raises:
        ValueError: No such attack, or a value is out of range.
    """
    first, _, rest = text.partition(",")
    kind, _, value = first.strip().partition(":")
    if kind not in KINDS:
        raise ValueError(f"no attack is called {kind!r}{nearest(kind, KINDS)}")
    default = KINDS[kind]
    if default is None and value:
        raise ValueError(f"the attack {kind} takes no value, found {value!r}")
    key, _, sites = rest.strip().partition("=")
    if rest and (key != "sites" or not sites.isdecimal() or int(sites) < 1):
        raise ValueError(f"{rest!r} of the attack {kind} is not sites=N")
    return Attack(kind, _positive(kind, value) if value else default or 0.0, int(sites or 1))


def forge(
    attack: Attack, base: Mapping[str, np.ndarray], trained: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """What an attacker sends.

    Args:
        base: float32 arrays by variable path: what the attacker started from.
        trained: What honest training made of it; `base` itself for `perturb`.
        seed: Of the noise; another one for every submission of a run.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    match attack.kind:
        case "sign-flip":
            return {path: base[path] - np.float32(attack.value) * (trained[path] - base[path]) for path in trained}
        case "noise":
            return {path: array + _normal(random, array, attack.value) for path, array in trained.items()}
        case "perturb":
            return {
                path: array + _normal(random, array, attack.value * float(np.std(array)))
                for path, array in base.items()
            }
        case "nan":
            return {path: np.full_like(array, np.nan) for path, array in trained.items()}
    return dict(trained)


def _normal(random: np.random.Generator, like: np.ndarray, sigma: float) -> np.ndarray:
    import numpy as np

    noise: np.ndarray = random.standard_normal(like.shape, dtype=np.float32) * np.float32(sigma)
    return noise


def _positive(kind: str, text: str) -> float:
    return checked(f"the value of the attack {kind}", text, number(above=0).read)
