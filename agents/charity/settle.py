"""One bundle in the vault from its inspection to its published verdict.

Every step may be done again after a crash, so a bundle is settled exactly once however often it is begun:

    1  a verdict for its id exists already        publish it again, done
    2  its site is revoked                        record `refused`, its model unopened
       inspect                                    trouble: record `invalid`
    3  judge it, see `rules.coordinator`          with the vault as the store and the judge process as the bench
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedssh.charity import intake, layers, privacy
from fedssh.charity.bench import FileBench, Judge
from fedssh.charity.intake import Taken
from fedssh.charity.opening import site_tensors
from fedssh.charity.vault import Vault
from fedssh.errors import LedgerError, SignatureError, UntrustedError
from fedssh.keys import parse_public
from fedssh.manifest import MaskedWord, Report, Scores, Submission
from fedssh.masks import signing
from fedssh.rules import coordinator
from fedssh.rules.events import Invalid, Masks, Record, Released, Scored
from fedssh.rules.federation import Federation, Member
from fedssh.rules.masking import to_agree
from fedssh.rules.records import Over, Sent
from fedssh.rules.standing import Started


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


def settle(vault: Vault, judge: Judge, taken: Taken) -> Settled:
    """Judge a bundle and publish its verdict; the bundle itself stays, see `intake.done`.

    Raises:
        OSError: The disk is full or read-only. Nothing is decided; try again later.
        JudgeDownError: The judge does not start. Nothing is decided; try again later.
    """
    clock = _Clock()
    if earlier := vault.ledger.find(taken.site, taken.arrived.subject):
        with vault.locked():
            vault.publish(earlier)
        return Settled(earlier, replay=True)
    state = vault.refresh()
    member = state.member(taken.site)
    assert member is not None, "only the inboxes of those who were enrolled are looked into"
    try:
        if member.role != "site":  # enrolled again as one, while this bundle waited
            raise UntrustedError(f"{taken.site} is enrolled as {member.role}, which submits nothing")
        manifest, release = intake.check_manifest(taken, member, vault.ledger)
        opened = None
        if isinstance(manifest, MaskedWord):
            _check_agreed(state, manifest, member)
        if isinstance(manifest, Submission | Report):
            privacy.check(judge, state, manifest)
        if isinstance(manifest, Submission) and not member.revoked:  # else its model is not worth opening
            if state.policy.for_sites:
                layers.check(taken, manifest, state)
                opened = vault.folders.opened / f"{manifest.id}.safetensors"  # where it would be
            else:
                names = site_tensors(judge, state, vault.folders, taken.site)
                opened = intake.open_model(taken, manifest, state, vault.folders, vault.key, names)
    except LedgerError:  # what is wrong is ours
        raise
    except UntrustedError as error:
        record = record_invalid(vault, taken, str(error))
        clock.lap("open_ms")
        return Settled(record, timings=clock.laps)
    clock.lap("open_ms")
    if isinstance(manifest, Scores | MaskedWord):
        if isinstance(manifest, Scores):
            found, why = coordinator.scored(vault, _scored(manifest))
        else:
            found, why = coordinator.masks(vault, _masks(manifest))
        record = found or record_invalid(vault, taken, why)
    elif isinstance(manifest, Report):
        record = coordinator.report(vault, _over(manifest, release.federation.started))
    elif opened is None:
        refused = coordinator.refuse(vault, _sent(manifest, release))
        if refused is None:  # enrolled again meanwhile
            return settle(vault, judge, taken)
        record = refused.record
    else:
        assert isinstance(manifest, Submission)
        if state.policy.for_sites:
            layers.keep(taken, manifest, vault.folders)
        bench, sent = FileBench(judge, vault.folders), _sent(manifest, release)
        record = coordinator.judge(vault, bench, sent, opened, lambda: clock.lap("judge_ms")).record
    if state.policy.for_sites:
        layers.prune(vault.state, vault.folders)
    clock.lap("commit_ms")
    return Settled(record, timings=clock.laps)


def record_invalid(vault: Vault, taken: Taken, reason: str) -> Record:
    """Record that a bundle cannot be judged, and why."""
    id, sha256 = taken.arrived.id, taken.arrived.sha256
    with vault.locked():
        return vault.append(Invalid(site=taken.site, submission=id, bundle=sha256, reason=reason[:1000]))


def _sent(manifest: Submission, release: Released) -> Sent:
    """What a submission says, as the rules want it."""
    return Sent(
        site=manifest.sender,
        submission=manifest.id,
        session=manifest.session,
        epoch=manifest.epoch,
        examples=manifest.examples,
        builds_on=manifest.builds_on,
        started=release.federation.started,
        claim=manifest.metrics,
        privacy=manifest.privacy,
        model=manifest.model,
        architecture=manifest.architecture,
        released=release.model,
    )


def _over(report: Report, started: Started) -> Over:
    """What a report says, as the rules want it."""
    return Over(
        site=report.sender,
        submission=report.id,
        session=report.session,
        epochs=report.epochs,
        checkpoints=report.checkpoints,
        examples=report.examples,
        builds_on=report.builds_on,
        started=started,
        metrics=report.metrics,
        passed=report.passed,
    )


def _scored(scores: Scores) -> Scored:
    """What a site says of a release, as the rules want it."""
    return Scored(
        site=scores.sender,
        submission=scores.id,
        builds_on=scores.builds_on,
        examples=scores.examples,
        metrics=scores.metrics,
    )


def _check_agreed(state: Federation, word: MaskedWord, member: Member) -> None:
    """Check a site's signature on who masked and who came; what comes too late is not looked at.

    Raises:
        SignatureError: It is on something else, or another one's.
    """
    masking = state.round.group(member.name) if state.round else None
    if not isinstance(word.agreed, str) or masking is None or not masking.arrived:
        return
    message = to_agree(masking.roster, masking.partners or (), masking.arrived)
    if not signing.signers(message, {member.name: word.agreed}, {member.name: parse_public(member.key, "it")}):
        raise SignatureError(f"{member.name} has not signed who masked and who came, as the history has it")


def _masks(word: MaskedWord) -> Masks:
    """What a site says about masks, as the rules want it."""
    return Masks(
        site=word.sender,
        submission=word.id,
        builds_on=word.builds_on,
        advert=word.advert,
        shares=word.shares,
        agreed=word.agreed,
        answer=word.answer,
    )


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
