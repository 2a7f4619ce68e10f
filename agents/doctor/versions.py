"""Python and the packages that are installed, against what was tested together."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from fedssh.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from fedssh.doctor.subject import Subject

LEAST, TESTED = (3, 11), (3, 13)
_LOCKS = {"site": "alice", "bob": "bob", "coordinator": "charity", "auditor": "bob"}
_LINE = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)


def versions(subject: Subject, locks: Path | None = None, python: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Whether Python is one that was tested, and the packages are those of the lock where one lies beside it."""
    shown = f"Python {python[0]}.{python[1]}"
    if python < LEAST:
        return Finding("versions", FAILED, f"{shown}, expected 3.11 to 3.13", "install a newer Python")
    if python > TESTED:
        return Finding("versions", WARNING, f"{shown} was not tested", "take Python 3.11, 3.12 or 3.13")
    path = (locks or Path(__file__).resolve().parents[2] / "locks") / f"{_LOCKS[subject.role]}.txt"
    try:
        wanted = _locked(path.read_text())
    except OSError:
        return Finding("versions", SKIPPED, f"{shown}; no lock lies beside the code to compare packages with")
    here = {name: _version(name) for name in wanted}
    others = [
        f"{name} {here[name]} (lock {' or '.join(locked)})"
        for name, locked in wanted.items()
        if here[name] not in (None, *locked)
    ]
    if others:
        found = f"{shown}; other than the lock: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}"
        return Finding("versions", WARNING, found, f"pip install --require-hashes --no-deps -r locks/{path.name}")
    number = sum(version is not None for version in here.values())
    return Finding("versions", OK, f"{shown}; {number} of {len(wanted)} packages of locks/{path.name}, as locked")


def _locked(text: str) -> dict[str, list[str]]:
    """The versions of each package; there may be one for each Python."""
    found: dict[str, list[str]] = {}
    for name, version in _LINE.findall(text):
        found.setdefault(name, []).append(version)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
