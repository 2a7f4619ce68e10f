"""What is decided from scores: which mixes to score, which model to keep, what the gate lets through. Pure.

A policy without rounds judges each candidate: it says what to score, `decide` what becomes of it. The result of
a round has only the gate before it: `passes`. What is to become current is looked at once more: `gone_on`. What the
federation may know of a score, under a ladder, says `told`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedssh.forms import checked, nearest, number
from fedssh.rules import metrics as known_metrics
from fedssh.rules.metrics import IN_UNITS, gain, worse
from fedssh.rules.thresholds import COOLEST, HOTTEST
from fedssh.rules.vocabulary import GATES, LADDERS, PARAMETER_FREE

if TYPE_CHECKING:
    from fedssh.rules.policies import Policy

Metrics = Mapping[str, Any]

PAIRED = "standard_error"  # what the judge finds beside the scores where a candidate is paired with the current model
MARGIN = number(least=0, below=1)
_IN_UNITS = number(least=0)  # a margin of a metric that may be of any size
_UNDEFINED = -1.0
_SHARES = (*known_metrics.OF_TASK[known_metrics.CLASSES], "subset_accuracy", "calibration_error")
_ERRORS = ("loss", *IN_UNITS)  # a number from 0 on, always
_IN_STEPS = ("threshold", "temperature")  # under a ladder these are of few values from the beginning
_EXACT = 1e-12  # far above what sums of floats lose, far below what one image of a million changes
_TIMES = {0.5: "half ", 1.0: "", 2.0: "twice "}


@dataclass(frozen=True)
class Decision:
    """Whether a model becomes the current one, and why.

    Attributes:
        share: The candidate's share in it; None where nothing was scored.
        metrics: What it scored; None where nothing was scored.
        gathered: Whether the share is of the mean step of several sites.
    """

    accept: bool
    reason: str
    share: float | None = None
    metrics: Metrics | None = None
    gathered: bool = False


@dataclass(frozen=True)
class Gate:
    """What the holdout must say before a model is released.

    Attributes:
        kind: `on`: not worse than the best release so far by more than `margin`. `ladder`: better than the current one
            by more than `margin`, and scores are told in steps of it (Blum and Hardt 2015, figure 1).
            `parameter-free-ladder`: better than the current one by more than the standard error of the difference
            between the two, paired over the images (the same, figure 3). `off`: anything.
        margin: In units of the main metric; 0 where it is found for each candidate.
        metric: The main one.
    """

    kind: str = "on"
    margin: float = 0.01
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if self.kind not in GATES:
            raise ValueError(f"no gate is called {self.kind!r}{nearest(self.kind, GATES)}")
        checked("the margin of the gate", self.margin, _IN_UNITS if self.metric in IN_UNITS else MARGIN)
        if self.kind == "ladder" and self.margin == 0:
            raise ValueError("the margin of the gate is 0, expected a number above 0 for a ladder")
        if self.paired and self.margin != 0:
            raise ValueError(f"the margin of the gate is {self.margin:g}, but {self.kind} finds it for each candidate")
        if self.paired and self.metric != "accuracy":
            raise ValueError(f"the gate {self.kind} is for accuracy, not for {self.metric}")

    @property
    def is_ladder(self) -> bool:
        """Whether only a clear improvement counts, and a refusal is all that is told of what is none."""
        return self.kind in LADDERS

    @property
    def paired(self) -> bool:
        """Whether the judge has to hold a candidate against the current model, image by image."""
        return self.kind == PARAMETER_FREE

    @property
    def most(self) -> float:
        """What is told of the highest score of all: the nearest step of a ladder may lie above it."""
        return 1 + self.margin / 2 if self.kind == "ladder" else 1.0

    def hides(self, decided: Decision) -> bool:
        """Whether nothing is told of what a model scored: under a ladder a refusal is all that the sites learn."""
        return self.is_ladder and not decided.accept

    def found_margin(self, decided: Decision) -> float | None:
        """What an accepted model had to beat the current one by, where that is found for each; else None."""
        if not self.paired or not decided.accept or decided.metrics is None:
            return None
        return float(decided.metrics[PAIRED])


def decide(
    policy: Policy,
    gate: Gate,
    metric: str,
    current: Metrics,
    bar: float,
    mixes: Sequence[tuple[float, Metrics]],
    waited: int = 0,
) -> Decision:
    """Judge a candidate, for a policy without rounds.

    Args:
        metric: The main one.
        current: What the current model scored, as the federation knows it.
        bar: The best value of the main metric among the releases so far.
        mixes: What the mixes of `shares` scored, with the share of each; where they are paired, also `PAIRED`.
        waited: How many others' steps, which waited, the mixes have in a mean with the candidate's; 0 is none.
    """
    by_loss = policy.by_loss and not gate.is_ladder
    share, metrics = (min if by_loss else max)(mixes, key=lambda mix: _rank(mix[1], metric, by_loss))
    if by_loss:
        accept, reason = lower(gate, metric, metrics, current, bar)
    elif policy.by_gate or gate.is_ladder:
        accept, reason = passes(gate, metric, metrics, current, bar)
    else:
        accept, reason = best(metrics, current, metric)
    hidden = gate.is_ladder and not accept  # which mix scores best would tell of the holdout, too
    if not hidden and (by_loss or waited or len(mixes) > 1 or share != 1):
        reason = f"{reason} ({_of_it(share, waited, by_loss)})"
    return Decision(accept, reason, share, metrics, waited > 0)


def ahead(policy: Policy, gate: Gate, metric: str, mean: Decision, own: Decision) -> bool:
    """Whether the mean of a candidate's step and others counts, and not the step alone: where it is the better one."""
    assert mean.metrics is not None and own.metrics is not None
    by_loss = policy.by_loss and not gate.is_ladder
    one, other = (_rank(scored, metric, by_loss) for scored in (mean.metrics, own.metrics))
    return one < other if by_loss else one > other


