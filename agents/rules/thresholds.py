"""Where two classes are told apart, and how sure a model is: what may be agreed, and what its scores say then. Pure.

    genesis "decision"   {"threshold": RULE, "temperature": true}, each only where it is not as by default
    metrics              gain what `NAMES` lists

A threshold is a probability of class 1: from it on an image is called so. It is found on the coordinator's holdout, for
every model anew, and never moves what models are compared by: these scores are taken at 0.5 as ever.

    youden            the largest sensitivity + specificity - 1 (Youden 1950)
    sensitivity>=X    the highest threshold at which at least this share of class 1 is found
    specificity>=X    the lowest at which at least this share of class 0 is
    X                 this very probability
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedssh.forms import Expected
from fedssh.rules.vocabulary import LADDERS

USUAL = "0.5"
BY_CLASS = ("sensitivity", "specificity")
NAMES = {
    "threshold": "From which probability of class 1 on the agreed rule calls an image so.",
    "confusion_at_threshold": "The table `confusion` at that threshold.",
    "temperature": "What the logits are divided by to be calibrated (Guo et al. 2017, section 4.2).",
    "calibration_error": "Expected calibration error before that, over 15 bins of equal width (the same, section 2).",
}
COOLEST, HOTTEST = 0.05, 20.0  # bounds of a temperature
_RULE = re.compile(r"(sensitivity|specificity) ?>= ?([01]?\.?[0-9]{1,6})")
_FIXED = re.compile(r"0?\.[0-9]{1,6}")


@dataclass(frozen=True)
class Rule:
    """How a threshold is found.

    Attributes:
        kind: `youden`, `sensitivity`, `specificity` or `fixed`.
        value: What the share is at least, or the probability; None of `youden`.
    """

    kind: str
    value: float | None = None

    @property
    def text(self) -> str:
        """As it is written."""
        if self.value is None:
            return self.kind
        number = _plain(self.value)
        return number if self.kind == "fixed" else f"{self.kind}>={number}"

    def kept_by(self, table: Sequence[Sequence[int]]) -> bool:
        """Whether a table of counts, truth by row, keeps what the rule promises of a class."""
        if self.kind not in BY_CLASS or self.value is None:
            return True
        label = BY_CLASS[::-1].index(self.kind)
        return table[label][label] >= self.value * sum(table[label]) - 1e-9


def _plain(value: float) -> str:
    """A number without an exponent, which a rule does not have."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def read_rule(text: object) -> Rule:
    """A rule as it is written.

    Raises:
        ValueError: It is none.
    """
    words = _plain(text) if isinstance(text, float) else text
    words = words.strip() if isinstance(words, str) else ""
    if words == "youden":
        return Rule("youden")
    if (found := _RULE.fullmatch(words)) and 0 < float(found[2]) <= 1:
        return Rule(found[1], float(found[2]))
    if _FIXED.fullmatch(words) and 0 < float(words) < 1:
        return Rule("fixed", float(words))
    raise Expected("expected youden, sensitivity>=X, specificity>=X, or a probability such as 0.5")


def written(threshold: str, *, temperature: bool) -> dict[str, Any]:
    """What genesis says of it; empty where all is as by default."""
    said: dict[str, Any] = {} if threshold == USUAL else {"threshold": threshold}
    return said | ({"temperature": True} if temperature else {})


def asked(genesis: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the judge must find beside the scores, by what was agreed; None where that is nothing.

    Under a ladder, thresholds and temperatures are of a few steps, for they tell of the holdout.
    """
    decision = genesis.get("decision")
    return {**decision, "steps": genesis.get("gate") in LADDERS} if decision else None


def objection(decision: Mapping[str, Any] | None, metrics: Mapping[str, Any], *, steps: bool) -> str | None:
    """Why scores do not say what was agreed of the decision; None where they do, as far as anybody can see.

    Args:
        decision: As in genesis; None where nothing was agreed.
        steps: Whether scores are told in steps, without tables.
    """
    agreed = decision or {}
    wanted = {"threshold", "confusion_at_threshold"} if "threshold" in agreed else set()
    wanted |= {"temperature"} if agreed.get("temperature") else set()
    wanted |= {"calibration_error"} if agreed else set()
    wanted -= {"confusion_at_threshold"} if steps else set()
    for name in NAMES:
        if (name in metrics) != (name in wanted):
            return f"a score lacks the {name}" if name in wanted else f"no {name} was agreed"
    if "threshold" not in agreed:
        return None
    rule, threshold = read_rule(agreed["threshold"]), metrics["threshold"]
    if rule.kind == "fixed" and threshold != rule.value:
        return f"the threshold is {rule.text}"
    if steps:
        return None
    plain, table = metrics["confusion"], metrics["confusion_at_threshold"]
    if [sum(row) for row in plain] != [sum(row) for row in table]:
        return "the table at the threshold is of other images"
    if not rule.kept_by(table):
        return f"the threshold {threshold} has not {rule.text}"
    if rule.kind == "youden" and _youden(table) < _youden(plain) - 1e-12:
        return f"the threshold {threshold} has not the largest {rule.text}"
    return None


def _youden(table: Sequence[Sequence[int]]) -> float:
    return sum(row[label] / sum(row) for label, row in enumerate(table)) - 1
