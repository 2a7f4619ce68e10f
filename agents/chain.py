r"""The coordinator's history as a site follows it: never back, never aside. Pure functions, no file or network.

A ledger line is {"hash":"<hex>","record":"<canonical JSON>","sequence":n,"signature":"…"}, in exactly this form: these
four members once, in this order, without spaces, then a newline. Inside the strings, letters beyond ASCII and DEL stand
as they are or as \uXXXX. A record names the hash of the one before it, so whoever remembers the newest (sequence,
head) can check that what is shown today only adds to what was shown before. The very first record has sequence 1 and
follows 64 zeros. scripts/verify holds lines to the same form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedssh.errors import BundleError, LedgerError, RollbackError
from fedssh.forms import MAX_BYTES, canonical, parse, shown
from fedssh.keys import PublicKey
from fedssh.manifest import Release
from fedssh.rules.events import START, Record
from fedssh.rules.gate import impossible, is_number
from fedssh.rules.vocabulary import JUDGED, PLAIN
from fedssh.signature import LEDGER, verify

MAX_LINE_BYTES = 4 * MAX_BYTES  # the record, escaped, and its signature
# Field of a release's federation block: the field of genesis that it repeats, and what its absence means there.
AGREED = {
    "name": ("federation", None),
    "policy": ("policy", None),
    "gate": ("gate", "off"),
    "margin": ("margin", 0.0),
    "schedule": ("schedule", None),
}
_X = r"[0-9a-f]"
_ESCAPED = (  # a letter from DEL on; of the others only quotes and backslashes stand in a canonical record's text
    rf"\\u(?:007f|00[89a-f]{_X}|0[1-9a-f]{_X}{_X}|[1-9a-cef]{_X}{_X}{_X}|d[0-7]{_X}{_X}"
    rf"|d[89ab]{_X}{_X}\\ud[c-f]{_X}{_X})"
)
_LINE = re.compile(
    (
        rf'{{"hash":"{_X}{{64}}","record":"(?:[^"\\\x00-\x1f]++|\\["\\]|{_ESCAPED})*+",'
        r'"sequence":[1-9][0-9]{0,14},"signature":"-----BEGIN SSH SIGNATURE-----\\n(?:[A-Za-z0-9+/]{70}\\n)*'
        r'[A-Za-z0-9+/]{1,70}={0,2}\\n-----END SSH SIGNATURE-----\\n"}'
    ).encode()
    + b"\n?"
)
_HINT = (
    "the coordinator was restored from an old copy, or shows different histories to different sites; ask its operator"
)


@dataclass(frozen=True)
class Seen:
    """The newest release a site has seen: its record's number and hash."""

    sequence: int = 0
    head: str = START


def record_of(line: bytes) -> Record:
    """The record on a ledger line; that its number, hash and signature belong to it is for the caller to check.

    Raises:
        LedgerError: It is not a ledger line.
    """
    try:
        if len(line) > MAX_LINE_BYTES or not _LINE.fullmatch(line):
            raise ValueError("it has not the form of one")
        outer = json.loads(line)
        return Record(outer["sequence"], outer["hash"], outer["record"].encode(), outer["signature"])
    except ValueError as error:
        raise LedgerError(f"this is not a ledger line: {error}") from None


def read_line(line: bytes, coordinator: PublicKey) -> Record:
    """Check a ledger line by itself: its form, its hash, and the coordinator's signature.

    Raises:
        LedgerError: Not a ledger line, or number or hash are not those of the record in it.
        SignatureError: Not signed by the coordinator as part of the ledger.
    """
    record = record_of(line)
    try:
        sequence = parse(record.text).get("sequence")
    except BundleError as error:
        raise LedgerError(f"what the coordinator sent is not a ledger line: {error}") from None
    digest = hashlib.sha256(record.text).hexdigest()
    if type(sequence) is not int or record.sequence != sequence:
        raise LedgerError(f"a ledger line with number {record.sequence} holds record {str(sequence)[:20]}")
    if record.hash != digest:
        raise LedgerError(f"record {sequence} hashes to {digest}, its hash is given as {record.hash}")
    verify(record.text, record.signature, LEDGER, coordinator)
    return record