def _rank(metrics: Metrics, metric: str, by_loss: bool) -> tuple[float, ...]:
    """What is compared of several mixes: the loss, low is good; or how surely the main metric is good, then loss."""
    if by_loss:
        return (metrics["loss"],)
    return gain(metric, _main(metrics, metric)) - metrics.get(PAIRED, 0.0), -metrics["loss"]


def _of_it(share: float, waited: int, step: bool) -> str:
    if waited:
        steps = "1 step" if waited == 1 else f"{waited} steps"
        return f"{_TIMES.get(share, f'{share:.3g} times ')}the mean of its step and {steps} that waited"
    return f"part {share:.3g} of the step" if step else f"share {share:.3g} of the candidate"


def best(candidate: Metrics, current: Metrics, metric: str) -> tuple[bool, str]:
    """Whether the candidate is better: by the metric; at equal metric by the lower loss; else the current stays."""
    offered, have = _main(candidate, metric), _main(current, metric)
    if gain(metric, offered) > gain(metric, have):
        return True, f"{metric} {offered:.4f} beats {have:.4f}"
    if offered != have:
        return False, f"{metric} {offered:.4f} is {worse(metric)} the current {have:.4f}"
    loss, new_loss = current["loss"], candidate["loss"]
    if new_loss < loss:
        return True, f"{metric} {offered:.4f} is equal, loss {new_loss:.4f} beats {loss:.4f}"
    return False, f"{metric} {offered:.4f} is equal, loss {new_loss:.4f} is not below the current {loss:.4f}"


