"""What Bob lays out for Alice, read with suspicion: Bob has the network, and may be somebody else by now.

    incoming/genesis.json                                   the signed ledger line of record 1
    incoming/<sequence, 8 digits>.safetensors, then .json   {"site": NAME, "manifest": {a release's manifest},
                                                            "signature": SSHSIG of it, "record": its ledger line}
    incoming/<sequence, 8 digits>.layers.safetensors        the site's layers, where they are for sites alone
    incoming/status.json                                    {"newest", "confirmed", "refused_since", "reason"}

Everything but the status is signed by the coordinator, whose key the agreed genesis record names; the status is Bob's
word and decides nothing but when to stop waiting. Every file is opened once, and never as a link, a FIFO or a device.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fedssh.alice.terms import Terms, read_terms
from fedssh.chain import MAX_LINE_BYTES, Seen, check_order, check_release, read_line
from fedssh.errors import BundleError, WeightsError
from fedssh.files import BLOCK, is_part, open_shared, part_of, read_shared
from fedssh.forms import canonical, check_site, shown
from fedssh.manifest import Release
from fedssh.rules.events import Blob
from fedssh.rules.metrics import FIRST, task_of
from fedssh.rules.standing import Standing
from fedssh.rules.typed import ABSENT, known
from fedssh.signature import RELEASE, verify
from fedssh.weights import MAX_BYTES, Header, read_header

MAX_NOTE_BYTES = 4 * MAX_LINE_BYTES  # the ledger line, escaped once more, the manifest and its signature
MAX_STATUS_BYTES = 64 * 1024
COORDINATOR = "charity"
COPY = "release.safetensors"
LAYERS = "layers.safetensors"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Unready(Exception):
    """What lies there cannot be judged yet; the text says what is waited for."""


class Older(Unready):
    """What lies there is older than what this site has taken already."""


@dataclass(frozen=True)
class Received:
    """A release that Bob brought in.

    Attributes:
        site: Who this site is, as the coordinator knows it.
        release: Its manifest: signed by the coordinator, and what its record and the genesis record say.
        standing: What it says of the federation.
        model: A copy of the plain model file, in Alice's own folder.
        header: Of `model`.
        layers: A copy of the site's layers, where they are for sites alone, with their optimizer's state.
    """

    site: str
    release: Release
    standing: Standing
    model: Path
    header: Header
    layers: Path | None = None


@dataclass(frozen=True)
class Status:
    """How Bob stands with the door, by his own word.

    Attributes:
        newest: The release that was the newest when the door was asked last.
        confirmed: When that was; None before.
        refused_since: Since when the door does not let this site in; None while it does.
        reason: What it says.
        written: When Bob wrote it, in seconds as of `time.time`.
    """

    newest: int | None = None
    confirmed: str | None = None
    refused_since: str | None = None
    reason: str | None = None
    written: float = 0.0


def newest_sequence(folder: Path) -> int | None:
    """The sequence of the newest release, without opening it."""
    notes = [path.stem for path in folder.glob("*.json") if not is_part(path)]
    return max((int(stem) for stem in notes if _is_sequence(stem)), default=None)


def read_offer(folder: Path) -> Terms | None:
    """The genesis record that Bob brought; None before he has.

    Raises:
        UntrustedError: It is none, or not signed by the coordinator that it names.
    """
    try:
        return read_terms(read_shared(folder / "genesis.json", MAX_LINE_BYTES + 1))
    except FileNotFoundError:
        return None


def read_status(folder: Path) -> Status:
    """How Bob stands with the door; nothing is known before he has written it.

    Raises:
        UntrustedError: The file is not one that Bob writes.
    """
    path = folder / "status.json"
    try:
        with open_shared(path, MAX_STATUS_BYTES) as file:
            fields, written = json.loads(file.read(MAX_STATUS_BYTES)), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return Status()
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not bob's status: {error}") from None
    forms = {"newest": int, "confirmed": str, "refused_since": str, "reason": str}
    for name, form in forms.items():
        if not isinstance(fields, dict) or name not in fields:
            raise BundleError(f"{path} is not bob's status: it lacks {name!r}")
        if fields[name] is not None and type(fields[name]) is not form:
            raise BundleError(f"{path} is not bob's status: {name!r} is {shown(fields[name])}")
    for name in ("confirmed", "refused_since"):
        if fields[name] is not None and not _TIME.fullmatch(fields[name]):
            raise BundleError(f"{path} is not bob's status: {name!r} is {shown(fields[name])}, which is no time")
    return Status(**{name: fields[name] for name in forms}, written=written)


def read_release(folder: Path, sequence: int, terms: Terms, site: str | None, seen: Seen, private: Path) -> Received:
    """Check a release that Bob laid out, and copy its model where nobody else can change it.

    Args:
        terms: What this site has agreed to.
        site: This site's name, where an invitation said it.
        seen: The newest release that this site has taken.
        private: Alice's own folder.

    Raises:
        Unready: An older Bob laid it out, or it is older than what was seen.
        SignatureError: Not signed by the coordinator that was agreed to.
        BundleError: The note is malformed, or the release differs from its record or from what was agreed.
        LedgerError: Its record is none.
        RollbackError: It is another one than the one seen under its number.
        WeightsError: The model file is not the one that the release names.
        UntrustedError: One of the files is a link, a FIFO or a device, or too large.
        FileNotFoundError: Bob has just removed it.
    """
    path = folder / f"{sequence:08}.json"
    name, release, standing = _read_note(path, sequence, terms)
    if site is not None and name != site:
        raise BundleError(f"{path} is for the site {name}, this one is {site}")
    if release.sequence < seen.sequence:
        raise Older(
            f"release {release.sequence} lies in {folder}, older than {seen.sequence}, which this site has taken; "
            "waiting for bob to bring a newer one"
        )
    check_order(seen, release)
    model = path.with_suffix(".safetensors")
    header = _copy(model, release.model, f"the model that release {release.sequence} names", private / COPY)
    if header.architecture != release.architecture:
        raise WeightsError(f"{model} has another architecture than release {release.sequence} names")
    layers = known(standing.layers, None)
    if layers is None:
        return Received(name, release, standing, private / COPY, header)
    beside, named = path.with_suffix(".layers.safetensors"), Blob(sha256=layers.sha256, size=layers.size)
    if _copy(beside, named, f"the layers that release {sequence} names", private / LAYERS).spec != header.spec:
        raise WeightsError(f"{beside} is of another architecture than release {release.sequence}")
    return Received(name, release, standing, private / COPY, header, private / LAYERS)


def _read_note(path: Path, sequence: int, terms: Terms) -> tuple[str, Release, Standing]:
    try:
        note = json.loads(read_shared(path, MAX_NOTE_BYTES))
        if isinstance(note, dict) and {"site", "manifest"} <= note.keys() and not {"signature", "record"} & note.keys():
            raise Unready(
                f"{path} carries no signature, as an older bob laid it down; waiting for bob to bring it in again"
            )
        site, signature, line = check_site(note["site"]), note["signature"], note["record"]
        if not isinstance(signature, str) or not isinstance(line, str):
            raise TypeError("signature or record is no text")
        text = canonical(note["manifest"])
        record = line.encode()
        release = Release.from_bytes(text)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not the note of a release: {error}") from None
    verify(text, signature, RELEASE, terms.coordinator)
    if release.sender != COORDINATOR:
        raise BundleError(f"{path} is of {release.sender}, expected {COORDINATOR}")
    if release.sequence != sequence:
        raise BundleError(f"{path} holds release {release.sequence}")
    check_release(release, read_line(record, terms.coordinator), terms.record)
    needed = ("loss", FIRST.get(task_of(terms.spec), "loss"))
    if missing := [name for name in needed if name not in release.metrics]:
        raise BundleError(f"{path}: the release's metrics lacks {missing[0]!r}")
    standing = Standing.read(release.federation, f"{path}: the release's federation")
    if standing.schedule == "rounds" and ABSENT in (standing.turns, standing.round):
        raise BundleError(f"{path}: the release's federation lacks 'turns' or 'round', with the schedule 'rounds'")
    return site, release, standing


def _copy(model: Path, named: Blob, what: str, target: Path) -> Header:
    """Copy a file that a release names; its bytes are read once, and hashed on their way."""
    unlike = f"{model} is not {what}"
    if named.size > MAX_BYTES:
        raise WeightsError(f"{what} has {named.size:,} bytes")
    digest, left = hashlib.sha256(), named.size
    part = part_of(target)
    try:
        with open_shared(model, MAX_BYTES) as source, part.open("xb") as copy:
            if os.fstat(source.fileno()).st_size != left:
                raise WeightsError(unlike)
            while left and (block := source.read(min(BLOCK, left))):
                digest.update(block)
                copy.write(block)
                left -= len(block)
        if left or digest.hexdigest() != named.sha256:
            raise WeightsError(unlike)
        header = read_header(part)
        os.replace(part, target)  # for this process only, so nothing is lost with the power
        return header
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _is_sequence(stem: str) -> bool:
    """Whether a note has the name that Bob gives it."""
    return stem.isascii() and stem.isdecimal() and stem == f"{int(stem):08}"
