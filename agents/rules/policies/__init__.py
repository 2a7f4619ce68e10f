"""How the next model comes about: a file is a policy. Here stand how policies are written, and what a file says. Pure.

    best                       keep the better of the current model and the candidate
    polyak:K                   K x current + (1 - K) x candidate
    merge                      the candidate and a few mixes with the current model; whichever scores best
    step                       the current model + a part of what the site changed; whichever has the lowest loss
    gather                     as step, or the mean of what several sites changed
    fedasync                   a share of the candidate, discounted by its age
    split:CUT                  a site trains the first layers, the coordinator the rest; then the gate
    fedavg                     rounds: the mean of all updates, weighted by number of examples
    fednova                    rounds: the mean of what all change in a step of training
    splitfed:CUT               rounds: as split, all sites at once, and the mean of what comes of it
    median, trimmed:N          rounds: coordinate-wise median; mean without the N lowest and N highest
    krum:F, multi-krum:F       rounds: the update, or the updates, nearest to the others, with F faulty sites

A policy is agreed once, as one text such as `fedavg:fraction=0.5,server=momentum`, and stands in every release. Adding
one is adding a file, `multi_krum.py` for `multi-krum`, with what it does and one of three ways to say how much of what
is sent is in the result:

    DOES                             in a line, for `charity policies`
    OPTIONS                          by name, see `options`; the first may be given without its name
    shares(values, staleness)        each candidate is judged: its shares in the mixes to score; see `Policy.shares`
    shares_of(values, examples)      with rounds: the updates' shares, from their numbers of examples alone
    shares_by(values, distances)     with rounds: the same from the squared distances between them, float64 [n, n]

`values` are its options by name. A file further has what is not as usual:

    MIXES = True                     its accepted model is not simply what a site sent
    STEPS = True                     its shares are parts of the candidate's step, which is added to the current model
    GATHERED = (1.0, …)              parts of its mean step with those of sites whose steps wait, to score as well
    BY_LOSS = True                   the lowest loss counts, as long as the gate lets the main metric through
    BY_GATE = True                   it accepts what the gate lets through; usual is what is better, see `gate.best`
    SPLIT = True                     a site sends its layers only, which it trained over a channel with the coordinator
    least(values)                    the fewest updates that it is defined for; usual is 1
    length(values, examples)         how many times as long the combined step is taken; usual is 1
    combine(values, updates, shares) a stretch of all updates, n arrays [weights], to float64 [weights]; usual is the
                                     mean by shares
    plausible(values, shares)        with `shares_by`: whether a record's shares can be its

What is decided from scores is in `gate`; what all rounds do to weights, in `averaging`; who takes part in a round, and
when it closes, in `rounds`. Nothing here loads a policy before it is asked for, or NumPy before models are combined.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedssh.forms import nearest
from fedssh.rules.masking import COUNTED
from fedssh.rules.options import ROUNDS, SEALING, Option, Value, Values, read_options, written_out

if TYPE_CHECKING:
    import numpy as np

ROUND_OPTIONS = tuple(ROUNDS)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Rule:
    """What a policy's file says, and what is usual where it says nothing; the names are those told above."""

    does: str
    options: Mapping[str, Option]
    shares: Callable[[Values, int], tuple[float, ...]] | None = None
    shares_of: Callable[[Values, Sequence[int]], list[float]] | None = None
    shares_by: Callable[[Values, np.ndarray], list[float]] | None = None
    mixes: bool = False
    steps: bool = False
    by_loss: bool = False
    by_gate: bool = False
    split: bool = False
    gathered: tuple[float, ...] = ()
    least: Callable[[Values], int] | None = None
    length: Callable[[Values, Sequence[int]], float] | None = None
    combine: Callable[[Values, Sequence[np.ndarray], Sequence[float]], np.ndarray] | None = None
    plausible: Callable[[Values, Sequence[float]], bool] | None = None


