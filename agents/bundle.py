"""What travels: an uncompressed tar of a manifest, its signature, and the sealed model.

    manifest.json       canonical JSON, see manifest.py
    manifest.json.sig   SSHSIG over manifest.json, namespace <kind>@fedssh
    model.age           the model file in age v1, one ssh-rsa stanza per recipient (a report has none)

Exactly these members in this order, regular files, nothing else; nothing is extracted by name. Opening
checks the signature first, then the hashes, then that the age header has a stanza for each key that the manifest names
and no more, then decrypts, then reads the header of what came out. By hand:

    tar xf X.bundle
    ssh-keygen -Y verify -f allowed_signers -I alice-1 -n submission@fedssh -s manifest.json.sig < manifest.json
    age -d -i coordinator_key model.age > model.safetensors
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyrage

from fedssh import age, signature, weights
from fedssh.errors import BundleError
from fedssh.files import BLOCK, adopt, open_regular, part_of, sha256_of, whole_file
from fedssh.forms import MAX_BYTES as MAX_MANIFEST_BYTES
from fedssh.forms import check_id, parse, shown
from fedssh.keys import PrivateKey, PublicKey
from fedssh.manifest import MaskedWord, Release, Report, Scores, Submission, judged_once
from fedssh.rules.events import Blob

Plain = Report | Scores | MaskedWord  # what travels without a model
Sealed = TypeVar("Sealed", Submission, Release)
Message = TypeVar("Message", bound=Submission | Release | Plain)
Other = TypeVar("Other", bound=Submission | Release | Plain)

MAX_BYTES = weights.MAX_BYTES + (16 << 20)
NAMESPACES = {
    Submission: signature.SUBMISSION, Release: signature.RELEASE, Report: signature.REPORT, Scores: signature.SCORES,
    MaskedWord: signature.MASKS,
}  # fmt: skip
_PLAIN = (Report, Scores, MaskedWord)

_NAMES = ("manifest.json", "manifest.json.sig", "model.age")
_LIMITS = (MAX_MANIFEST_BYTES, signature.MAX_BYTES, MAX_BYTES)
_TAR_BLOCK, _TAR_RECORD = 512, 10240
_PENDING = Blob(sha256="0" * 64, size=0)


def pending() -> Blob:
    """Stands for a hash and a size that `seal` fills in."""
    return _PENDING


def check_recipient(key: PublicKey) -> None:
    """See that age can seal for a key.

    Raises:
        BundleError: It cannot.
    """
    try:
        pyrage.encrypt(b"", [pyrage.ssh.Recipient.from_str(key.line)])
    except (pyrage.RecipientError, pyrage.EncryptError) as error:
        raise BundleError(f"age cannot seal for {key.fingerprint}: {' '.join(str(error).split())}") from None


def seal(
    model: Path | BinaryIO, manifest: Sealed, sender: PrivateKey, recipients: list[PublicKey], bundle: Path
) -> Sealed:
    """Encrypt a model file for its recipients and sign the manifest that describes it.

    The bundle stands under its name whole or not at all; `model` is left as it is. Sealing twice gives
    different bytes, because the file key is fresh each time.

    Args:
        model: A model file, or one that is open. Streamed, so memory does not grow with its size; no byte beyond the
            size that it has at first.
        manifest: What is claimed about `model`; recipients, hashes and sizes are filled in here.
        sender: Whose signature it carries.
        recipients: Whoever may open the bundle. Empty is an error.
        bundle: Where it goes.

    Returns:
        The manifest as signed.

    Raises:
        FileNotFoundError: `model` is gone. Skip it: Alice prunes old checkpoints.
        BundleError: `model` became shorter meanwhile.
        OSError: The disk is full or read-only. Nothing is left behind; try again later.
        ValueError: There are no recipients.
    """
    if not recipients:
        raise ValueError("a bundle needs at least one recipient")
    sealed_part = part_of(bundle)
    try:
        with _opened(model) as plain_file, open(sealed_part, "xb") as sealed_file:
            plain_file.seek(0)
            size = os.fstat(plain_file.fileno()).st_size
            plain, sealed = _Hashed(plain_file, size), _Hashed(sealed_file)
            pyrage.encrypt_io(plain, sealed, [pyrage.ssh.Recipient.from_str(key.line) for key in recipients])
        if plain.blob().size != size:
            raise BundleError("the model file became shorter while it was sealed")
        manifest = dataclasses.replace(
            manifest, recipients=[key.fingerprint for key in recipients], model=plain.blob(), sealed=sealed.blob()
        )
        with whole_file(bundle) as file, open(sealed_part, "rb") as body:
            _write_signed(file, manifest, sender)
            _write_header(file, _NAMES[2], manifest.sealed.size)
            _copy(body, file, manifest.sealed.size)
            _write_padding(file)
            file.write(bytes(2 * _TAR_BLOCK))
    finally:
        sealed_part.unlink(missing_ok=True)
    return manifest


def seal_report(report: Plain, sender: PrivateKey, bundle: Path) -> None:
    """Sign a report into a bundle without a model.

    Raises:
        OSError: The disk is full or read-only. Nothing is left behind; try again later.
    """
    with whole_file(bundle) as file:
        _write_signed(file, report, sender)
        file.write(bytes(2 * _TAR_BLOCK))


@contextlib.contextmanager
def read(path: Path) -> Iterator[Arrived]:
    """Open a bundle of unknown origin: `with bundle.read(path) as arrived: …`.

    Raises:
        UntrustedError: It is no plain file.
        OSError: It is gone, or cannot be read.
    """
    with open_regular(path) as file:
        yield Arrived(path, file)


def open_bundle(
    bundle: Path, into: Path, kind: type[Sealed], signer: PublicKey, key: PrivateKey, max_bytes: int = weights.MAX_BYTES
) -> Sealed:
    """Check a bundle and decrypt its model.

    Signature first, then hashes, then decryption, then the model file's header. `into` exists afterwards only
    if all of them passed; the bundle is left as it is.

    Args:
        bundle: A file of unknown origin.
        into: Where the plain model file goes.
        kind: `Submission` or `Release`.
        signer: The key that must have signed it.
        key: The recipient's private key.
        max_bytes: The largest plain model to accept.

    Raises:
        SignatureError: Not signed by `signer` for this kind.
        UntrustedError: No plain file.
        BundleError: Other members, sizes, hashes or form than a bundle's, or not sealed for `key`.
        WeightsError: What came out is not a model file of the architecture the manifest names.
        OSError: The disk is full or read-only. Nothing is left behind; try again later.
    """
    with read(bundle) as arrived:
        manifest = arrived.verify(signer, kind)
        arrived.extract(into, key, max_bytes)
    return manifest


class Arrived:
    """A bundle that arrived, open: unverified before `verify`, its model sealed before `extract`. `read` makes it.

    It is opened once, and its headers and its manifest are read once, when they are first asked for. So the manifest
    whose signature was checked is the one whose hashes count, whatever the file says by then.

    Attributes:
        path: Where it lay when it was opened.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._verified: Submission | Release | Plain | None = None

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return os.fstat(self._file.fileno()).st_size

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        return sha256_of(self._file)

    @functools.cached_property
    def message(self) -> bytes:
        """The bytes of its manifest, unverified.

        Raises:
            BundleError: The file does not have a bundle's form.
        """
        return self._bytes_of(self._members[0])

    @functools.cached_property
    def said(self) -> dict[str, Any]:
        """What its manifest says, unverified.

        Raises:
            BundleError: The file does not have a bundle's form, or its manifest is not canonical JSON.
        """
        return parse(self.message)

    @property
    def signature(self) -> str:
        """The armored signature of its manifest: to be kept beside what `verify` checked.

        Raises:
            BundleError: The file does not have a bundle's form.
        """
        return self._bytes_of(self._members[1]).decode("ascii", errors="replace")

    @property
    def kind(self) -> str | None:
        """Its kind, unverified; None where it says none that could be read."""
        try:
            kind = self.said.get("kind")
        except BundleError:
            return None
        return kind if isinstance(kind, str) else None

    @property
    def id(self) -> str | None:
        """Its id, unverified; None where it says none of an id's form."""
        try:
            return check_id(self.said.get("id"))
        except BundleError:
            return None

    @property
    def model_sha256(self) -> str | None:
        """The SHA-256 of the plain model, unverified; None where its manifest names none, as a report's.

        Raises:
            BundleError: See `said`.
        """
        model = self.said.get("model")
        sha256 = model.get("sha256") if isinstance(model, dict) else None
        return sha256 if isinstance(sha256, str) else None

    @property
    def subject(self) -> str:
        """What is judged once of whatever a site sends, see `judged_once`."""
        return judged_once(self.id, lambda: self.sha256)

    def verify(self, signer: PublicKey, kind: type[Message], *others: type[Other]) -> Message | Other:
        """Check the signature and form of the manifest alone, in no more time than that takes.

        Args:
            signer: The key that must have signed it.
            kind: What it must be.
            others: What else it may be: then its own word says which, and the signature must be for that.

        Raises:
            SignatureError: Not signed by `signer` for this kind.
            BundleError: Not the form of a bundle of this kind, or of such a manifest.
        """
        self._verified = None
        found: type[Any] = self._one_of((kind, *others)) if others else kind
        if found in _PLAIN and len(self._members) != 2:
            raise BundleError(f"a {found.kind} travels without a model, this one has three members")
        if found not in _PLAIN and len(self._members) != 3:
            raise BundleError(f"a {found.kind} has three members, this bundle has two")
        signature.verify(self.message, self.signature, NAMESPACES[found], signer)
        manifest: Message | Other = found.of(self.said)
        self._verified = manifest
        return manifest

    def check_sealed(self, max_bytes: int = weights.MAX_BYTES) -> None:
        """Check that the sealed model is whole, after `verify`, for who hands it on and cannot open it.

        Raises:
            BundleError: It is not the one that the manifest names, or is sealed for others than it says.
        """
        manifest = self._verified
        if manifest is None or isinstance(manifest, _PLAIN):
            raise ValueError("only a verified manifest says which model a bundle holds")
        sealed = self._members[2]
        _check_recipients(manifest, several=True)
        _check_sizes(manifest, sealed.size, max_bytes)
        _check_sealed(self._file, sealed, manifest)

    def copy(self, into: Path) -> None:
        """Copy the whole bundle, durably, as it was opened."""
        with whole_file(into) as target:
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                target.write(block)

    def extract(
        self, into: Path | BinaryIO, key: PrivateKey, max_bytes: int = weights.MAX_BYTES, *, several: bool = False
    ) -> weights.Header:
        """Decrypt the model, after `verify`: hashes first, then decryption, then the model file's header.

        Args:
            into: Where the plain model goes: a file that exists afterwards only if all checks passed, or one that is
                open for reading and writing, which may hold anything after an error.
            key: The recipient's private key.
            max_bytes: The largest plain model to accept.
            several: Whether a submission may be for others beside; usual is that it is for the coordinator alone.

        Returns:
            The header of what came out.

        Raises:
            BundleError, WeightsError, OSError: See `open_bundle`.
        """
        if not isinstance(into, Path):
            return self._decrypt(into, key, max_bytes, several)
        part = part_of(into)
        try:
            with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as plain:
                header = self._decrypt(plain, key, max_bytes, several)
            adopt(part, into)
        finally:
            part.unlink(missing_ok=True)
        return header

    def _decrypt(self, plain: BinaryIO, key: PrivateKey, max_bytes: int, several: bool) -> weights.Header:
        manifest = self._verified
        if manifest is None or isinstance(manifest, _PLAIN):
            raise ValueError("only a verified manifest says which model a bundle holds")
        sealed = self._members[2]
        _check_recipients(manifest, several)
        _check_sizes(manifest, sealed.size, max_bytes)
        _check_sealed(self._file, sealed, manifest)
        if key.public.fingerprint not in manifest.recipients:
            raise BundleError(f"sealed for {', '.join(manifest.recipients[:3])}, not for {key.public.fingerprint}")
        _decrypt(self._file, sealed, manifest, key, plain)
        plain.flush()
        header = weights.header_of(plain, max_bytes)
        if header.architecture != manifest.architecture:
            raise BundleError("the model file has another architecture than the manifest says")
        if self._bytes_of(self._members[0]) != self.message:
            raise BundleError("the bundle changed while it was read")
        return header

    def _one_of(self, kinds: tuple[type[Any], ...]) -> type[Any]:
        for kind in kinds:
            if self.said.get("kind") == kind.kind:
                return kind
        expected = " or ".join(repr(kind.kind) for kind in kinds)
        raise BundleError(f"the manifest is of kind {shown(self.kind, 40)}, expected {expected}")

    @functools.cached_property
    def _members(self) -> list[_Member]:
        return _members(self._file)

    def _bytes_of(self, member: _Member) -> bytes:
        """As they stand in the file now, not in what was read ahead."""
        return os.pread(self._file.fileno(), member.size, member.offset)


