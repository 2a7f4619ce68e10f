"""What a check says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
WRONG_HOST = 3


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        state: `ok`, `warning`, `failed` or `skipped`.
        found: What was found; for a skipped check, why.
        remedy: What to do; empty where nothing is.
        untrusted: Whether the host may not be ours.
    """

    check: str
    state: str
    found: str
    remedy: str = ""
    untrusted: bool = False

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        return {name: value for name, value in asdict(self).items() if name != "untrusted"}


def exit_code(findings: Iterable[Finding]) -> int:
    """3 when a host key is wrong, 1 when something else failed, 0 otherwise."""
    failed = [finding for finding in findings if finding.state == FAILED]
    if any(finding.untrusted for finding in failed):
        return WRONG_HOST
    return int(bool(failed))


def enough(check: str, found: float, needed: float, text: str, remedy: str) -> Finding:
    """Whether there is as much of something as is needed."""
    return Finding(check, OK, text) if found >= needed else Finding(check, FAILED, text, remedy)
