"""One claimed bundle from its inspection to its published verdict.

Every step may be done again after a crash, so a bundle is settled exactly once however often it is begun:

    1  a verdict for its id exists already        publish it again, done
    2  its site is revoked                        record `refused`, its model unopened
       inspect                                    trouble: record `invalid`
    3  score it or its mixes, and look whether sites can go on from what would become current, with nothing locked;
       nothing of it in a round
    4  under the lock, on the newest state: decide, store the model, record, publish the verdict
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedssh.charity import intake
from fedssh.charity.intake import Candidate, Claimed
from fedssh.charity.judge.client import JudgeError
from fedssh.charity.vault import Vault
from fedssh.errors import UntrustedError
from fedssh.files import move_whole, sha256_file
from fedssh.manifest import Report, Submission
from fedssh.rules import records
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation
from fedssh.rules.gate import Decision, decide, gone_on, shares
from fedssh.rules.rounds import why_not

Metrics = dict[str, Any]


class Scores(Protocol):
    """What settling needs of a judge."""

    def score(self, model: Path) -> Metrics: ...

    def mix(
        self, current: Path, candidate: Path, shares: Sequence[float], out: Path | None = None
    ) -> list[Metrics]: ...

    def check(self, model: Path, current: Path, first: Path, plan: dict[str, Any]) -> dict[str, Any]: ...


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
    record = _judged(vault, judge, found, clock) if isinstance(found, Candidate) else _commit_report(vault, found)
    clock.lap("commit_ms")
    return Settled(record, timings=clock.laps)


def _inspected(vault: Vault, claimed: Claimed, subject: str | None) -> Candidate | Report | Record:
    """The bundle's content, or the record that says what is wrong with it."""
    state = vault.refresh()
    member = state.member(claimed.site)
    assert member is not None, "only the inboxes of those who were enrolled are looked into"
    try:
        if member.role != "site":  # enrolled again as one, while this bundle waited
            raise UntrustedError(f"{claimed.site} is enrolled as {member.role}, which submits nothing")
        if member.revoked:  # its model is not worth opening
            return _refuse_revoked(vault, intake.inspect_manifest(claimed.path, member, vault.ledger))
        return intake.inspect(claimed.path, member, state, vault.folders, vault.key, vault.ledger)
    except UntrustedError as error:
        return record_invalid(vault, claimed, subject, str(error))


def record_invalid(vault: Vault, claimed: Claimed, subject: str | None, reason: str) -> Record:
    """Record that a bundle cannot be judged, and why."""
    sha256 = intake.bundle_hash(claimed.path)
    with vault.locked():
        return vault.append("invalid", site=claimed.site, submission=subject, bundle=sha256, reason=reason[:1000])


def _judged(vault: Vault, judge: Scores, candidate: Candidate, clock: _Clock) -> Record:
    """Score and decide, again if another command made another model current meanwhile."""
    while True:
        against = vault.refresh()
        weighed = _weighed(vault, judge, against, candidate)
        clock.lap("judge_ms")
        with vault.locked() as state:
            moved = state.current.of != against.current.of
            if moved and weighed.mixes:  # with another model than the current one, or held against it
                if weighed.mixed is not None:
                    weighed.mixed.unlink()
                continue
            return _commit(vault, state, candidate, weighed)


@dataclass(frozen=True)
class _Weighed:
    """What the judge said of a candidate.

    Attributes:
        mixes: Share of the candidate and scores; nothing when there was trouble.
        mixed: The file of the chosen mix, where it is not the candidate itself.
        finding: What `Scores.check` said of the model that would become current; None where none would.
    """

    staleness: int = 0
    mixes: tuple[tuple[float, Metrics], ...] = ()
    mixed: Path | None = None
    finding: dict[str, Any] | None = None
    trouble: str = "it was not scored"


def _weighed(vault: Vault, judge: Scores, state: Federation, candidate: Candidate) -> _Weighed:
    manifest = candidate.manifest
    member = state.member(manifest.sender)
    if member is None or member.revoked or state.policy.rounds or _out_of_turn(vault, state, manifest):
        return _Weighed()  # not worth the judge's time
    staleness = state.current.staleness(manifest.sender, _version(vault, manifest.builds_on))
    wanted = shares(state.policy, staleness)
    current = vault.folders.model(state.current.model["sha256"])
    try:
        if wanted == (1.0,):
            mixes: tuple[tuple[float, Metrics], ...] = ((1.0, judge.score(candidate.model)),)
        else:
            mixes = tuple(zip(wanted, judge.mix(current, candidate.model, wanted), strict=True))
        decision = _decision(state, mixes)
        if not decision.accept:
            return _Weighed(staleness, mixes)
        mixed = None
        if decision.share != 1:
            assert decision.share is not None
            mixed = candidate.model.with_suffix(".mixed.safetensors")
            judge.mix(current, candidate.model, (decision.share,), mixed)
        finding = judge.check(mixed or candidate.model, current, first_model(vault, state), state.genesis["plan"])
        return _Weighed(staleness, mixes, mixed, finding)
    except JudgeError as error:
        return _Weighed(trouble=str(error))


