"""What arrived: checking everything about a claimed bundle that needs no Keras. Claiming it is in `inbox`.

A claimed bundle stays until its verdict is published, so a crash loses nothing; the newest accepted or counted ones are
kept as vault/evidence/<sequence of the record>.bundle. Nothing a bundle says is believed before its signature was
checked, and no name in it is ever used as a path before it has an identifier's form.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedssh import bundle, weights
from fedssh.charity.folders import Folders
from fedssh.errors import BundleError, LedgerError, SettingsError, UntrustedError
from fedssh.files import move_whole, sha256_file
from fedssh.forms import check_id, check_site, shown
from fedssh.keys import PrivateKey, PublicKey, parse_public
from fedssh.ledger import Ledger
from fedssh.manifest import Report, Submission
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation, Site

ARRIVAL = re.compile(r"\d{20}-[0-9a-f]{8}\.bundle")
MAX_TRIES = 3
KEPT_EVIDENCE = 10


@dataclass(frozen=True)
class Claimed:
    """A bundle in the vault; `site` is whose inbox it lay in, which the door knows from the key that logged in."""

    site: str
    path: Path


@dataclass(frozen=True)
class Candidate:
    """A submission that passed every check but the score."""

    manifest: Submission
    model: Path


def waiting(folders: Folders) -> list[Claimed]:
    """The bundles in all inboxes, in order of arrival; to be counted. `inbox` says which to take."""
    return _bundles(folders.inbox)


def unfinished(folders: Folders) -> list[Claimed]:
    """The bundles claimed before a crash, in order of arrival."""
    return _bundles(folders.claimed)


def _bundles(root: Path) -> list[Claimed]:
    found = []
    for folder in root.iterdir():
        try:
            site = check_site(folder.name)
            names = [entry.name for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False)]
        except (BundleError, OSError):
            continue  # not a site's folder: nothing of ours
        found += [Claimed(site, folder / name) for name in names if ARRIVAL.fullmatch(name)]
    return sorted(found, key=lambda claimed: claimed.path.name)


def count_try(claimed: Claimed) -> int:
    """How often work on a bundle was begun again after a crash, this time included."""
    counter = claimed.path.with_suffix(".tries")
    tries = len(counter.read_bytes()) + 1 if counter.exists() else 1
    counter.write_bytes(b"." * tries)
    return tries


def forget_tries(folders: Folders) -> None:
    """Remove the counts of bundles that are settled; the caller has just settled all of them."""
    for counter in folders.claimed.glob("*/*.tries"):
        counter.unlink()


def keep_evidence(claimed: Claimed, record: Record, folders: Folders) -> None:
    """Keep an accepted or counted bundle as its site signed it, for whoever checks one by hand; the newest few stay."""
    target = folders.evidence / f"{record.sequence:08}.bundle"
    if record.event not in ("accepted", "counted") or target.exists():
        return
    sent = record.fields.get("candidate", record.fields["model"])
    if bundle.read_model_hash(claimed.path) == sent["sha256"]:  # not another one with the same id
        move_whole(claimed.path, target)
        for old in sorted(folders.evidence.glob("*.bundle"))[:-KEPT_EVIDENCE]:
            old.unlink()


def done(claimed: Claimed) -> None:
    """Let go of a bundle whose verdict is published."""
    claimed.path.unlink(missing_ok=True)
    claimed.path.with_suffix(".tries").unlink(missing_ok=True)


def identify(path: Path) -> tuple[str | None, str | None]:
    """A bundle's kind and id, unverified; None for what cannot be read or has not its form."""
    try:
        kind, text = bundle.read_kind(path)
        return kind, check_id(text)
    except BundleError:
        return None, None


def inspect(
    path: Path, member: Site, state: Federation, folders: Folders, key: PrivateKey, ledger: Ledger
) -> Candidate | Report:
    """Check a claimed bundle from outside to inside: form, signature, sender, origin, hashes, architecture, values.

    Args:
        path: The bundle.
        member: Whose inbox it lay in.
        state: The current state.
        key: The coordinator's key.
        ledger: To look up what the submission builds on.

    Raises:
        UntrustedError: Names the one trouble that was found first.
        OSError: The disk is full or read-only; try again later.
    """
    told = inspect_manifest(path, member, ledger)
    if isinstance(told, Report):
        return told
    expected = weights.read_header(folders.model(state.genesis.model.sha256))
    model = folders.opened / path.with_suffix(".safetensors").name
    # The same tensors can take a little more room than ours: names are written with other spaces.
    max_bytes = expected.size + weights.MAX_HEADER_BYTES
    manifest = bundle.open_bundle(path, model, Submission, _signer(member), key, max_bytes)
    try:
        if manifest != told:
            raise BundleError("the bundle changed while it was read")
        weights.match(weights.read_header(model), expected)
        if bad := weights.count_non_finite(model):
            raise UntrustedError(f"{bad:,} of {expected.parameters:,} weights are not finite")
    except UntrustedError:
        model.unlink()
        raise
    return Candidate(manifest, model)


def inspect_manifest(path: Path, member: Site, ledger: Ledger) -> Submission | Report:
    """Check the form, signature, sender and origin of what a bundle says. Its model is not looked at.

    Raises:
        UntrustedError: Names the one trouble that was found first.
    """
    kind, _ = bundle.read_kind(path)
    manifest: Submission | Report
    if kind == Report.kind:
        manifest = bundle.open_report(path, _signer(member))
    elif kind == Submission.kind:
        manifest = bundle.open_manifest(path, Submission, _signer(member))
    else:
        raise BundleError(f"the manifest is of kind {shown(kind, 40)}, expected 'submission' or 'report'")
    check_id(manifest.id)
    _check_origin(manifest, member, ledger)
    return manifest


def _signer(member: Site) -> PublicKey:
    try:
        return parse_public(member.key, "it")
    except SettingsError as error:  # enrolled before its form was looked at so closely
        raise UntrustedError(f"the key of {member.name} cannot be used: {error}") from None


def _check_origin(manifest: Submission | Report, member: Site, ledger: Ledger) -> None:
    if manifest.sender != member.name:
        raise BundleError(f"the manifest names {manifest.sender} as its sender, it came from {member.name}")
    try:
        event = ledger.record(manifest.builds_on).event
    except LedgerError:
        event = "no record"
    if event != "release":
        raise BundleError(f"it builds on release {manifest.builds_on}, which is {event} in the history")


def bundle_hash(path: Path) -> str:
    """What identifies a bundle whose manifest cannot be read."""
    return sha256_file(path)
