"""The coordinator's own images, looked through: as `charity init` would take them, or as a federation has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.charity.judge.own_images import reading_of, take, to_reading, to_record
from fedssh.charity.judge.scorer import fingerprint
from fedssh.errors import SettingsError
from fedssh.models import tasks
from fedssh.models.data import images
from fedssh.models.data.holdout import Cut
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import ERROR, NOTE, Remark
from fedssh.use.check import Agreed, Checked, coordinator_data


@dataclass(frozen=True)
class Said:
    """What a person says of the images beside what they say themselves; the options of `charity init`."""

    size: str | None = None
    classes: str | None = None
    max_value: int | None = None
    patient: str | None = None
    columns: str | None = None
    holdout: float | None = None
    seed: int = 0
    target: str | None = None
    features: str | None = None
    leave_out: str | None = None
    task: str | None = None


def unrecorded(data: Path, said: Said) -> Checked:
    """Look through images with which no federation has begun yet.

    Raises:
        SettingsError: An option cannot be read.
    """
    problem: SettingsError | None = None
    spec: dict[str, Any] | None = None
    names: list[str] | None = None
    table: dict[str, Any] | None = None
    private = _as_recorded(said)
    _reading(private)
    try:
        private |= to_record(data, said.patient, said.columns, said.holdout, said.seed, said.target, said.features,
                             said.leave_out, said.task)  # fmt: skip
        taken = take(data, _ANY, said.size, said.classes, to_reading(private))
        spec, names, table = taken.spec, taken.class_names, taken.table
    except SettingsError as error:
        problem = error
    task = tasks.task_of(spec) if spec else said.task
    reading = to_reading(private | {"names": names, "table": table, "task": task})
    checked = coordinator_data(data, reading, Agreed(spec))
    if problem is not None and not checked.errors:  # else it says the same
        checked.said.append(Remark(ERROR, str(problem), problem.hint))
    return checked


def recorded(data: Path, genesis: Mapping[str, Any], private: Mapping[str, Any], said: Said) -> Checked:
    """Look through images as the federation reads them that has begun: with its classes, sizes and holdout.

    Raises:
        SettingsError: An option cannot be read, or belongs to `charity init`.
    """
    settled = ("holdout", "size", "target", "features", "leave_out", "task")
    if over := [name for name in settled if getattr(said, name) is not None]:
        option = f"--{over[0].replace('_', '-')}"
        raise SettingsError(f"{option} was settled when the federation began", "give another --state to try others")
    instead = {key: value for key, value in vars(said).items() if value is not None and key in _SAME}
    hers = data.resolve() == Path(private["data"]).resolve()
    reading = _reading(reading_of(genesis, {**private, **instead}, None if hers else data))
    checked = coordinator_data(data, reading, Agreed(genesis["spec"]))
    if not checked.errors:
        checked.said += _held_against(data, genesis, reading, hers)
    return checked


_ANY = "mlp"  # which architecture, `charity init` says; every size and number of classes suits this one
_SAME = ("classes", "max_value", "patient", "columns", "target", "features", "leave_out", "task")


def _as_recorded(said: Said) -> dict[str, Any]:
    """What vault/charity.json would say, without looking at any image."""
    cut = None if said.holdout is None else Cut(said.holdout, said.seed).recorded()
    return {key: getattr(said, key) for key in _SAME} | {"holdout": cut}


def _reading(value: Mapping[str, Any]) -> Reading:
    try:
        return to_reading(value)
    except ValueError as error:
        raise SettingsError(str(error), getattr(error, "hint", None)) from None


def _held_against(data: Path, genesis: Mapping[str, Any], reading: Reading, hers: bool) -> list[Remark]:
    """Whether the holdout is the one that genesis recorded, image by image."""
    if not isinstance(wanted := genesis.get("holdout"), dict):
        return []
    spec = genesis["spec"]
    holdout = images.load(data, spec["input"], tasks.number_of(spec), "val", reading)
    if {"examples": len(holdout), "sha256": fingerprint(holdout)} == wanted:
        return [Remark(NOTE, "the holdout is the one that the genesis record names")]
    text = f"val has {len(holdout):,} images, but not those that the genesis record names ({wanted['examples']:,})"
    return [Remark(ERROR if hers else NOTE, text, "give the images of `charity init` back" if hers else None)]
