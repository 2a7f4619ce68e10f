"""A holdout that is cut out of `train` where a data set has none, or too small a one. Pure.

For every class, its images (with patients: its patients, each with all images, counted to the class that most of them
have) are put in the order of

    SHA-256(seed, name of the image or of the patient)

and taken from the front until `share` of the class's images is reached as nearly as it can be; of each class with two
or more, at least one is taken and one stays. No random generator is involved, so the same images are taken on every
machine and by every version. An existing `val` belongs to the holdout as it is, with all other images of its patients.

What was cut is recorded as a hash of all names, classes and patients. A data set that differs from it in one file is
refused, since another cut would train on images that models are scored on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

POOL = ("train", "val")  # what is cut, in this order


class Row(NamedTuple):
    """One image of what is cut: in a data set, there is no second one with this split, category and name."""

    split: str
    category: str
    name: str
    patient: str | None


class ChangedError(ValueError):
    """The data set is not the one that the holdout was cut from."""


@dataclass(frozen=True)
class Cut:
    """How a holdout is cut.

    Attributes:
        share: Of the images of `train`, between 0 and 1.
        seed: The same seed gives the same images.
        sha256: The `identity` of what it is cut from; None does not look.
        images: How many these were, for the message.
    """

    share: float
    seed: int
    sha256: str | None = None
    images: int | None = None

    def recorded(self) -> dict[str, Any]:
        """As JSON, for `read_cut`."""
        return {"share": self.share, "seed": self.seed, "sha256": self.sha256, "images": self.images}


def read_cut(value: Mapping[str, Any] | None) -> Cut | None:
    """What `Cut.recorded` wrote; None where nothing was cut."""
    return None if value is None else Cut(value["share"], value["seed"], value["sha256"], value["images"])


def identity(rows: Sequence[Row]) -> str:
    """What tells one data set from another by names, classes and patients: SHA-256, whatever the order."""
    lines = sorted(json.dumps(row) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def divide(rows: Sequence[Row], cut: Cut, where: str) -> tuple[list[int], list[int]]:
    """Which of the images stay in `train`, and which are the holdout: their places in `rows`, ascending.

    Raises:
        ChangedError: These are not the images that the holdout was cut from; the message begins with `where`.
        ValueError: The share is none, or one of the two would be empty.
    """
    if not 0 < cut.share < 1:
        raise ValueError(f"--holdout is {cut.share:g}, expected a share between 0 and 1, such as 0.2")
    if not rows:
        raise ValueError(f"{where}: there are no images that can be read, so there is no holdout to cut")
    if cut.sha256 is not None and identity(rows) != cut.sha256:
        raise ChangedError(
            f"{where} has changed since `charity init` cut the holdout out of it: train and val had {cut.images:,} "
            f"images, now {len(rows):,}{'' if len(rows) != cut.images else ' with other names, classes or patients'}; "
            "give exactly those back"
        )
    given = {_owner(row) for row in rows if row.split == "val"}
    held = given | _chosen([row for row in rows if _owner(row) not in given], cut)
    sides: tuple[list[int], list[int]] = ([], [])
    for place, row in enumerate(rows):
        sides[_owner(row) in held].append(place)
    if not all(sides):
        raise ValueError(
            f"{where} has {len(rows):,} images of {len(set(map(_owner, rows))):,} patients: too few to cut"
        )
    return sides


def _owner(row: Row) -> tuple[str, ...]:
    return ("patient", row.patient) if row.patient is not None else row[:3]


def _chosen(rows: Sequence[Row], cut: Cut) -> set[tuple[str, ...]]:
    """The patients, or images, that are taken out of `train`."""
    categories: dict[tuple[str, ...], Counter[str]] = {}
    for row in rows:
        categories.setdefault(_owner(row), Counter())[row.category] += 1
    by_class: dict[str, list[tuple[str, ...]]] = {}
    for owner, counts in categories.items():
        by_class.setdefault(min(counts, key=lambda one: (-counts[one], one)), []).append(owner)
    chosen: set[tuple[str, ...]] = set()
    for owners in by_class.values():
        sizes = {owner: categories[owner].total() for owner in owners}
        chosen.update(_taken(sorted(owners, key=lambda owner: _order(cut.seed, owner)), sizes, cut.share))
    return chosen


def _taken(owners: Sequence[tuple[str, ...]], sizes: Mapping[tuple[str, ...], int], share: float) -> list[Any]:
    """Those from the front with which the share of a class is reached as nearly as can be."""
    wanted, reached, taken = share * sum(sizes.values()), 0, 0
    for owner in owners:
        if reached + sizes[owner] / 2 > wanted:
            break
        reached, taken = reached + sizes[owner], taken + 1
    return list(owners[: min(max(taken, 1), len(owners) - 1)])


def _order(seed: int, owner: tuple[str, ...]) -> bytes:
    return hashlib.sha256(json.dumps([seed, *owner]).encode()).digest()
