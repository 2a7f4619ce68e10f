"""The machine itself: clock, disk, memory, engine."""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedssh.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding, enough
from fedssh.doctor.subject import Subject
from fedssh.use.usable import control_groups

MB = 1_000_000
# What an agent takes at its peak, in MB: Alice trains a small network in 1,000 and Bob has 64; Charity and her judge.
MEMORY_MB = {"site": 1060, "bob": 64, "coordinator": 900, "auditor": 64, "door": 128}
# A spool of eight models of 100 MB with their copies; models of a first month; a history.
DISK_MB = {"site": 2000, "bob": 1000, "coordinator": 5000, "auditor": 100}
INODES = 10_000
CLOCK_SECONDS = 60  # by which a clock may lie behind the newest record: it is another machine's
PROBE_SECONDS = 5
_LAST_BYTES = 256 * 1024
_NO_LINKS = {"vfat", "msdos", "exfat", "fuseblk", "ntfs", "ntfs3"}
_CONTAINER = (".dockerenv", "run/.containerenv")  # what Docker and Podman lay there
_TIME_ERROR = 5  # adjtimex(2)

Run = Callable[[list[str]], tuple[int, str]]


def run(words: list[str]) -> tuple[int, str]:
    """A program's exit status and words; 127 where there is none, 124 where it takes too long."""
    program = shutil.which(words[0])
    if program is None:
        return 127, f"no {words[0]}"
    try:
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, f"{words[0]} did not answer in {PROBE_SECONDS} s"
    except OSError as error:
        return 126, str(error)
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()


def clock(subject: Subject, run: Run = run, now: datetime.datetime | None = None) -> Finding:
    """Whether the clock is set by others, and not before what is known to have happened."""
    now = now or datetime.datetime.now(datetime.UTC)
    newest, of = max(_times(subject.state), default=(None, ""))
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if newest and (newest - now).total_seconds() > CLOCK_SECONDS:
        found = f"{shown} lies before {of} of {newest:%Y-%m-%d %H:%M:%S}"
        return Finding("clock", FAILED, found, "set the clock; let it be set by NTP (systemd-timesyncd or chrony)")
    after = f", {_duration(now - newest)} after {of}" if newest else ""
    synchronised, by = _synchronised(run)
    if synchronised is None:
        return Finding("clock", SKIPPED, f"{shown}{after}; this machine does not tell whether it is synchronised")
    if not synchronised:
        found = f"{shown}{after}; not synchronised, says {by}"
        return Finding("clock", WARNING, found, "let NTP set it (systemd-timesyncd or chrony)")
    return Finding("clock", OK, f"{shown}{after}; synchronised, says {by}")


def _duration(time: datetime.timedelta) -> str:
    seconds = max(time.total_seconds(), 0)
    if seconds >= 172800:
        return f"{seconds / 86400:.0f} days"
    minutes = round(seconds / 60)
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def _synchronised(run: Run) -> tuple[bool | None, str]:
    code, said = run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if code == 0 and said in ("yes", "no"):
        return said == "yes", "timedatectl"
    code, said = run(["chronyc", "-n", "tracking"])
    if code == 0 and (leap := re.search(r"^Leap status\s*: (.+)$", said, re.MULTILINE)):
        return leap[1].strip() != "Not synchronised", "chronyc"
    state = _kernel_state()
    return (None, "") if state is None else (state != _TIME_ERROR, "the kernel")


