"""What scores say of each class, with how far they can be trusted: 95 % intervals, in numbers for programs. Pure.

    a share of images       Wilson's interval (Wilson 1927; Brown, Cai and DasGupta 2001)
    a mean of shares        from the intervals of its parts, by the method of variance estimates recovery (Zou and
                            Donner 2008)
    an AUC                  DeLong's interval where the probabilities are at hand; else that of Hanley and McNeil 1982,
                            which needs no more than the AUC and how many images of each class there are

Standard library only: the door shows them, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedssh.rules.precision import Z, wilson

Row = dict[str, Any]
Table = Sequence[Sequence[int]]
OF_ONE, OF_MEAN, OF_CURVE, OF_ALL = "Wilson", "Zou and Donner", "DeLong", "Hanley and McNeil"


def assessed(found: Mapping[str, Any], names: Sequence[str] | None, rule: str | None = None) -> Row | None:
    """What was found on some images, by class name; None where no table tells of single classes.

    Args:
        found: Scores as in a record; from the judge, with the intervals that need every probability.
        names: What the classes are called, in label order; None are numbers.
        rule: How the threshold was found, where there is one.
    """
    table = found.get("confusion")
    if not table or any(len(row) != len(table) for row in table) or not sum(map(sum, table)):
        return None
    called = list(names) if names else [str(label) for label in range(len(table))]
    if len(called) != len(table):
        return None
    figures = shares(table, called)
    if len(table) == 2 and found.get("auc") is not None and all(map(sum, table)):
        figures.append(_auc(found, table))
    return {
        "images": sum(map(sum, table)),
        "figures": figures,
        "threshold": _threshold(found, called, rule),
        "calibration": _calibration(found),
    }


def shares(table: Table, names: Sequence[str]) -> list[Row]:
    """Accuracy, balanced accuracy and the recall of each class that has images.

    Args:
        table: Counts, a row per true and a column per predicted class.
    """
    counts = [(names[label], row[label], sum(row)) for label, row in enumerate(table) if sum(row)]
    recalls = [_share(f"recall of {name}", right, of) for name, right, of in counts]
    whole = _share("accuracy", sum(right for _, right, _ in counts), sum(of for _, _, of in counts))
    return [whole, _mean("balanced accuracy", recalls), *recalls]


def _share(of: str, right: int, images: int) -> Row:
    low, high = wilson(right, images)
    value = right / images
    return {"of": of, "value": value, "low": low, "high": high, "right": right, "images": images, "by": OF_ONE}


def _mean(of: str, parts: Sequence[Row]) -> Row:
    value = sum(part["value"] for part in parts) / len(parts)
    below, above = (math.hypot(*(part["value"] - part[end] for part in parts)) / len(parts) for end in ("low", "high"))
    images = sum(part["images"] for part in parts)
    return {"of": of, "value": value, "low": max(0.0, value - below), "high": min(1.0, value + above),
            "right": None, "images": images, "by": OF_MEAN}  # fmt: skip


def _auc(found: Mapping[str, Any], table: Table) -> Row:
    area, images = float(found["auc"]), sum(map(sum, table))
    exact = found.get("auc_interval")
    low, high = exact or hanley_mcneil(area, *map(sum, table))
    by = OF_CURVE if exact else OF_ALL
    return {"of": "AUC", "value": area, "low": low, "high": high, "right": None, "images": images, "by": by}


def hanley_mcneil(area: float, negatives: int, positives: int) -> tuple[float, float]:
    """The 95 % interval of an area under the curve, cut off at 0 and 1; both classes have images."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (first - area**2) + (negatives - 1) * (second - area**2)
    half = Z * math.sqrt(max(0.0, spread) / (positives * negatives))
    return max(0.0, area - half), min(1.0, area + half)


def _threshold(found: Mapping[str, Any], names: Sequence[str], rule: str | None) -> Row | None:
    if found.get("threshold") is None or not found.get("confusion_at_threshold"):
        return None
    figures = shares(found["confusion_at_threshold"], names)
    return {"value": found["threshold"], "rule": rule, "class": names[1], "figures": figures}


def _calibration(found: Mapping[str, Any]) -> Row | None:
    if found.get("calibration_error") is None:
        return None
    low, high = found.get("calibration_interval") or (None, None)
    tempered = None
    if found.get("tempered_error") is not None:
        least, most = found["tempered_interval"]
        tempered = {"error": found["tempered_error"], "low": least, "high": most}
    return {
        "error": found["calibration_error"], "low": low, "high": high, "temperature": found.get("temperature"),
        "tempered": tempered,
    }  # fmt: skip