def lower(gate: Gate, metric: str, candidate: Metrics, current: Metrics, bar: float) -> tuple[bool, str]:
    """Whether the loss falls, and the gate lets the main metric through.

    One lucky accuracy on few images blocks what is better for long, when accuracy decides first; the loss does not
    come in steps of an image.
    """
    loss, have = candidate["loss"], current["loss"]
    if loss >= have:
        return False, f"loss {loss:.4f} is not below the current {have:.4f}"
    if gate.kind == "off":
        return True, f"loss {loss:.4f} beats {have:.4f}"
    accept, reason = passes(gate, metric, candidate, current, bar)
    return accept, f"loss {loss:.4f} beats {have:.4f}, {'and' if accept else 'yet'} {reason}"


def passes(gate: Gate, metric: str, candidate: Metrics, current: Metrics, bar: float) -> tuple[bool, str]:
    """Whether a model may be released, by the gate alone.

    The bar of the gate `on` is the best release, not the last one: else a site could walk the model down, one margin
    at a time.
    """
    offered, have = _main(candidate, metric), _main(current, metric)
    if gate.kind == "on" and offered == have == _UNDEFINED:
        return best(candidate, current, metric)
    if gate.kind == "off":
        return True, f"{metric} {offered:.4f} after {have:.4f}, without a gate"
    if gate.paired:
        above = "by more than the standard error of the difference"
        if gain(metric, offered) - gain(metric, have) > candidate[PAIRED] + _EXACT:
            return True, f"{metric} beats {have:.4f} {above}"
        return False, f"{metric} does not beat {have:.4f} {above}"
    if gate.kind == "ladder":
        if gain(metric, offered) > gain(metric, have) + gate.margin:
            return True, f"{metric} beats {have:.4f} by more than {gate.margin:g}"
        return False, f"{metric} does not beat {have:.4f} by more than {gate.margin:g}"
    if gain(metric, offered) >= gain(metric, bar):
        return True, f"{metric} {offered:.4f} {'equals' if offered == bar else 'beats'} the best so far, {bar:.4f}"
    if gain(metric, offered) >= gain(metric, bar) - gate.margin:
        return True, f"{metric} {offered:.4f} is within {gate.margin:g} of the best so far, {bar:.4f}"
    where = worse(metric)
    return False, f"{metric} {offered:.4f} is more than {gate.margin:g} {where} the best so far, {bar:.4f}"


def standard_error(lost: int, won: int, images: int) -> float:
    """s/sqrt(n), the standard error of the difference between two error rates on the same images.

    s is the sample standard deviation (n - 1 in its denominator) of the differences of the 0/1 losses, of which each is
    1, 0 or -1 (Blum and Hardt 2015, section 3.3). A model is better by more than this just where
    (won - lost)^2 > won + lost: where McNemar's statistic is above 1.

    Args:
        lost: Of how many images the candidate is wrong and the current model right.
        won: Of how many it is the other way round.
        images: n, at least 2.

    Raises:
        ValueError: One image has no sample standard deviation.
    """
    if images < 2:
        raise ValueError(f"a gate that pairs images needs a holdout of at least 2, found {images}")
    difference = won - lost
    return math.sqrt((images * (lost + won) - difference * difference) / (images - 1)) / images


def pairs(margin: float, current: float, candidate: float, images: int | None) -> bool:
    """Whether a standard error is one that two models with these accuracies can have.

    Args:
        margin: The standard error.
        current, candidate: Their accuracies.
        images: How many there were; None where nobody says, then any number.
    """
    if not 0 <= margin <= 1:
        return False
    if images is None:
        difference = candidate - current
        most = 2 * min(1 - current, candidate) - difference  # the share of images on which they can differ
        return margin**2 <= most - difference**2 + _EXACT  # that of two images, the fewest there can be
    if images < 2:
        return False
    right = [round(one * images) for one in (current, candidate)]
    if any(abs(one * images - count) > 1e-6 for one, count in zip((current, candidate), right, strict=True)):
        return False
    difference = right[1] - right[0]
    differing = ((margin * images) ** 2 * (images - 1) + difference**2) / images
    won = round((differing + difference) / 2)
    lost = won - difference
    if not (0 <= won <= min(images - right[0], right[1]) and 0 <= lost <= min(right[0], images - right[1])):
        return False
    return math.isclose(standard_error(lost, won, images), margin, rel_tol=1e-9, abs_tol=_EXACT)