def first_model(vault: Vault, state: Federation) -> Path:
    """The file of the model that the federation began with."""
    return vault.folders.model(state.genesis["model"]["sha256"])


def _version(vault: Vault, release: int) -> int:
    """How often the current model had changed when a release was made."""
    return int(vault.ledger.record(release).fields["federation"].get("version", 0))


def _decision(state: Federation, mixes: Sequence[tuple[float, Metrics]]) -> Decision:
    return decide(state.policy, state.gate, state.metric, state.current.metrics, state.current.bar, mixes)


def _commit(vault: Vault, state: Federation, found: Candidate, weighed: _Weighed) -> Record:
    """Record the verdict on a candidate. The caller holds the lock."""
    manifest = found.manifest
    member = state.member(manifest.sender)
    assert member is not None
    if member.revoked:
        return _refuse(vault, state, found, Decision(False, "revoked"))
    if reason := _out_of_turn(vault, state, manifest):
        return _refuse(vault, state, found, Decision(False, reason))
    if state.policy.rounds:
        return _count(vault, state, found)
    if not weighed.mixes:
        return _refuse(vault, state, found, Decision(False, weighed.trouble))
    decision = _decision(state, weighed.mixes)
    if decision.accept:
        assert weighed.finding is not None
        decision = gone_on(decision, **weighed.finding)
    if not decision.accept:
        return _refuse(vault, state, found, decision, weighed.staleness)
    fields = records.verdict(state, _sent(manifest), decision, weighed.staleness)
    if weighed.mixed is not None:
        fields["model"] = {"sha256": sha256_file(weighed.mixed), "size": weighed.mixed.stat().st_size}
    vault.keep(weighed.mixed or found.model, fields["model"]["sha256"])
    if weighed.mixed is not None:
        found.model.unlink(missing_ok=True)
    return vault.append("accepted", **fields)


def _refuse(
    vault: Vault, state: Federation, found: Candidate, decision: Decision, staleness: int | None = None
) -> Record:
    record = vault.append("refused", **records.verdict(state, _sent(found.manifest), decision, staleness))
    found.model.unlink(missing_ok=True)
    found.model.with_suffix(".mixed.safetensors").unlink(missing_ok=True)
    return record


def _count(vault: Vault, state: Federation, found: Candidate) -> Record:
    """Take a site's update into the open round, or say why not."""
    manifest = found.manifest
    if reason := why_not(state.round, manifest.sender, _round_of(vault, manifest.builds_on)):
        return _refuse(vault, state, found, Decision(False, reason))
    move_whole(found.model, vault.folders.update(manifest.model.sha256))
    return vault.append("counted", **records.counted(state, _sent(manifest)))


def _round_of(vault: Vault, release: int) -> int:
    """The round that a release was made for."""
    return int(vault.ledger.record(release).fields["federation"]["turns"])


def _sent(manifest: Submission) -> dict[str, Any]:
    """What a record repeats of a submission."""
    return {
        "site": manifest.sender,
        "submission": manifest.id,
        "session": manifest.session,
        "epoch": manifest.epoch,
        "examples": manifest.examples,
        "builds_on": manifest.builds_on,
        "claim": vars(manifest.metrics),
        "model": vars(manifest.model),
        "architecture": manifest.architecture,
    }


def _refuse_revoked(vault: Vault, manifest: Submission | Report) -> Record:
    with vault.locked() as state:
        if isinstance(manifest, Report):
            return vault.append("refused", **records.refused_report(state, _told(manifest), "revoked"))
        return vault.append("refused", **records.verdict(state, _sent(manifest), Decision(False, "revoked")))


def _commit_report(vault: Vault, report: Report) -> Record:
    with vault.locked() as state:
        member = state.member(report.sender)
        assert member is not None
        if reason := "revoked" if member.revoked else _out_of_turn(vault, state, report):
            return vault.append("refused", **records.refused_report(state, _told(report), reason))
        shared = {"site": report.sender, "submission": report.id, "session": report.session}
        counts = {"epochs": report.epochs, "checkpoints": report.checkpoints, "examples": report.examples}
        return vault.append("report", **shared, **counts, builds_on=report.builds_on, metrics=_claimed(report))


def _told(report: Report) -> dict[str, Any]:
    """What a record repeats of a report that does not count."""
    return {
        "site": report.sender,
        "submission": report.id,
        "session": report.session,
        "epoch": report.epochs,
        "examples": report.examples,
        "builds_on": report.builds_on,
        "claim": _claimed(report),
    }


def _claimed(report: Report) -> dict[str, Any] | None:
    return vars(report.metrics) if report.metrics else None


def _out_of_turn(vault: Vault, state: Federation, manifest: Submission | Report) -> str:
    return state.out_of_turn(manifest.sender, vault.ledger.record(manifest.builds_on).fields["federation"])


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
