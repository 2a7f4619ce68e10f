"""What Alice publishes, taken over: `exchange/outgoing/` into the spool, signed and sealed.

    outgoing/<id>.safetensors, then <id>.json   a checkpoint and what is claimed of it
    outgoing/<id>.json                          the report of a finished session, or what a release scores here
    rejected/<id>.…, <id>.reason                what is not well-formed, for the site's operator

A checkpoint is taken when its bundle stands in the spool; only then are Alice's files removed, the json first.
So after a kill at any point the same files are found again, and an id that is in the spool or in the receipts
is only cleared away.

Alice is believed nothing: her folder is a `SharedFolder`, each of her files is opened once, and what is checked is what
is sealed, whatever stands under its name by then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from fedssh.bob.masking import Masks, Waits
from fedssh.bob.receipts import Receipts
from fedssh.bob.shared import SharedFolder
from fedssh.bob.site import Site
from fedssh.bob.spool import Entry, Spool
from fedssh.bundle import pending, seal, seal_report
from fedssh.errors import BundleError, UntrustedError
from fedssh.forms import MAX_BYTES, check_id, parse, shown
from fedssh.keys import PrivateKey, PublicKey
from fedssh.manifest import Claim, Report, Scores, SessionOver, SiteScored, Submission
from fedssh.weights import header_of

KEEP_REJECTED = 10
Say = Callable[..., None]
_CLAIM, _MODEL, _REASON = ".json", ".safetensors", ".reason"
_LONGEST_NAME = 100  # of what is set aside under its own name; a file system takes 255 bytes with the suffix


class Outgoing:
    """Alice's side of the exchange folder.

    Args:
        exchange: The folder shared with Alice.
        site: Who signs.
        key: The site key.
        spool: Where bundles go.
        receipts: What has been judged already.
        say: Called with an event, its text and its fields.
        max_bytes: The largest model file to take.
        sealed_for: Whose keys models are sealed for; None is the coordinator's.
        masks: What masks updates, where that is agreed; None where it is not.
    """

    def __init__(
        self, exchange: Path, site: Site, key: PrivateKey, spool: Spool, receipts: Receipts, say: Say, max_bytes: int,
        sealed_for: Callable[[], list[PublicKey]] | None = None, masks: Callable[[], Masks | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._sealed_for = sealed_for or (lambda: [site.coordinator])
        self._masks = masks
        self.path = exchange / "outgoing"
        self._rejected = exchange / "rejected"
        self._site = site
        self._key = key
        self._spool = spool
        self._receipts = receipts
        self._say = say
        self._max_bytes = max_bytes
        self._judged: set[str] | None = None

    def waiting(self) -> list[str]:
        """The names of the claims and reports that lie there, oldest first.

        Raises:
            UntrustedError: The folder is a link.
        """
        with SharedFolder(self.path) as folder:
            return _claims(folder)

    def take_all(self, stop: threading.Event) -> int:
        """Seal all that lies there, oldest first; returns how many are new in the spool.

        Raises:
            UntrustedError: The folder, or the one for what is set aside, is a link.
            OSError: The disk is full; what was not taken is still there.
        """
        with SharedFolder(self.path) as folder:
            claims = _claims(folder)
            if self._judged is None:  # at start only: a killed Bob may have left files of finished checkpoints
                self._judged = self._receipts.ids({name.partition(".")[0] for name in folder.names()})
                self._clear_orphans(folder)
            taken = 0
            for claim in claims:
                if stop.is_set():
                    break
                try:
                    taken += self._take(folder, claim)
                except Waits:  # nor may the report of its session leave before it
                    break
            return taken

    def _take(self, folder: SharedFolder, claim: str) -> bool:
        try:
            id = check_id(claim.removesuffix(_CLAIM))
            if id in self._spool or id in (self._judged or ()):
                self._clear(folder, id)
                return False
            self._seal(folder, id)
        except FileNotFoundError:
            if folder.stat(claim):
                self._reject(folder, claim, "its model file is missing")
            return False
        except UntrustedError as error:
            self._reject(folder, claim, str(error))
            return False
        self._clear(folder, id)
        return True

    def _seal(self, folder: SharedFolder, id: str) -> None:
        with folder.open(id + _CLAIM) as claim:
            published = os.fstat(claim.fileno()).st_ctime  # the rename that gave it its name
            detect_ms, start = 1000 * (time.time() - published), time.monotonic()
            message = _read(claim)
        if message.id != id:
            raise BundleError(f"{id}{_CLAIM} says that it is {message.id}")
        epoch = message.epoch if isinstance(message, Claim) else None
        session = 0 if isinstance(message, SiteScored) else message.session
        kind = Submission.kind if isinstance(message, Claim) else message.kind
        entry = Entry(id, kind, session, epoch, message.created, published)
        bundle = self._spool.bundle(id)
        if isinstance(message, Claim):
            with folder.open(id + _MODEL) as model:
                self._seal_checkpoint(model, message, entry, bundle)
        else:
            if isinstance(message, SessionOver) and (masks := self._masks()) is not None:
                masks.check_report(message)
            self._spool.describe(entry)
            plain = Scores if isinstance(message, SiteScored) else Report
            seal_report(plain(sender=self._site.name, **vars(message)), self._key, bundle)
        size, took = bundle.stat().st_size, 1000 * (time.monotonic() - start)
        self._say(
            "sealed", f"sealed {entry}: {in_megabytes(size)} in {took:.0f} ms", id=id, session=entry.session,
            epoch=epoch, bytes=size, detect_ms=round(detect_ms, 1), seal_ms=round(took, 1),
        )  # fmt: skip

    def _seal_checkpoint(self, model: BinaryIO, claim: Claim, entry: Entry, bundle: Path) -> None:
        header = header_of(model, self._max_bytes)
        if header.architecture != claim.architecture:
            raise BundleError("the model file has another architecture than the claim says")
        manifest = Submission(sender=self._site.name, recipients=[], model=pending(), sealed=pending(), **vars(claim))
        with contextlib.ExitStack() as stack:
            masks = self._masks()
            if masks is None and header.words:
                raise BundleError("no masks are agreed, and the model file has an update for a sum under masks")
            if masks is not None:
                model = stack.enter_context(masks.masked(claim, model))
            self._spool.describe(entry)
            seal(model, manifest, self._key, self._sealed_for(), bundle)

    def _clear(self, folder: SharedFolder, id: str) -> None:
        folder.remove(id + _CLAIM)
        folder.remove(id + _MODEL)
        folder.fsync()

    def _clear_orphans(self, folder: SharedFolder) -> None:
        """Models whose claim is gone because a killed Bob had taken them."""
        for name in folder.names(_MODEL):
            id = name.removesuffix(_MODEL)
            if id in self._spool or id in (self._judged or ()):
                self._clear(folder, id)

    def _reject(self, folder: SharedFolder, claim: str, reason: str) -> None:
        """Set a checkpoint aside, so that it cannot stop the others, and keep the newest few for the operator.

        Only its plain files are kept. A link is removed itself: nobody shall follow it later and take what it leads
        to for Alice's.
        """
        stem = claim.removesuffix(_CLAIM)
        kept = _name_for(stem)
        with SharedFolder(self._rejected) as rejected:
            with contextlib.suppress(IsADirectoryError):
                rejected.write(kept + _REASON, f"{reason}\n".encode(errors="backslashreplace"), 0o644)
            for suffix in (_CLAIM, _MODEL):
                folder.move(stem + suffix, rejected, kept + suffix)
            reasons = [(found.st_mtime, name) for name in rejected.names(_REASON) if (found := rejected.stat(name))]
            for _, name in sorted(reasons)[:-KEEP_REJECTED]:
                old = name.removesuffix(_REASON)
                rejected.remove(old + _MODEL, old + _CLAIM, name)
        self._say("rejected", f"set aside {shown(claim)} from Alice: {reason}", id=stem, reason=reason)


def _claims(folder: SharedFolder) -> list[str]:
    """Folders are none of Alice's making, cannot be removed in one step, and so are left alone."""
    found = ((name, folder.stat(name)) for name in folder.names(_CLAIM))
    return [name for name, status in found if status and not stat.S_ISDIR(status.st_mode)]


def _name_for(stem: str) -> str:
    """The name under which something is set aside: its own, unless that is too long or not fit to be read."""
    if stem.isascii() and stem.isprintable() and len(stem) <= _LONGEST_NAME:
        return stem
    return hashlib.sha256(stem.encode(errors="surrogateescape")).hexdigest()


def _read(claim: BinaryIO) -> Claim | SessionOver | SiteScored:
    text = claim.read(MAX_BYTES + 1)
    kinds = {one.kind: one for one in (SessionOver, SiteScored)}
    return kinds.get(str(parse(text).get("kind")), Claim).from_bytes(text)


def in_megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def fields_of(entry: Entry) -> dict[str, Any]:
    """What events say of an entry."""
    return {"id": entry.id, "kind": entry.kind, "session": entry.session, "epoch": entry.epoch}
