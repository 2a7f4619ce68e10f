"""The site's own images, looked at before a training: what they are, held against what this site has agreed to."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from fedssh.alice.incoming import read_offer
from fedssh.alice.naming import given_classes, given_columns
from fedssh.alice.terms import Terms, kept, load_pin
from fedssh.errors import SettingsError
from fedssh.models.data.pixel_file import Store
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import NOTE, Remark
from fedssh.rules.metrics import task_of
from fedssh.use.check import Agreed, Checked, site_data, tell_warnings
from fedssh.use.streamed import most_bytes
from fedssh.use.usable import SHARE


def said(classes: str | None, max_value: int | None, patient: str | None, columns: str | None) -> Reading:
    """How the images are read, by the options of `alice train` and `alice check`.

    Raises:
        SettingsError: An option cannot be read.
    """
    return Reading(
        given=given_classes(classes), white=max_value, patient=patient, columns=given_columns(columns)
    )  # fmt: skip


def look_through(data: Path, reading: Reading, exchange: Path, state: Path, share: float = SHARE) -> Checked:
    """Unpack every image, and hold the set against what this site has agreed to, as far as that is known."""
    terms = _agreed(exchange, state)
    checked = site_data(data, _held(reading, terms), Agreed(terms.spec if terms else None), share=share)
    if terms is None:
        why = "bob has not brought the agreed federation's first record" if load_pin(state) else "nothing is agreed to"
        checked.said.append(Remark(NOTE, f"{why} yet: classes and sizes are not held against a federation"))
    return checked


def warn(data: Path, reading: Reading, exchange: Path, state: Path, tell: Callable[[str], None]) -> None:
    """Say in a line each what is worth knowing before a training; looks at names and first bytes only."""
    terms = _agreed(exchange, state)
    tell_warnings(site_data(data, _held(reading, terms), Agreed(terms.spec if terms else None), unpack=False), tell)


def _agreed(exchange: Path, state: Path) -> Terms | None:
    pin = load_pin(state)
    return kept(pin, read_offer(exchange / "incoming")) if pin else None


def _held(reading: Reading, terms: Terms | None) -> Reading:
    if terms is None:
        return reading
    return dataclasses.replace(reading, names=terms.class_names, table=terms.table, task=task_of(terms.spec))


def store_in(state: Path, share: float, tell: Callable[[str], None], stop: threading.Event | None = None) -> Store:
    """Where images stand that take more than a share of the memory.

    Raises:
        SettingsError: It is no share.
    """
    if not 0 <= share <= 1:
        raise SettingsError(f"--memory is {share:g}, expected at least 0 and at most 1")
    return Store(state / "pixels", most_bytes(share), tell, stop)
