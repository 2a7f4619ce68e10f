"""All checks that a role has, each of which ends in time and with a finding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from fedssh.doctor import holdout, machine, network, papers, versions
from fedssh.doctor.finding import FAILED, SKIPPED, Finding
from fedssh.doctor.subject import Subject
from fedssh.errors import AgentError

Check = Callable[[Subject], Finding | Iterable[Finding]]
_SLOW_SECONDS = 300  # reading a holdout of a few gigabytes
_EXTRAS = {"cryptography": "bob", "paramiko": "bob", "python_socks": "bob", "numpy": "charity", "PIL": "charity"}


def examine(subject: Subject) -> Iterator[Finding]:
    """What there is to say of a machine, in the order in which a person would mend it."""
    at_a_door = subject.works_with_a_door
    checks: list[tuple[str, Check, float]] = [
        ("versions", versions.versions, 20),
        ("clock", machine.clock, 20),
        ("disk", machine.disk, 20),
        ("memory", machine.memory, 20),
        ("engine", machine.engine, 20),
        *([("invitation", papers.invitation, 20.0)] if at_a_door else []),
        ("port", network.door if at_a_door else network.own_port, 6 * subject.timeout + 20),
        ("holdout", holdout.holdout, _SLOW_SECONDS),
    ]
    for name, check, seconds in checks:
        yield from in_time(name, check, subject, seconds)


def in_time(name: str, check: Check, subject: Subject, seconds: float) -> list[Finding]:
    """What a check says; where it fails or does not end, that is what was found."""
    found: list[Finding] = []

    def work() -> None:
        try:
            said = check(subject)
            found.extend([said] if isinstance(said, Finding) else said)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get(str(error.name).split(".")[0], "bob")
            found.append(Finding(name, SKIPPED, f"{error.name} is not installed here; it is in the extra {extra}"))
        except AgentError as error:
            found.append(Finding(name, FAILED, str(error), error.hint or ""))
        except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way, and is a finding
            found.append(Finding(name, FAILED, f"{type(error).__name__}: {error}", "look at the file that it names"))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [Finding(name, FAILED, f"it did not end in {seconds:.0f} s", "is a disk or a network hanging?")]
    return found