@dataclass(frozen=True)
class Policy:
    """A policy with every option that counts written out.

    Attributes:
        name: One of `names`.
        values: Its options by name.
    """

    name: str
    values: Values

    @property
    def text(self) -> str:
        """The one way to write it down; `read_policy` reads it back."""
        options = ",".join(f"{key}={_shown(value)}" for key, value in self.values.items())
        return f"{self.name}:{options}" if options else self.name

    @property
    def rounds(self) -> bool:
        """Whether sites train in rounds; else each submission is judged when it comes."""
        return self.rule.shares is None

    @property
    def mixes(self) -> bool:
        """Whether an accepted model may be another one than the site sent."""
        return self.rule.mixes

    @property
    def steps(self) -> bool:
        """Whether shares are of a step that is added to the current model, and not of the candidate in a mix."""
        return self.rule.steps

    @property
    def gathered(self) -> tuple[float, ...]:
        """The parts of the mean step of several sites that are scored as well; none where no step waits for others."""
        return self.rule.gathered

    @property
    def by_loss(self) -> bool:
        """Whether the loss decides, and the gate has the main metric."""
        return self.rule.by_loss

    @property
    def by_gate(self) -> bool:
        """Whether it accepts what the gate lets through, and not only what is better."""
        return self.rule.by_gate

    @property
    def split(self) -> bool:
        """Whether the network is in two rooms, and trained over a channel between them: in turns, or in rounds."""
        return self.rule.split

    @property
    def for_sites(self) -> bool:
        """Whether what a site sends is sealed for sites alone, so that nobody judges it."""
        return self.split and self.values.get("weights") == "sites"

    @property
    def masked(self) -> bool:
        """Whether nobody sees an update, only their sum under masks, see `masking`."""
        return self.values.get("seal") == "masks"

    @property
    def cap(self) -> int:
        """Under masks: as how many images a site counts at most."""
        return int(self.values.get("cap", COUNTED))

    @property
    def groups(self) -> int:
        """Under masks: in how many groups the sites of a round are summed, if they are enough."""
        return int(self.values.get("groups", 1))

    @property
    def of_sums(self) -> Policy:
        """What is done with means of sums whose masks are off, each as one update: the same policy without its seal."""
        return Policy(self.name, {name: value for name, value in self.values.items() if name not in SEALING})

    @property
    def least(self) -> int:
        """The fewest updates that its rule is defined for."""
        return self.rule.least(self.values) if self.rule.least else 1

    def shares(self, staleness: int) -> tuple[float, ...]:
        """The candidate's shares in the mixes to score; the rest is the current model's. Of a policy without rounds.

        With `steps` they are the parts of the candidate's step that are added to the current model.

        Args:
            staleness: How often others have changed the current model since the release that the candidate started
                from.
        """
        if self.rule.shares is None:
            raise ValueError(f"the policy {self.name} has rounds")
        return self.rule.shares(self.values, staleness)

    def shares_of(self, examples: Sequence[int]) -> list[float] | None:
        """How much of each update is in a round's result, in the order of the updates; they add up to 1.

        Args:
            examples: How many images each update was trained on.

        Returns:
            None where it depends on the weights.

        Raises:
            ValueError: No update may count.
        """
        return self.rule.shares_of(self.values, examples) if self.rule.shares_of else None

    def length(self, examples: Sequence[int]) -> float:
        """How many times as long the step is taken that a round's updates are combined to.

        Args:
            examples: How many images each update was trained on.
        """
        return self.rule.length(self.values, examples) if self.rule.length else 1.0

    def shares_by(self, distances: np.ndarray) -> list[float]:
        """The same where it depends on the weights.

        Args:
            distances: Between every two updates, squared; float64 [n, n].
        """
        if self.rule.shares_by is None:
            raise ValueError(f"the policy {self.name} has no distances")
        return self.rule.shares_by(self.values, distances)

    def plausible_shares(self, shares: Sequence[float]) -> bool:
        """Whether a record's shares can be this policy's, for who does not have the updates; see `shares_of`, too."""
        parts = all(0 <= share <= 1 for share in shares) and math.isclose(math.fsum(shares), 1)
        own = self.rule.plausible
        return parts and len(shares) >= self.least and (own is None or own(self.values, shares))

    @cached_property
    def rule(self) -> Rule:
        """What its file says."""
        return _rule(self.name)


def read_policy(text: str) -> Policy:
    """Read `NAME[:VALUE][,OPTION=VALUE…]`, such as `best`, `polyak:0.5` or `krum:1,deadline=60`.

    Raises:
        ValueError: No such policy or option, or a value is out of range.
    """
    name, _, rest = text.strip().partition(":")
    known = _rule(name).options
    first = rest.partition(",")[0].strip()
    if first and "=" not in first and known:
        rest = f"{next(iter(known))}={rest.lstrip()}"
    return Policy(name, written_out(name, known, read_options(f"the policy {name}", rest, known)))


def names() -> tuple[str, ...]:
    """The policies that there are; those with rounds come last."""
    return tuple(_rules())


def described() -> list[dict[str, Any]]:
    """The policies as a person reads about them: what each does and which options it has."""
    return [{"policy": name, "does": rule.does, "options": list(rule.options)} for name, rule in _rules().items()]


def described_options() -> list[dict[str, Any]]:
    """The options with their meanings and defaults; None where an option is absent unless given."""
    every = [(key, option) for rule in _rules().values() for key, option in rule.options.items() if key not in ROUNDS]
    once = {(key, option.means): option for key, option in [*every, *ROUNDS.items()]}
    return [{"option": key, "default": option.default, "means": means} for (key, means), option in once.items()]


def _rules() -> dict[str, Rule]:
    import pkgutil  # only for who asks for all

    found = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    rules = {name: _rule(name) for name in found}
    return dict(sorted(rules.items(), key=lambda item: item[1].shares is None))


def _rule(name: str) -> Rule:
    """What the file of a policy says.

    Raises:
        ValueError: There is none.
        TypeError: It does not say what it must.
    """
    where = f"{__name__}.{name.replace('-', '_')}"
    try:
        module = importlib.import_module(where) if _NAME.fullmatch(name) else None
    except ModuleNotFoundError as error:
        if error.name != where:
            raise
        module = None
    if module is None:
        raise ValueError(f"no policy is called {name!r}{nearest(name, names())}")
    said = {field.name: _said(module, field.name) for field in dataclasses.fields(Rule)}
    if said["does"] is None or said["options"] is None:
        raise TypeError(f"{where} must have DOES and OPTIONS")
    rule = Rule(**{part: value for part, value in said.items() if value is not None})
    if sum(way is not None for way in (rule.shares, rule.shares_of, rule.shares_by)) != 1:
        raise TypeError(f"{where} must have one of shares, shares_of and shares_by")
    if rule.shares is None and not ROUNDS.keys() <= rule.options.keys():
        raise TypeError(f"{where} has rounds, so it must have their options: OPTIONS = {{**ROUNDS}}")
    return rule


def _said(module: object, part: str) -> Any:
    constants = ("does", "options", "mixes", "steps", "gathered", "by_loss", "by_gate", "split")
    return getattr(module, part.upper() if part in constants else part, None)


def _shown(value: Value) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
