"""What arrived: checking everything about a taken bundle that needs no Keras. Taking it is in `inbox`.

A bundle in vault/claimed stays until its verdict is published, so a crash loses nothing; the newest accepted or counted
ones are kept as vault/evidence/<sequence of the record>.bundle. Nothing a bundle says is believed before its signature
was checked, and no name in it is ever used as a path before it has an identifier's form.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedssh import weights
from fedssh.bundle import Arrived
from fedssh.charity.folders import Folders
from fedssh.errors import BundleError, LedgerError, SettingsError, UntrustedError, WeightsError
from fedssh.files import move_whole
from fedssh.forms import check_site
from fedssh.keys import PrivateKey, parse_public
from fedssh.ledger import Ledger
from fedssh.manifest import MaskedWord, Release, Report, Scores, Submission
from fedssh.masks import signing
from fedssh.masks.site import check_keys
from fedssh.rules.events import Genesis, Record, Released
from fedssh.rules.federation import Federation, Member
from fedssh.rules.masking import Advert
from fedssh.rules.metrics import FIRST, task_of
from fedssh.rules.typed import known

ARRIVAL = re.compile(r"\d{20}-[0-9a-f]{8}\.bundle")
MAX_TRIES = 3
Sent = Submission | Report | Scores | MaskedWord
KEPT_EVIDENCE = 10


@dataclass(frozen=True)
class Waiting:
    """Where a bundle lies, and whose inbox it came to, which the door knows from the key that logged in."""

    site: str
    path: Path


@dataclass(frozen=True)
class Taken:
    """A bundle in the vault, open until its evidence is kept, and the site whose inbox it lay in."""

    site: str
    arrived: Arrived


def waiting(folders: Folders) -> list[Waiting]:
    """The bundles in all inboxes, in order of arrival; to be counted. `inbox` says which to take."""
    return _bundles(folders.inbox)


def unfinished(folders: Folders) -> list[Waiting]:
    """The bundles taken before a crash, in order of arrival."""
    return _bundles(folders.claimed)


def _bundles(root: Path) -> list[Waiting]:
    found = []
    for folder in root.iterdir():
        try:
            site = check_site(folder.name)
            names = [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        except (BundleError, OSError):
            continue  # not a site's folder: nothing of ours
        found += [Waiting(site, folder / name) for name in names if ARRIVAL.fullmatch(name)]
    return sorted(found, key=lambda waiting: waiting.path.name)


def count_try(waiting: Waiting) -> int:
    """How often work on a bundle was begun again after a crash, this time included."""
    counter = waiting.path.with_suffix(".tries")
    tries = len(counter.read_bytes()) + 1 if counter.exists() else 1
    counter.write_bytes(b"." * tries)
    return tries


def forget_tries(folders: Folders) -> None:
    """Remove the counts of bundles that are settled; the caller has just settled all of them."""
    for counter in folders.claimed.glob("*/*.tries"):
        counter.unlink()


def keep_evidence(taken: Taken, record: Record, folders: Folders) -> None:
    """Keep an accepted or counted bundle as its site signed it, for whoever checks one by hand; the newest few stay."""
    target = folders.evidence / f"{record.sequence:08}.bundle"
    if record.event not in ("accepted", "counted") or target.exists():
        return
    sent = record.fields.get("candidate", record.fields["model"])
    if taken.arrived.model_sha256 == sent["sha256"]:  # not another one with the same id
        move_whole(taken.arrived.path, target)
        for old in sorted(folders.evidence.glob("*.bundle"))[:-KEPT_EVIDENCE]:
            old.unlink()


def done(taken: Taken) -> None:
    """Let go of a bundle whose verdict is published."""
    taken.arrived.path.unlink(missing_ok=True)
    taken.arrived.path.with_suffix(".tries").unlink(missing_ok=True)


def check_manifest(taken: Taken, member: Member, ledger: Ledger) -> tuple[Sent, Released]:
    """Check the form, signature, sender and origin of what a bundle says. Its model is not looked at.

    Args:
        taken: The bundle.
        member: Whose inbox it lay in.
        ledger: To look up what it builds on.

    Returns:
        The manifest, and the release that it builds on.

    Raises:
        UntrustedError: Names the one trouble that was found first.
    """
    try:
        signer = parse_public(member.key, "it")
    except SettingsError as error:  # enrolled before its form was looked at so closely
        raise UntrustedError(f"the key of {member.name} cannot be used: {error}") from None
    manifest = taken.arrived.verify(signer, Submission, Report, Scores, MaskedWord)
    assert not isinstance(manifest, Release)
    if manifest.sender != member.name:
        raise BundleError(f"the manifest names {manifest.sender} as its sender, it came from {member.name}")
    if isinstance(manifest, Submission | Report):
        _check_claim(manifest, ledger)
    if isinstance(manifest, MaskedWord) and isinstance(manifest.advert, Advert):
        if manifest.advert.federation != ledger.record(1).hash:
            raise BundleError("its keys for masks are for another federation")
        signing.check(manifest.advert, signer)
        check_keys(manifest.advert)
    newest = ledger.head()
    known = newest is not None and 0 < manifest.builds_on <= newest.sequence
    source = ledger.record(manifest.builds_on).said if known else None
    if not isinstance(source, Released):
        what = source.name if source else "no record"
        raise BundleError(f"it builds on release {manifest.builds_on}, which is {what} in the history")
    return manifest, source


def _check_claim(manifest: Submission | Report, ledger: Ledger) -> None:
    """Raise BundleError where a site has measured something else than the federation's task has, or passes untruly."""
    if isinstance(manifest, Report) and known(manifest.passed, False) and (manifest.epochs or manifest.checkpoints):
        raise BundleError(f"it passes its turn, and tells of {manifest.epochs} epochs")
    first = ledger.record(1).said
    wanted = FIRST.get(task_of(first.spec)) if isinstance(first, Genesis) else None
    if manifest.metrics is not None and wanted not in (None, manifest.metrics.measure):
        raise BundleError(f"it tells the {manifest.metrics.measure}, a site of this federation the {wanted}")


def open_model(
    taken: Taken, manifest: Submission, state: Federation, folders: Folders, key: PrivateKey,
    names: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """Check the model of a bundle whose manifest is checked: hashes, architecture, values.

    Args:
        taken: The bundle.
        manifest: What it says.
        state: Whose architecture the model must have.
        folders: Where the plain model goes; nothing stays there after an error.
        key: The coordinator's key.
        names: Of the tensors that it has, where these are not all.

    Raises:
        UntrustedError: Names the one trouble that was found first.
        LedgerError: The coordinator's own first model cannot be read.
        OSError: The disk is full or read-only; try again later.
    """
    first = folders.model(state.genesis.model.sha256)
    try:
        expected = weights.read_header(first)
    except (WeightsError, FileNotFoundError) as error:
        raise LedgerError(f"the first model cannot be read: {error}", f"put {first} back from a copy") from None
    if names is not None:
        expected = dataclasses.replace(expected, tensors={name: expected.tensors[name] for name in names})
    if state.policy.masked:
        expected = weights.of_words(expected)
    model = folders.opened / taken.arrived.path.with_suffix(".safetensors").name
    # The same tensors can take a little more room than ours: names are written with other spaces.
    found = taken.arrived.extract(model, key, expected.size + weights.MAX_HEADER_BYTES)
    try:
        weights.match(found, expected)
        if not found.words and (bad := weights.count_non_finite(model)):
            raise UntrustedError(f"{bad:,} of {expected.parameters:,} weights are not finite")
    except UntrustedError:
        model.unlink()
        raise
    return model
