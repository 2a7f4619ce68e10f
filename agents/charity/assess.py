"""What a recorded model is worth on a split, beside the holdout that it was chosen by; from the judge's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedssh.history import figures
from fedssh.rules.differing import compared
from fedssh.rules.figures import assessed
from fedssh.rules.metrics import CLASSES, task_of

HOLDOUT = "val"
WORTH = 10  # scores: two splits, and 2,000 samples of each
_SCORES = (
    "loss", "accuracy", "precision", "recall", "balanced_accuracy", "f1", "auc", "confusion", "per_class_accuracy",
)  # fmt: skip
_AT = ("threshold", "confusion_at_threshold", "temperature")


class Asks(Protocol):
    """What it needs of a judge."""

    def ask(self, request: dict[str, Any], worth: int = 1) -> dict[str, Any]:
        """Ask one question and wait for the answer."""
        ...


@dataclass(frozen=True)
class Assessed:
    """What was found.

    Attributes:
        metrics: The plain scores.
        value: For programs: `assessed`, `holdout` and `compared`, null where there is none; empty of numbers predicted.
        text: The same for people.
        recorded: The scores that a record tells, with those at the threshold.
        curve: With two classes, points of the receiver operating characteristic, see `models.decision.curve`.
    """

    metrics: dict[str, Any]
    value: dict[str, Any]
    text: str
    recorded: dict[str, Any]
    curve: list[list[float]] | None = None


def assess(
    judge: Asks, model: Path, split: str, genesis: Mapping[str, Any], recorded: Mapping[str, Any], *, hers: bool
) -> Assessed:
    """Score a model on a split; if it is `test`, say whether the holdout spoke for it.

    Args:
        judge: On that split.
        model: The model's file.
        genesis: What was agreed.
        recorded: What the model's record says that it scored on the holdout.
        hers: Whether the images are those that the holdout is of, too. Else what is recorded has to do for it.

    Raises:
        JudgeError: As `judge.client.Judge.ask`.
    """
    if task_of(genesis["spec"]) != CLASSES:  # figures and intervals are of classes
        plain = judge.ask({"model": str(model)})["metrics"]
        return Assessed(plain, {}, "", plain)
    names, rule = genesis.get("class_names"), (genesis.get("decision") or {}).get("threshold")
    splits = [split, *([HOLDOUT] if hers and split == "test" else [])]
    answer = judge.ask({"assess": {
        "model": str(model),
        "splits": splits,
        "threshold": recorded.get("threshold"),
        "temperature": recorded.get("temperature"),
    }}, WORTH)["assessed"]  # fmt: skip
    found = answer[split]
    here = assessed(found, names, rule)
    known = answer.get(HOLDOUT) or recorded
    there = assessed(known, names, rule) if split != HOLDOUT else None
    both = None
    text = figures.text(here, f"ON {split.upper()}")
    if split == "test" and there is not None:
        which = "confusion_at_threshold" if here and here["threshold"] and there["threshold"] else "confusion"
        both = compared(known[which], found[which], names, split)
        text += figures.text(there, "ON THE HOLDOUT") + f"\n{both['sentence']}\n"
    value = {"assessed": here, "holdout": there, "compared": both}
    scores, kept = ({name: found[name] for name in names if name in found} for names in (_SCORES, _SCORES + _AT))
    return Assessed(scores, value, text, kept, found.get("curve"))
