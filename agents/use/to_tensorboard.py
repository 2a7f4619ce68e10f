"""A history as a folder for TensorBoard, by its own writer of event files; TensorFlow is not needed.

    DIR/RUN/events.out.tfevents.FIRST-LAST.HASH.fedssh   the numbers of records FIRST to LAST; so begins LAST's hash

Asked again, each run gets a file more with what came since, so nothing stands there twice, and a TensorBoard that looks
on shows it. Which record a run ends with is in the name of its newest file; if this history has another one of that
number, the folder is another history's, and nothing is written. A file is there whole or not at all. Numbers are kept
with 32 bits, as TensorBoard has them.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError
from fedssh.history import views
from fedssh.history.names import MOVES
from fedssh.use.card import escaped
from fedssh.use.tracked import COORDINATOR, Point, Told, seconds_of

_HINT = "pip install 'fedssh[trackers]'"
_NAME = re.compile(r"events\.out\.tfevents\.([0-9]{10})-([0-9]{10})\.([0-9a-f]{16})\.fedssh")


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
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise SettingsError(f"--to tensorboard needs the extra trackers: {error}", _HINT) from None
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    ends = {run: _end(told, folder / run) for run in told.runs()}
    found: dict[str, list[Any]] = defaultdict(list)
    for point in told.points(min(ends.values())):
        if point.step > ends[point.run]:
            found[point.run].append(point)
    texts = list(_texts(told, ends[COORDINATOR]))
    part = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")  # a TensorBoard that looks on sees no half file
    try:
        for run, end in ends.items():
            if not found[run] and not (run == COORDINATOR and texts):
                continue
            writer = EventFileWriter(str(part / run), max_queue_size=1000)
            try:
                for event in (*map(_event, found[run]), *(texts if run == COORDINATOR else ())):
                    writer.add_event(event)
            finally:
                writer.close()
            [written] = (part / run).iterdir()
            (folder / run).mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{end + 1:010}-{told.sequence:010}.{told.head[:16]}.fedssh"
            os.replace(written, folder / run / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [run for run in ends if found[run] or (run == COORDINATOR and texts)]


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