def _kernel_state() -> int | None:
    """What adjtimex(2) says without being told anything; None where there is no such call."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = int(libc.adjtimex(ctypes.create_string_buffer(512)))  # a struct timex of zeros: change nothing
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None


def _times(state: Path) -> Iterator[tuple[datetime.datetime, str]]:
    """When what lies in a folder happened, as its coordinator wrote it."""
    for name in ("outbox/ledger.jsonl", "genesis.json"):
        for line in _last_line(state / name):
            yield from _time(line.get("record"), f"record {line.get('sequence')}")
    for receipt in _last_line(state / "receipts.jsonl"):
        yield from _time(receipt, "the last receipt")


def _time(text: Any, of: str) -> Iterator[tuple[datetime.datetime, str]]:
    try:
        fields = json.loads(text) if isinstance(text, str) else text
        time = datetime.datetime.fromisoformat(fields["time"])
        yield time if time.tzinfo else time.replace(tzinfo=datetime.UTC), of
    except (ValueError, KeyError, TypeError, RecursionError):
        return


def _last_line(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _LAST_BYTES, 0))
            lines = file.read(_LAST_BYTES).splitlines()
        value = json.loads(lines[-1])
    except (OSError, ValueError, IndexError, RecursionError):
        return
    if isinstance(value, dict):
        yield value


def disk(subject: Subject) -> Finding:
    """Whether there is room where the agent's folder is or will be, and its files can be made there."""
    place = next(path for path in (subject.state.absolute(), *subject.state.absolute().parents) if path.is_dir())
    room, needed = os.statvfs(place), DISK_MB[subject.role]
    free = room.f_bavail * room.f_frsize / MB
    kind = _file_system(place, subject.root)
    shown = f"{free:,.0f} MB free in {place}{f' ({kind})' if kind else ''}, expected {needed:,} MB"
    if room.f_flag & os.ST_RDONLY:
        return Finding("disk", FAILED, f"{place} is read-only", "mount it so that it can be written to")
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("disk", FAILED, f"this account may not write into {place}", f"chown or chmod {place}")
    if kind in _NO_LINKS:
        found = f"{place} is {kind}, which has no hard links; keys need them"
        return Finding("disk", FAILED, found, "take another disk")
    if room.f_files and room.f_favail < INODES:
        found = f"{room.f_favail:,} files more fit into {place}, expected {INODES:,}"
        return Finding("disk", FAILED, found, "remove small files there, or take another disk")
    return enough("disk", free, needed, shown, "make room, or give --state a larger disk")


def _file_system(place: Path, root: Path) -> str | None:
    """Of which kind the file system is on which a folder lies."""
    found: tuple[int, str | None] = (0, None)
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape") if len(left.split()) > 4 else ""
        if point and (place == Path(point) or Path(point) in place.parents) and len(point) >= found[0] and right:
            found = len(point), right.split()[0]
    return found[1]


def memory(subject: Subject) -> Finding:
    """Whether the machine, or the container, has as much memory as the role needs."""
    total = _total(subject.root)
    if total is None:
        return Finding("memory", SKIPPED, "this machine does not tell how much memory it has")
    limit = min(control_groups(subject.root), default=None)
    usable = min(total, limit or total)
    of = f", of {total / MB:,.0f} MB" if usable < total else ""
    role = "door" if subject.door_alone else subject.role
    text = f"{usable / MB:,.0f} MB{of}; {_WHOSE[role]} needs {MEMORY_MB[role]:,} MB"
    remedy = "raise the container's limit" if usable < total else "take a machine with more memory"
    return enough("memory", usable, MEMORY_MB[role] * MB, text, remedy)


_WHOSE = {
    "site": "a site with Alice", "bob": "Bob", "coordinator": "a coordinator", "auditor": "an auditor",
    "door": "the door",
}  # fmt: skip


def _total(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if match := re.match(r"MemTotal:\s+(\d+) kB", line):
            return int(match[1]) * 1024
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def engine(subject: Subject, run: Run = run) -> Finding:
    """Whether containers can be used."""
    bad = FAILED if subject.engine else WARNING
    if not subject.engine and any((subject.root / name).exists() for name in _CONTAINER):
        return Finding("engine", SKIPPED, "this is a container itself")
    code, said = run(["docker", "version", "--format", "{{.Server.Version}}"])
    if code == 127:
        return Finding("engine", bad, "no docker command", "install Docker, or run the agents without containers")
    if "permission denied" in said.lower():
        return Finding("engine", bad, "this account may not use the Docker engine", "add it to the group docker")
    if code or not said:
        return Finding("engine", bad, f"no Docker engine answers: {_short(said)}", "start it: systemctl start docker")
    compose, version = run(["docker", "compose", "version", "--short"])
    if compose or not version.lstrip("v").startswith(("2", "3", "4", "5")):
        found = f"Docker {said} without compose v2"
        return Finding("engine", bad, found, "install the package docker-compose-plugin")
    return Finding("engine", OK, f"Docker {said}, compose {version}")


def _short(text: str) -> str:
    return " ".join(text.split())[:120] or "no word"
