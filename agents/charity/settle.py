"""One claimed bundle from its inspection to its published verdict.

Every step may be done again after a crash, so a bundle is settled exactly once however often it is begun:

    1  a verdict for its id exists already        publish it again, done
    2  inspect                                    trouble: record `invalid`
    3  score, with nothing locked
    4  under the lock, on the newest state: decide, store the model, record, publish the verdict
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agents.charity import intake
from agents.charity.federation import Federation, Site
from agents.charity.intake import Candidate, Claimed
from agents.charity.judge_client import JudgeError
from agents.charity.policy import POLICIES, Decision
from agents.charity.vault import Vault
from agents.errors import UntrustedError
from agents.ledger import Record
from agents.manifest import Report, Submission

Metrics = dict[str, Any]


class Scores(Protocol):
    """What settling needs of a judge."""

    def score(self, model: Path) -> Metrics: ...


@dataclass
class Settled:
    """What became of a bundle.

    Attributes:
        record: Its verdict; for a replay the old one.
        replay: Whether it had been judged before.
        timings: open_ms, judge_ms and commit_ms, as far as it came.
    """

    record: Record
    replay: bool = False
    timings: dict[str, float] = field(default_factory=dict)


def settle(vault: Vault, judge: Scores, claimed: Claimed) -> Settled:
    """Judge a bundle and publish its verdict; the bundle itself stays, see `intake.done`.

    Raises:
        OSError: The disk is full or read-only. Nothing is decided; try again later.
        JudgeDownError: The judge does not start. Nothing is decided; try again later.
    """
    clock = _Clock()
    _, subject = intake.identify(claimed.path)
    known = subject or f"bundle {intake.bundle_hash(claimed.path)}"
    if earlier := vault.ledger.find(claimed.site, known):
        with vault.locked():
            vault.publish(earlier)
        return Settled(earlier, replay=True)
    found = _inspected(vault, claimed, subject)
    clock.lap("open_ms")
    if isinstance(found, Record):
        return Settled(found, timings=clock.laps)
    metrics, trouble = None, None
    if isinstance(found, Candidate):
        metrics, trouble = _scored(vault, judge, found)
        clock.lap("judge_ms")
    record = _commit(vault, claimed.site, found, metrics, trouble)
    clock.lap("commit_ms")
    return Settled(record, timings=clock.laps)


def _inspected(vault: Vault, claimed: Claimed, subject: str | None) -> Candidate | Report | Record:
    """The bundle's content, or the record that says what is wrong with it."""
    state = vault.refresh()
    member = state.member(claimed.site)
    try:
        if member is None:
            raise UntrustedError(f"{claimed.site} was never enrolled")
        if member.role != "site":  # enrolled again as one, while this bundle waited
            raise UntrustedError(f"{claimed.site} is enrolled as {member.role}, which submits nothing")
        return intake.inspect(claimed.path, member, state, vault.folders, vault.key, vault.ledger)
    except UntrustedError as error:
        return record_invalid(vault, claimed, subject, str(error))


def record_invalid(vault: Vault, claimed: Claimed, subject: str | None, reason: str) -> Record:
    """Record that a bundle cannot be judged, and why."""
    sha256 = intake.bundle_hash(claimed.path)
    with vault.locked():
        return vault.append("invalid", site=claimed.site, submission=subject, bundle=sha256, reason=reason[:1000])


def _scored(vault: Vault, judge: Scores, candidate: Candidate) -> tuple[Metrics | None, str | None]:
    """What the candidate scores, or why that is not known."""
    member = vault.refresh().member(candidate.manifest.sender)
    if member is None or member.revoked:
        return None, None  # `_commit` refuses it; not worth the judge's time
    try:
        return judge.score(candidate.model), None
    except JudgeError as error:
        return None, str(error)


def _commit(vault: Vault, site: str, found: Candidate | Report, metrics: Metrics | None, trouble: str | None) -> Record:
    with vault.locked() as state:
        member = state.member(site)
        assert member is not None
        if isinstance(found, Report):
            return _commit_report(vault, member, found)
        decision = _decide(state, member, metrics, trouble)
        fields = _fields(state, found.manifest, metrics, decision.reason)
        if decision.accept:
            vault.keep(found.model, found.manifest.model.sha256)
            return vault.append("accepted", **fields)
        record = vault.append("refused", **fields)
    found.model.unlink(missing_ok=True)
    return record


def _decide(state: Federation, member: Site, metrics: Metrics | None, trouble: str | None) -> Decision:
    if member.revoked:
        return Decision(False, "revoked")
    if metrics is None:
        return Decision(False, trouble or "it was not scored")
    policy = POLICIES[state.genesis["policy"]]
    return policy(state.current.metrics, metrics, state.genesis["plan"]["metric"])


def _fields(state: Federation, manifest: Submission, metrics: Metrics | None, reason: str) -> dict[str, Any]:
    return {
        "site": manifest.sender,
        "submission": manifest.id,
        "session": manifest.session,
        "epoch": manifest.epoch,
        "examples": manifest.examples,
        "builds_on": manifest.builds_on,
        "claim": vars(manifest.metrics),
        "metrics": metrics,
        "model": vars(manifest.model),
        "against": state.current.of,
        "current_metrics": state.current.metrics,
        "reason": reason,
        "architecture": manifest.architecture,
    }


def _commit_report(vault: Vault, member: Site, report: Report) -> Record:
    claim = vars(report.metrics) if report.metrics else None
    shared = {"site": member.name, "submission": report.id, "session": report.session, "examples": report.examples}
    if member.revoked:
        nothing = {"epoch": report.epochs, "metrics": None, "model": None, "architecture": None}
        against = {"against": vault.state.current.of, "current_metrics": vault.state.current.metrics}
        extra = {"builds_on": report.builds_on, "claim": claim, "reason": "revoked"}
        return vault.append("refused", **shared, **nothing, **against, **extra)
    counts = {"epochs": report.epochs, "checkpoints": report.checkpoints, "builds_on": report.builds_on}
    return vault.append("report", **shared, **counts, metrics=claim)


class _Clock:
    """Milliseconds from lap to lap."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._last = now()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name] = round((now - self._last) * 1000, 1)
        self._last = now
