"""What a site sends that means harm, or is broken. Pure: weights in, weights out.

    sign-flip:SCALE   the step it trained, backwards and SCALE times as long: base - SCALE x (trained - base)
                      (Li et al. 2019, "RSA", section 5)
    noise:SIGMA       what it trained, and normal noise with the standard deviation SIGMA on every weight
    nan               not a number, everywhere
    label-flip        what it trained from wrong labels, class c for class C - 1 - c; done to its data, not here
    perturb:SIGMA     never trained: the current model with normal noise of SIGMA times each tensor's own standard
                      deviation, again and again, to climb the coordinator's holdout by chance
    alie[:Z]          base + mean - Z x standard deviation, weight by weight, of the honest sites' steps: as far off as
                      hides among them (Baruch, Baruch and Goldberg 2019, "A Little Is Enough", algorithm 3). Without Z
                      the largest that still has a majority's cover, by `cover`
    ipm[:EPSILON]     base - EPSILON x mean of the honest sites' steps (Xie, Koyejo and Gupta 2019, "Fall of Empires",
                      section 3: inner-product manipulation); 0.5 without EPSILON. Small ones hide from rules that go
                      by distance, and an average of n turns back from (n - f) / f on
    backdoor:CLASS    what it trained from images of which a share has a patch stamped on and the label CLASS (Gu et al.
                      2017, "BadNets"); done to its data, see `backdoor`. `share=S` of its images, half of them unless
                      given; `boost=B` sends base + B x (trained - base), to replace the model whatever the others send
                      (Bagdasaryan et al. 2020, "How To Backdoor Federated Learning", section 4.2)

`sites=N` after any of them is how many sites do it, the last ones; 1 without it.

`alie` and `ipm` know everything: the step of every honest site, also one that is still on its way. That is the paper's
omniscient attacker, and the most that colluding sites could estimate from their own data. An honest site's step is that
of its newest session that has begun when the attacker's model is due: what it sends of it up to the attacker's epoch,
less the release that the session began from. In rounds these are the updates of the open round, as in the papers.
Without rounds they may have begun from several releases; the attacker adds their mean to its own. Where no honest site
has sent anything yet, it sends what it trained. What it claims is always what it would have measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from fedssh.forms import Form, checked, nearest, number, whole

if TYPE_CHECKING:
    import numpy as np

# Kind and the value that it has unless another is given; None takes none. 0 is: what `settled` finds.
KINDS: dict[str, float | None] = {
    "sign-flip": 4.0, "noise": 1.0, "nan": None, "label-flip": None, "perturb": 0.1, "alie": 0.0, "ipm": 0.5,
    "backdoor": 0.0,
}  # fmt: skip
IN_THE_DATA = ("label-flip", "backdoor")
KNOW_THE_OTHERS = ("alie", "ipm")
_OF_BACKDOOR = {"share": number(most=1, above=0), "boost": number(1, 1000)}


@dataclass(frozen=True)
class Attack:
    """What how many sites do.

    Attributes:
        kind: One of `KINDS`.
        value: SCALE, SIGMA, Z, EPSILON or CLASS; 0 where there is none.
        sites: At least 1.
        share: Of its images that a backdoor is trained with.
        boost: How many times as long a backdoor's step is sent as it was trained.
    """

    kind: str
    value: float
    sites: int
    share: float = 0.5
    boost: float = 1.0

    @property
    def text(self) -> str:
        """The one way to write it down; `read_attack` reads it back."""
        takes = KINDS[self.kind] is not None and (self.value or self.kind == "backdoor")
        words = [f"{self.kind}:{self.value:g}" if takes else self.kind]
        words += [f"{name}={value:g}" for name, value in self._options().items() if name != "sites"]
        return ",".join([*words, *([f"sites={self.sites}"] if self.sites > 1 else [])])

    def plain(self) -> dict[str, object]:
        """Its fields, without those that only a backdoor has, where they are as ever."""
        return {"kind": self.kind, "value": self.value, "sites": self.sites, **self._options()}

    def _options(self) -> dict[str, float]:
        usual = {name: getattr(Attack, name) for name in _OF_BACKDOOR}
        return {name: getattr(self, name) for name in usual if getattr(self, name) != usual[name]}


def read_attack(text: str) -> Attack:
    """Read `KIND[:VALUE][,sites=N]`, of a backdoor also `share=S` and `boost=B`.

    Raises:
        ValueError: No such attack, or a value is out of range.
    """
    first, *rest = (word.strip() for word in text.split(","))
    kind, _, value = first.partition(":")
    if kind not in KINDS:
        raise ValueError(f"no attack is called {kind!r}{nearest(kind, KINDS)}")
    default = KINDS[kind]
    if default is None and value:
        raise ValueError(f"the attack {kind} takes no value, found {value!r}")
    if kind == "backdoor" and not value:
        raise ValueError("the attack backdoor takes the class that it is for, such as backdoor:0")
    of: Form[int] | Form[float] = whole(0) if kind == "backdoor" else number(above=0)
    found = float(checked(f"the value of the attack {kind}", value, of.read)) if value else default or 0.0
    options = _options(kind, rest)
    return dataclasses.replace(Attack(kind, found, int(options.pop("sites", 1))), **options)


def settled(attack: Attack, sites: int) -> Attack:
    """The attack among so many sites: `alie` without a value gets its own.

    Raises:
        ValueError: So few sites give it no cover.
    """
    if attack.kind != "alie" or attack.value:
        return attack
    return dataclasses.replace(attack, value=cover(sites, attack.sites))


def cover(sites: int, attackers: int) -> float:
    """The largest z at which enough honest sites are expected to be farther off than the attackers.

    Baruch et al. 2019, algorithm 3: z such that Phi(z) = (n - m - s) / (n - m), with s = floor(n / 2 + 1) - m the
    honest sites that the m attackers need for a majority of n.

    Raises:
        ValueError: There is none above 0.
    """
    honest = sites - attackers
    supporters = math.floor(sites / 2 + 1) - attackers
    if supporters < 1:
        raise ValueError(
            f"alie hides in a minority, and {attackers} of {sites} sites are most of them: give it, alie:Z"
        )
    share = (honest - supporters) / honest
    if share <= 0.5:
        raise ValueError(f"alie has no cover among {sites} sites with {attackers} of them its own: give it, alie:1.5")
    return NormalDist().inv_cdf(share)


def forge(
    attack: Attack,
    base: Mapping[str, np.ndarray],
    trained: Mapping[str, np.ndarray],
    seed: int,
    honest: Sequence[Mapping[str, np.ndarray]] = (),
) -> dict[str, np.ndarray]:
    """What an attacker sends.

    Args:
        base: float32 arrays by variable path: what the attacker started from.
        trained: What honest training made of it; `base` itself for `perturb`.
        seed: Of the noise; another one for every submission of a run.
        honest: The honest sites' steps, for those of `KNOW_THE_OTHERS`.
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
        case "alie" | "ipm" if honest:
            return {path: _among(attack, base[path], [step[path] for step in honest]) for path in trained}
        case "backdoor" if attack.boost != 1:
            return {path: base[path] + np.float32(attack.boost) * (trained[path] - base[path]) for path in trained}
    return dict(trained)


def _among(attack: Attack, base: np.ndarray, steps: Sequence[np.ndarray]) -> np.ndarray:
    """A tensor that is sent by who knows the honest steps in it."""
    import numpy as np

    every = np.stack(steps).astype(np.float64)
    mean = every.mean(axis=0)
    step = -attack.value * mean if attack.kind == "ipm" else mean - attack.value * every.std(axis=0)
    sent: np.ndarray = (base + step).astype(np.float32)
    return sent


def _normal(random: np.random.Generator, like: np.ndarray, sigma: float) -> np.ndarray:
    import numpy as np

    noise: np.ndarray = random.standard_normal(like.shape, dtype=np.float32) * np.float32(sigma)
    return noise


def _options(kind: str, words: Sequence[str]) -> dict[str, Any]:
    """What follows an attack's kind, by name."""
    found: dict[str, Any] = {}
    known: dict[str, Form[Any]] = {"sites": whole(1), **(_OF_BACKDOOR if kind == "backdoor" else {})}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known:
            raise ValueError(f"{word!r} of the attack {kind} is not {' or '.join(f'{one}=N' for one in known)}")
        found[name] = checked(f"{name} of the attack {kind}", value, known[name].read)
    return found
