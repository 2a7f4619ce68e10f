"""A history as a folder for TensorBoard, by its own writer of event files; TensorFlow is not needed.

    DIR/RUN/events.out.tfevents.FIRST-LAST.HASH.fedssh   the numbers of records FIRST to LAST; so begins LAST's hash

Asked again, each run gets a file more with what came since, so nothing stands there twice, and a TensorBoard that looks
on shows it. Which record a run ends with is in the name of its newest file; if this history has another one of that
number, the folder is another history's, and nothing is written. A file is there whole or not at all. Numbers are kept
with 32 bits, as TensorBoard has them; what is too large for that is left out.
"""

from __future__ import annotations

import re
import secrets
import sys
import time
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError
from fedssh.files import adopt, sweep
from fedssh.history import views
from fedssh.history.names import MOVES
from fedssh.use.card import escaped
from fedssh.use.tracked import COORDINATOR, Point, Told, seconds_of

_HINT = "pip install 'fedssh[trackers]'"
_NAME = re.compile(r"events\.out\.tfevents\.([0-9]{10})-([0-9]{10})\.([0-9a-f]{16})\.fedssh")
_LARGEST = (2 - 2**-23) * 2.0**127  # of 32 bits


def export(told: Told, folder: Path) -> list[str]:
    """Write what the folder has not yet.

    Returns:
        The runs that something was written for.

    Raises:
        SettingsError: TensorBoard is not installed, or the folder has runs of another history.
    """
    # TensorBoard takes TensorFlow where it is, which is seconds and a page of warnings, unless it finds this module.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SettingsError(f"--to tensorboard needs the extra trackers: {error}", _HINT) from None
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    ends = {run: _end(told, folder / run) for run in told.runs()}
    found: dict[str, list[Any]] = defaultdict(list)
    for point in told.points(min(ends.values())):
        if point.step > ends[point.run] and abs(point.value) <= _LARGEST:
            found[point.run].append(point)
    texts = list(_texts(told, ends[COORDINATOR]))
    written = []
    for run, end in ends.items():
        own = texts if run == COORDINATOR else []
        if found[run] or own:
            name = f"events.out.tfevents.{end + 1:010}-{told.sequence:010}.{told.head[:16]}.fedssh"
            _write(folder / run, name, chain(map(_event, found[run]), own))
            written.append(run)
    return written


def _write(folder: Path, name: str, events: Iterable[Any]) -> None:
    """Write a file of events into a run's own folder, which may be on a disk of its own."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    part = folder / f".{secrets.token_hex(4)}.part"  # TensorBoard reads whatever has `tfevents` in its name
    try:
        with part.open("xb") as file:
            writer = RecordWriter(file)
            for event in (Event(wall_time=time.time(), file_version="brain.Event:2"), *events):
                writer.write(event.SerializeToString())
        adopt(part, folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _end(told: Told, folder: Path) -> int:
    """The record that a run ends with; 0 of one that has not begun."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    parts = [found for name in names if (found := _NAME.fullmatch(name))]
    if not parts:
        return 0
    last = int(parts[-1][2])
    if not told.is_of(last, parts[-1][3]):
        raise SettingsError(f"{folder} holds runs of another history", "give another folder, or remove this one")
    return last


def _event(point: Point) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=point.metric, simple_value=point.value)])
    return Event(wall_time=point.seconds, step=point.step, summary=summary)


def _texts(told: Told, after: int) -> Iterator[Any]:
    """What was agreed, and how models got and lost their names, where TensorBoard shows texts."""
    if not after:
        lines = [f"| {escaped(name)} | {escaped(text)} |" for name, text in told.parameters().items()]
        yield _text("agreed", "\n".join(["| agreed | |", "|---|---|", *lines]), 1, seconds_of(told.genesis))
    for record in told.rows(after):
        if record["event"] in MOVES:
            yield _text("names", escaped(views.why(record)), record["sequence"], seconds_of(record))


def _text(tag: str, text: str, step: int, seconds: float) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    metadata = create_summary_metadata(display_name=tag, description="")
    value = Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
    return Event(wall_time=seconds, step=step, summary=Summary(value=[value]))
