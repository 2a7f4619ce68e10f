"""What a model card says of each class, with intervals, of calibration, and of a test split. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedssh.history.figures import calibration
from fedssh.rules.figures import assessed

Row = Mapping[str, Any]
SHOWN = 20  # classes
_UNKNOWN = (
    "How it does on images that nobody selected on is not in the history: the coordinator's `charity score` says it."
)


def section(
    genesis: Row, metrics: Row, tested: Row | None, plain: Callable[[object], str] = str, *, told: bool = False
) -> str:
    """Write it; empty where no table tells of single classes.

    Args:
        genesis: What was agreed.
        metrics: What the model scored on the holdout, by its record.
        tested: What `charity score --json` says of the split `test`; None where nobody has looked.
        plain: Makes names fit for a page.
        told: Whether the history says how it does on the test split.
    """
    rule = (genesis.get("decision") or {}).get("threshold")
    holdout = (tested or {}).get("holdout") or assessed(metrics, genesis.get("class_names"), rule)
    test = (tested or {}).get("assessed")
    parts = [_images("the holdout", holdout, plain), _images("the test split", test, plain)]
    if not any(parts):
        return ""
    both = (tested or {}).get("compared")
    said = _UNKNOWN * (not told) if both is None else f"**{plain(both['sentence'])}.**"
    return "\n\n".join(["## Each class, with 95 % intervals", *filter(None, [*parts, said])])


def _images(where: str, found: Row | None, plain: Callable[[object], str]) -> str:
    if not found:
        return ""
    lines = [f"On {where}, {found['images']:,} images:", "", *_table(found["figures"], plain)]
    if at := found["threshold"]:
        rule = f", by the rule `{at['rule']}`" if at["rule"] else ""
        lines += [
            "",
            f"Called {plain(at['class'])} from {at['value']:.4g} on{rule}:",
            "",
            *_table(at["figures"], plain),
        ]
    if line := calibration(found["calibration"]):
        lines += ["", line[0].upper() + line[1:] + "."]
    return "\n".join(lines)


def _table(figures: Sequence[Row], plain: Callable[[object], str]) -> list[str]:
    shown = [one for one in figures if not one["of"].startswith("recall of ")]
    recalls = [one for one in figures if one["of"].startswith("recall of ")][:SHOWN]
    rows = [
        f"| {plain(one['of'])} | {one['value']:.4f} | {one['low']:.4f} to {one['high']:.4f} |"
        for one in [*shown, *recalls]
    ]
    return ["| | value | 95 % interval |", "|---|---|---|", *rows]