def check_order(seen: Seen, release: Release) -> bool:
    """Whether a release is new; what is neither new nor the same is refused.

    Raises:
        RollbackError: It is older than the newest one seen, or another one with the same number.
    """
    if release.sequence < seen.sequence:
        raise RollbackError(
            f"the coordinator offers release {release.sequence}, this site has seen {seen.sequence}", _HINT
        )
    if release.sequence == seen.sequence and release.head != seen.head:
        raise RollbackError(
            f"release {release.sequence} has head {release.head[:16]}…, this site has seen it with {seen.head[:16]}…",
            _HINT,
        )
    return release.sequence > seen.sequence


def follow(
    lines: Iterable[bytes],
    seen: Seen,
    release: Release,
    coordinator: PublicKey,
    verdicts: Mapping[int, str] | None = None,
    each: Callable[[Record], None] = lambda record: None,
) -> Seen:
    """Check that the history leads from what was seen to a release, record by record.

    Args:
        lines: The ledger lines after `seen.sequence`; those after the release are not looked at.
        seen: What this site remembers.
        release: The manifest of a release newer than `seen`, its signature already checked.
        coordinator: Who must have signed every record.
        verdicts: Hash by sequence of verdicts this site was given on the way: they must be in this history.
        each: Called with every record in turn, once it is known to be the coordinator's and to follow the one before.

    Returns:
        What the site shall remember from now on.

    Raises:
        RollbackError: The history does not connect to what was seen, or to the release, or lacks a verdict.
        LedgerError: A line is not what it must be.
        SignatureError: A record is not signed by the coordinator.
    """
    verdicts = verdicts or {}
    at = seen
    for line in lines:
        if at.sequence == release.sequence:
            break
        record = next_record(at, line, coordinator)
        if at.sequence == 0:
            check_genesis(record, coordinator)
        check_given(verdicts, record.sequence, record.hash)
        if record.sequence == release.sequence:
            _check_head(record, release)
        each(record)
        at = Seen(record.sequence, record.hash)
    if at.sequence != release.sequence:
        raise RollbackError(
            f"the history ends at record {at.sequence}, before the release's record {release.sequence}", _HINT
        )
    return at


def next_record(at: Seen, line: bytes, coordinator: PublicKey) -> Record:
    """Read the record that follows another one.

    Raises:
        RollbackError: It follows another one than that.
        LedgerError, SignatureError: As `read_line`.
    """
    record = read_line(line, coordinator)
    _check_link(at, record)
    return record


def check_given(verdicts: Mapping[int, str], sequence: int, hash: str) -> None:
    """Check that a record of the history is the verdict that this site was given under its number, if it was.

    Raises:
        RollbackError: It is another one.
    """
    if verdicts.get(sequence, hash) != hash:
        raise RollbackError(f"record {sequence} is not the verdict this site was given under that number", _HINT)


def check_seen(seen: Seen, record: Record) -> None:
    """Check that a record is the one that was seen, where it has its number.

    Raises:
        RollbackError: It is another one.
    """
    if record.sequence == seen.sequence and record.hash != seen.head:
        raise RollbackError(f"record {record.sequence} is not the one that this site has seen", _HINT)


def _check_link(at: Seen, record: Record) -> None:
    if record.sequence != at.sequence + 1:
        raise RollbackError(f"record {record.sequence} stands where record {at.sequence + 1} is expected", _HINT)
    if record.fields.get("previous") != at.head:
        raise RollbackError(
            f"record {record.sequence} does not follow record {at.sequence} as this site has seen it", _HINT
        )


def check_genesis(record: Record, coordinator: PublicKey) -> None:
    """Check that the first record of a history is the genesis of a federation of this coordinator's.

    Raises:
        RollbackError: It is not.
    """
    if record.event != "genesis" or record.fields.get("coordinator") != coordinator.line:
        raise RollbackError("the history does not begin with this coordinator's genesis", _HINT)


def _check_head(record: Record, release: Release) -> None:
    if record.sequence != release.sequence:
        raise RollbackError(f"record {record.sequence} is not that of release {release.sequence}", _HINT)
    if record.event != Release.kind:
        raise RollbackError(f"record {record.sequence} is {record.event!r}, not the release", _HINT)
    if record.hash != release.head:
        raise RollbackError(
            f"the release names the head {release.head[:16]}…, the history has {record.hash[:16]}…", _HINT
        )
    if sha256_of(record.fields.get("model")) != release.model.sha256:
        raise RollbackError(f"record {record.sequence} releases another model than the one that came", _HINT)


