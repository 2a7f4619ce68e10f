"""The images that models are scored on, or trained on: there, of all classes, and how much a score on them says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from fedssh.doctor.subject import Subject, said
from fedssh.rules.precision import FEW, LIKELY, half_width

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

TOO_FEW = 100  # on these, two models must differ by more than 8 % to be told apart


def holdout(subject: Subject) -> Finding:
    """The coordinator's holdout against what she recorded, or the images of `--data`."""
    kept = said(subject.state / "vault" / "charity.json")
    where = subject.data or (Path(kept["data"]) if isinstance(kept.get("data"), str) else None)
    if where is None:
        why = "" if subject.works_with_a_door else "no federation has begun here, and "
        return Finding("holdout", SKIPPED, f"no images to look at: {why}--data names none")
    if not where.exists():
        return Finding("holdout", FAILED, f"{where} is not there", "put the images back, or name them with --data")
    genesis = _genesis(subject.state)
    try:
        split, images = _load(where, subject, genesis, kept)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not genesis and _is_table(where):
            return Finding("holdout", SKIPPED, f"{where} is a table: `alice check` holds it against what is agreed")
        found = f"{where} cannot be used: {str(error)[:300]}"
        return Finding("holdout", FAILED, found, "--data takes an .npz file or a folder of images per class")
    if genesis and (finding := _changed(where, genesis, images)):
        return finding
    if images.labels.ndim == 2:
        return _numbers(where, split, len(images), bool(genesis))
    return judged(where, split, Counter(int(label) for label in images.labels), _classes(where, genesis), bool(genesis))


def judged(where: Path, split: str, counts: Mapping[int, int], classes: int, recorded: bool) -> Finding:
    """What so many images per class are good for."""
    total = sum(counts.values())
    each = ", ".join(f"{counts.get(label, 0):,} of class {label}" for label in range(classes))
    width = 100 * half_width(total) if total else 0
    text = f"{where}, {split}: {total:,} images ({each})"
    if missing := [label for label in range(classes) if not counts.get(label)]:
        found = f"{text}; none of {'class' if len(missing) == 1 else 'classes'} {', '.join(map(str, missing))}"
        return Finding("holdout", FAILED, found, "add images of every class: what is missing is never scored")
    text += f"{', as recorded' if recorded else ''}; an accuracy of {LIKELY:.0%} is known to ±{width:.1f} %"
    if total < FEW:
        return Finding("holdout", FAILED if total < TOO_FEW else WARNING, text, f"take {FEW} images or more")
    return Finding("holdout", OK, text)


def _numbers(where: Path, split: str, total: int, recorded: bool) -> Finding:
    """What so many images are good for whose labels are numbers to predict."""
    text = (
        f"{where}, {split}: {total:,} images with several labels or numbers each{', as recorded' if recorded else ''}"
    )
    if total < FEW:
        return Finding("holdout", FAILED if total < TOO_FEW else WARNING, text, f"take {FEW} images or more")
    return Finding("holdout", OK, text)


def _genesis(state: Path) -> dict[str, Any]:
    """What the first record says, as the door shows it; nothing where none has been written."""
    import json

    try:
        with (state / "outbox" / "ledger.jsonl").open("rb") as file:
            value = json.loads(json.loads(file.readline(1 << 18))["record"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_table(where: Path) -> bool:
    from fedssh.models.data.images import is_table

    try:
        return is_table(where)
    except (OSError, ValueError):
        return False


def _classes(where: Path, genesis: Mapping[str, Any]) -> int:
    if genesis:
        return int(genesis["spec"]["classes"])
    from fedssh.models.data.images import describe

    return describe(where).classes


def _load(where: Path, subject: Subject, genesis: Mapping[str, Any], kept: Mapping[str, Any]) -> tuple[str, Images]:
    from fedssh.models.data import images
    from fedssh.models.data.reading import Reading
    from fedssh.models.tasks import number_of

    if genesis:
        from fedssh.charity.judge.own_images import reading_of, to_reading

        reading = to_reading(reading_of(genesis, kept))
        there = images.splits(where, reading)
        split = "val" if "val" in there else there[0]
        return split, images.load(where, genesis["spec"]["input"], number_of(genesis["spec"]), split, reading)
    there = images.splits(where)
    split = "train" if subject.works_with_a_door and "train" in there else "val" if "val" in there else there[0]
    found = images.describe(where)
    reading = Reading(task=found.task)
    return split, images.load(where, found.input or (28, 28, 1), found.classes, split, reading)


def _changed(where: Path, genesis: Mapping[str, Any], images: Images) -> Finding | None:
    from fedssh.charity.judge.scorer import fingerprint

    recorded = genesis.get("holdout")
    if not isinstance(recorded, dict):
        return None
    number, digest = len(images), fingerprint(images)
    if {"examples": number, "sha256": digest} == recorded:
        return None
    found = (
        f"{where} has {number:,} images with hash {digest[:16]}…, "
        f"recorded are {recorded.get('examples')} with {str(recorded.get('sha256'))[:16]}…"
    )
    remedy = "give the images of `charity init` back: scores on others cannot be compared"
    return Finding("holdout", FAILED, found, remedy)
