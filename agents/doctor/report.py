"""The findings on a machine, printed: for people, or for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedssh.address import read_via
from fedssh.commands import print_json, printable
from fedssh.doctor.examine import examine
from fedssh.doctor.finding import Finding, exit_code
from fedssh.doctor.subject import Subject, find_role, find_state, is_door_alone
from fedssh.errors import SettingsError


def report(said: Mapping[str, Any], as_json: bool) -> int:
    """Look at this machine and print what was found; returns the exit code.

    Args:
        said: The options of `fedssh doctor`; None where one was not given.
        as_json: For programs, all at the end; else each line as it is found.
    """
    subject = subject_of(said)
    findings = []
    for finding in examine(subject):
        findings.append(finding)
        if not as_json:
            show(finding)
    code = exit_code(findings)
    if as_json:
        checks = [finding.fields() for finding in findings]
        print_json({"role": subject.role, "state": str(subject.state), "checks": checks, "exit_code": code})
    return code


def subject_of(said: Mapping[str, Any]) -> Subject:
    """What the options mean.

    Raises:
        SettingsError: The way out cannot be read; nothing of it is repeated.
    """
    given = {name: value for name, value in said.items() if value is not None}
    state: Path = given.get("state") or find_state()
    role = given.get("role") or find_role(state, given.get("invitation"))
    try:
        via = read_via(given.pop("via")) if "via" in given else None
    except ValueError as error:
        raise SettingsError(f"--via: {error}") from None
    own = {"state": state, "role": role, "via": via, "door_alone": is_door_alone(role)}
    return Subject(**given | own)


def show(finding: Finding) -> None:
    """Print one finding, and under it what to do."""
    print(f"{finding.state:<8} {finding.check:<11} {printable(finding.found)}")
    if finding.remedy:
        print(f"{'':<20} > {printable(finding.remedy)}")
    sys.stdout.flush()