def gone_on(decision: Decision, sound: bool, text: str) -> Decision:
    """A decision to accept, after it was looked at whether sites can go on from the model; see `soundness`.

    Args:
        sound: Whether they can.
        text: What was conspicuous; empty when nothing was.
    """
    if not text:
        return decision
    reason = f"{decision.reason}; {text}" if sound else f"{decision.reason}, but {text}"
    return dataclasses.replace(decision, accept=sound, reason=reason)


def told(gate: Gate, metrics: Metrics | None) -> dict[str, Any] | None:
    """Scores as the federation may know them: under a ladder rounded to its step, without the tables.

    A parameter-free one tells the main metric as it is, which on n images is a multiple of 1/n, and the others in steps
    of a hundredth. Whoever sees exact scores of a holdout can climb it, one submission at a time (Blum and Hardt 2015,
    section 1).
    """
    if metrics is None or not gate.is_ladder:
        return None if metrics is None else dict(metrics)
    plain = {name: value for name, value in metrics.items() if value is None or isinstance(value, float)}
    plain.pop(PAIRED, None)
    return {name: value if value is None else _told(gate, name, value) for name, value in plain.items()}


def _told(gate: Gate, name: str, value: float) -> float:
    """A score in steps: of the margin, where that is in its unit; else of a hundredth, or in two digits."""
    if name in _IN_STEPS or (gate.paired and name == gate.metric):
        return value
    if gate.paired:
        return _rounded(value, 0.01)
    if (name in IN_UNITS) == (gate.metric in IN_UNITS):
        return _rounded(value, gate.margin)
    return float(f"{value:.2g}") if name in IN_UNITS else _rounded(value, 0.01)


def impossible(metrics: Metrics, most: float = 1.0) -> str | None:
    """The first score that no model can have, by name; None where all can be.

    Args:
        most: What is told of the highest accuracy.
    """
    return next((name for name, value in metrics.items() if not _is_score(name, value, most)), None)


def _is_score(name: str, value: Any, most: float) -> bool:
    if name in ("confusion", "confusion_at_threshold"):
        rows = value if isinstance(value, list) else [None]
        return all(
            isinstance(row, list) and len(row) == len(rows) and all(type(n) is int and 0 <= n < 2**53 for n in row)
            for row in rows
        )
    if name == "per_class_accuracy":
        return isinstance(value, list) and all(_is_score("accuracy", share, most) for share in value)
    if name in _IN_STEPS:
        return is_number(value) and (0 <= value <= 1 if name == "threshold" else COOLEST <= value <= HOTTEST)
    if name == "per_label_auc":
        return isinstance(value, list) and all(_is_score("auc", one, most) for one in value)
    if name == "confusion_per_label":
        tables = value if isinstance(value, list) else [None]
        return all(isinstance(one, list) and len(one) == 4 and all(map(_is_count, one)) for one in tables)
    if name == "per_target_mae":
        return isinstance(value, list) and all(_is_score("mae", error, most) for error in value)
    if value is None:
        return name not in _ERRORS
    if name in _SHARES:
        return is_number(value) and 0 <= value <= most
    if name == "r2":
        return is_number(value) and value <= most
    return is_number(value) and (value >= 0 or name not in _ERRORS)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Whether it is a finite number, also once it is a float; JSON knows whole numbers of any size."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _rounded(value: float, step: float) -> float:
    return round(round(value / step) * step, 10)


def _main(metrics: Metrics, metric: str) -> float:
    """The main metric; AUC is undefined on a holdout of one class, then for every model, and the loss decides."""
    value = metrics[metric]
    return _UNDEFINED if value is None else float(value)