@contextlib.contextmanager
def _opened(model: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(model, Path):
        yield model
        return
    with open(model, "rb") as file:
        yield file


@dataclasses.dataclass(frozen=True)
class _Member:
    offset: int
    size: int


def _members(file: BinaryIO) -> list[_Member]:
    """Where the two or three members lie. Looks at headers only, and refuses whatever a bundle does not have."""
    total = os.fstat(file.fileno()).st_size
    members: list[_Member] = []
    position = 0
    for name, limit in zip(_NAMES, _LIMITS, strict=True):
        file.seek(position)
        block = file.read(_TAR_BLOCK)
        if len(members) == 2 and block == bytes(_TAR_BLOCK):
            break
        member = _member(block, name, limit, position + _TAR_BLOCK)
        position = member.offset + -(-member.size // _TAR_BLOCK) * _TAR_BLOCK
        if position > total:
            raise BundleError(f"the bundle is truncated: {name} ends at {position:,} of {total:,} bytes")
        file.seek(member.offset + member.size)
        if any(file.read(position - member.offset - member.size)):
            raise BundleError(f"there are bytes hidden after {name}")
        members.append(member)
    file.seek(position)
    rest = total - position
    if not 2 * _TAR_BLOCK <= rest <= 2 * _TAR_BLOCK + _TAR_RECORD or any(file.read(rest)):
        raise BundleError("the bundle does not end after its last member")
    return members


def _member(block: bytes, name: str, limit: int, offset: int) -> _Member:
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise BundleError(f"the bundle is not a tar of its members: expected {name}, {error}") from None
    if entry.name != name or entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.linkname:
        raise BundleError(
            f"the bundle has the member {entry.name[:80]!r} of type {entry.type!r}, expected the file {name}"
        )
    if not 0 < entry.size <= limit:
        raise BundleError(f"{name} claims {entry.size:,} bytes, expected 1 to {limit:,}")
    # The checksum covers every byte but its own eight, which could be written in other ways.
    if block[148:156] != b"%06o\0 " % entry.chksum:
        raise BundleError(f"the checksum in the header of {name} is not written as tar writes it")
    return _Member(offset, entry.size)


def _check_recipients(manifest: Submission | Release, several: bool = False) -> None:
    if not several and isinstance(manifest, Submission) and len(manifest.recipients) != 1:
        raise BundleError(f"a submission is sealed for the coordinator alone, this one for {len(manifest.recipients)}")


def _check_sizes(manifest: Submission | Release, sealed_size: int, max_bytes: int) -> None:
    if manifest.sealed.size != sealed_size:
        raise BundleError(f"model.age has {sealed_size:,} bytes, the manifest says {manifest.sealed.size:,}")
    if manifest.model.size > max_bytes:
        raise BundleError(f"the model has {manifest.model.size:,} bytes, expected at most {max_bytes:,}")
    if manifest.model.size >= sealed_size:
        raise BundleError("the plain model cannot be larger than the sealed one")
    # Or else decrypting it could fill the disk before anybody sees that too much comes out.
    if sealed_size > manifest.model.size + manifest.model.size // 4096 + age.max_bytes(len(manifest.recipients)):
        raise BundleError(f"the sealed model has {sealed_size:,} bytes, too many for a plain one of its size")


def _check_sealed(file: BinaryIO, member: _Member, manifest: Submission | Release) -> None:
    digest = hashlib.sha256()
    file.seek(member.offset)
    left = member.size
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise BundleError("the bundle became shorter while it was read")
        digest.update(block)
        left -= len(block)
    if digest.hexdigest() != manifest.sealed.sha256:
        raise BundleError("model.age does not have the hash its manifest says")


def _decrypt(
    file: BinaryIO, member: _Member, manifest: Submission | Release, key: PrivateKey, plain_file: BinaryIO
) -> None:
    file.seek(member.offset)
    header = age.read_header(file, len(manifest.recipients))
    plain = _Hashed(plain_file)
    # The header as it was checked: the file may be another by now.
    sealed = _Region(file, member.size - len(header.text), age.narrowed(header, key))
    try:
        pyrage.decrypt_io(sealed, plain, [pyrage.ssh.Identity.from_buffer(key.pem)])
    except (pyrage.DecryptError, OSError) as error:
        if plain.trouble or sealed.trouble:
            raise
        # What age itself finds wrong behind the header comes as an OSError too.
        reason = " ".join(str(error).split())
        raise BundleError(f"model.age cannot be opened with {key.public.fingerprint}: {reason}") from None
    if plain.blob() != manifest.model:
        raise BundleError("the model file does not have the hash and size its manifest says")


def _write_signed(file: BinaryIO, manifest: Submission | Release | Plain, sender: PrivateKey) -> None:
    message = manifest.to_bytes()
    armored = signature.sign(message, sender, NAMESPACES[type(manifest)]).encode()
    for name, content in zip(_NAMES, (message, armored), strict=False):
        _write_header(file, name, len(content))
        file.write(content)
        _write_padding(file)


def _write_header(file: BinaryIO, name: str, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    file.write(entry.tobuf(tarfile.USTAR_FORMAT))


def _write_padding(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _TAR_BLOCK))


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    target.flush()
    left = size
    while left:
        left -= (sent := os.sendfile(target.fileno(), source.fileno(), None, left))
        if not sent:
            raise BundleError("the sealed model became shorter while it was copied")
    target.seek(0, os.SEEK_END)


class _Hashed:
    """A file that remembers the SHA-256 and the number of the bytes read from it, at most `most`, or written to it.

    Attributes:
        trouble: Whether the file itself failed.
    """

    def __init__(self, file: BinaryIO, most: int = MAX_BYTES) -> None:
        self.trouble = False
        self._file = file
        self._most = most
        self._digest = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        left = self._most - self._size
        return self._seen(self._file.read(min(size, left) if size >= 0 else left))

    def write(self, data: bytes) -> int:
        try:
            self._file.write(self._seen(data))
        except OSError:
            self.trouble = True
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def blob(self) -> Blob:
        return Blob(self._digest.hexdigest(), self._size)

    def _seen(self, data: bytes) -> bytes:
        self._digest.update(data)
        self._size += len(data)
        return data


class _Region:
    """`head`, then the next `size` bytes of a file, as one file; `trouble` is whether the file itself failed."""

    def __init__(self, file: BinaryIO, size: int, head: bytes) -> None:
        self.trouble = False
        self._file = file
        self._left = size
        self._head = head

    def read(self, size: int) -> bytes:
        if self._head:
            block, self._head = self._head[:size], self._head[size:]
            return block
        try:
            block = self._file.read(min(size, self._left))
        except OSError:
            self.trouble = True
            raise
        self._left -= len(block)
        return block