def check_release(release: Release, record: Record, genesis: Record) -> None:
    """Check that a release says what its record says, and what was agreed when the federation began.

    Whoever is recorded as a recipient may be missing in the manifest, for nothing can be sealed for some keys that
    older versions enrolled; nobody else may stand there.

    A federation that began before there were gates has no `gate` and no `margin`, in its genesis and in its releases
    of that time; that means the gate `off`.

    Args:
        release: Its manifest, the signature already checked.
        record: The record that it names, read by `read_line`.
        genesis: Record 1, read by `read_line`.

    Raises:
        RollbackError: It is not the record of this release.
        LedgerError: Record 1 is no genesis, or does not say what was agreed.
        BundleError: Names the field that differs, or the score that is none.
    """
    agreed = genesis.fields
    if genesis.event != "genesis" or genesis.sequence != 1:
        raise LedgerError(f"record {genesis.sequence} is {shown(genesis.event)}, expected the genesis, record 1")
    if lacking := [name for name in ("plan", "architecture") if name not in agreed]:
        raise LedgerError(f"record 1 lacks {lacking[0]!r}")
    _check_head(record, release)
    what = f"release {release.sequence}"
    said = {
        "model": release.model.fields(),
        "metrics": release.metrics,
        "federation": release.federation,
    }
    for name, value in said.items():
        if not _same(value, record.fields.get(name)):
            raise BundleError(f"{name!r} of {what} is not what its record says")
    if not _is_part(release.recipients, record.fields.get("recipients")):
        raise BundleError(f"'recipients' of {what} are not among those that its record says, in that order")
    for name in ("plan", "architecture"):
        if not _same(getattr(release, name), agreed[name]):
            raise BundleError(f"{name!r} of {what} is not what record 1 says was agreed")
    for name, (source, absent) in AGREED.items():
        if not _same(release.federation.get(name, absent), agreed.get(source, absent)):
            found = str(release.federation.get(name, absent))
            raise BundleError(f"{name!r} of the federation of {what} is {shown(found)}, which is not what was agreed")
    _check_metrics(what, release.metrics, agreed)


def _is_part(readers: list[str], recorded: object) -> bool:
    """Whether all readers were recorded, in the same order. One whose key nothing can be sealed for may be left out."""
    left: Iterator[object] = iter(recorded if isinstance(recorded, list) else ())
    return all(reader in left for reader in readers)  # `in` goes on where the last one was found


def _check_metrics(what: str, metrics: Mapping[str, Any], agreed: Mapping[str, Any]) -> None:
    most = 1.0
    if agreed.get("gate") == "ladder" and is_number(agreed.get("margin")):
        most += min(agreed["margin"], 1) / 2  # a ladder tells the nearest of its steps; the last may lie above 1
    if (name := impossible(metrics, most)) is not None:
        value = metrics[name]
        found = str(value)[:40] if type(value) in (int, float) else shown(value)
        raise BundleError(f"the score {shown(name)} of {what} is {found}, which no model can have")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; Python says that 1, 1.0 and True are equal."""
    return canonical(one) == canonical(other)


def check_verdict(record: Record, site: str, id: str, model: str | None, bundle: str) -> None:
    """Check that a record is the verdict on one submission or report of this site.

    Args:
        record: Read by `read_line`, so it is the coordinator's.
        id: The submission's or report's id.
        model: SHA-256 of the plain model; None for a report.
        bundle: SHA-256 of the bundle.

    Raises:
        LedgerError: It is about something else.
    """
    fields = record.fields
    what = f"record {record.sequence}, given as the verdict on {id},"
    if record.event not in JUDGED:
        raise LedgerError(f"{what} is {record.event!r}")
    if fields.get("site") != site:
        raise LedgerError(f"{what} is about {str(fields.get('site'))[:40]!r}, not {site!r}")
    about_bundle = fields.get("bundle") == bundle
    if fields.get("submission") != id and not (fields.get("submission") is None and about_bundle):
        raise LedgerError(f"{what} is about {str(fields.get('submission'))[:60]}")
    if record.event == "invalid":
        if not about_bundle:
            raise LedgerError(f"{what} is about other bytes than those that were sent")
    elif record.event != "refused" and (record.event in PLAIN) != (model is None):
        raise LedgerError(f"{what} is {record.event!r}")
    elif sha256_of(fields.get("candidate", fields.get("model"))) != model:  # `model` may be a mix with the candidate
        raise LedgerError(f"{what} is about another model")


def sha256_of(model: object) -> str | None:
    """The hash in a record's `model`: {"sha256","size"}, or the hash itself."""
    found = model.get("sha256") if isinstance(model, dict) else model
    return found if isinstance(found, str) else None
