"""What Alice publishes, taken over: `exchange/outgoing/` into the spool, signed and sealed.

    outgoing/<id>.safetensors, then <id>.json   a checkpoint and what is claimed of it
    outgoing/<id>.json                          the report of a finished session
    rejected/<id>.…, <id>.reason                what is not well-formed, for the site's operator

A checkpoint is taken when its bundle stands in the spool; only then are Alice's files removed, the json first.
So after a kill at any point the same files are found again, and an id that is in the spool or in the receipts
is only cleared away.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.bob.receipts import Receipts
from agents.bob.site import Site
from agents.bob.spool import Entry, Spool
from agents.bundle import pending, seal, seal_report
from agents.errors import BundleError, UntrustedError
from agents.files import fsync_folder, write_whole
from agents.keys import PrivateKey
from agents.manifest import MAX_BYTES, Claim, Report, SessionOver, Submission, check_id, parse
from agents.weights import read_header

KEEP_REJECTED = 10
Say = Callable[..., None]


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
    """

    def __init__(
        self, exchange: Path, site: Site, key: PrivateKey, spool: Spool, receipts: Receipts, say: Say, max_bytes: int
    ) -> None:
        self.folder = exchange / "outgoing"
        self._rejected = exchange / "rejected"
        self._site = site
        self._key = key
        self._spool = spool
        self._receipts = receipts
        self._say = say
        self._max_bytes = max_bytes
        self._judged: set[str] | None = None

    def waiting(self) -> list[Path]:
        """The claims and reports that lie there, oldest first."""
        return sorted(self.folder.glob("*.json"))

    def take_all(self, stop: threading.Event) -> int:
        """Seal all that lies there, oldest first; returns how many are new in the spool.

        Raises:
            OSError: The disk is full; what was not taken is still there.
        """
        claims = self.waiting()
        if self._judged is None:  # at start only: a killed Bob may have left files of finished checkpoints
            self._judged = self._receipts.ids({path.stem for path in self.folder.glob("*")})
            self._clear_orphans()
        taken = 0
        for claim in claims:
            if stop.is_set():
                break
            taken += self._take(claim)
        return taken

    def _take(self, path: Path) -> bool:
        try:
            id = check_id(path.stem)
            if id in self._spool or id in (self._judged or ()):
                self._clear(path)
                return False
            self._seal(path, id)
        except FileNotFoundError:
            if path.exists():
                self._reject(path, "its model file is missing")
            return False
        except UntrustedError as error:
            self._reject(path, str(error))
            return False
        self._clear(path)
        return True

    def _seal(self, path: Path, id: str) -> None:
        published = path.stat().st_ctime  # the rename that gave it its name
        detect_ms, start = 1000 * (time.time() - published), time.monotonic()
        message = _read(path)
        if message.id != id:
            raise BundleError(f"{path.name} says that it is {message.id}")
        epoch = message.epoch if isinstance(message, Claim) else None
        kind = Submission.kind if isinstance(message, Claim) else Report.kind
        entry = Entry(id, kind, message.session, epoch, message.created, published)
        bundle = self._spool.bundle(id)
        if isinstance(message, Claim):
            self._seal_checkpoint(path.with_suffix(".safetensors"), message, entry, bundle)
        else:
            self._spool.describe(entry)
            seal_report(Report(sender=self._site.name, **vars(message)), self._key, bundle)
        size, took = bundle.stat().st_size, 1000 * (time.monotonic() - start)
        self._say(
            "sealed", f"sealed {entry}: {in_megabytes(size)} in {took:.0f} ms", id=id, session=entry.session,
            epoch=epoch, bytes=size, detect_ms=round(detect_ms, 1), seal_ms=round(took, 1),
        )  # fmt: skip

    def _seal_checkpoint(self, model: Path, claim: Claim, entry: Entry, bundle: Path) -> None:
        if model.is_symlink():
            raise BundleError(f"{model.name} is a link")
        if read_header(model, self._max_bytes).architecture != claim.architecture:
            raise BundleError("the model file has another architecture than the claim says")
        manifest = Submission(sender=self._site.name, recipients=[], model=pending(), sealed=pending(), **vars(claim))
        self._spool.describe(entry)
        seal(model, manifest, self._key, [self._site.coordinator], bundle)

    def _clear(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        fsync_folder(self.folder)

    def _clear_orphans(self) -> None:
        """Models whose claim is gone because a killed Bob had taken them."""
        for model in self.folder.glob("*.safetensors"):
            if model.stem in self._spool or model.stem in (self._judged or ()):
                self._clear(model.with_suffix(".json"))

    def _reject(self, path: Path, reason: str) -> None:
        """Set a checkpoint aside, so that it cannot stop the others, and keep the newest few for the operator."""
        self._rejected.mkdir(parents=True, exist_ok=True)
        write_whole(self._rejected / f"{path.stem}.reason", f"{reason}\n".encode(), mode=0o644)
        for file in (path, path.with_suffix(".safetensors")):
            if file.exists() or file.is_symlink():
                os.replace(file, self._rejected / file.name)
        old = sorted(self._rejected.glob("*.reason"), key=lambda file: file.stat().st_mtime)[:-KEEP_REJECTED]
        for file in old:
            for suffix in (".safetensors", ".json", ".reason"):
                file.with_suffix(suffix).unlink(missing_ok=True)
        self._say("rejected", f"set aside {path.name} from Alice: {reason}", id=path.stem, reason=reason)


def _read(path: Path) -> Claim | SessionOver:
    if path.is_symlink():
        raise BundleError(f"{path.name} is a link")
    with open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    return SessionOver.from_bytes(text) if parse(text).get("kind") == SessionOver.kind else Claim.from_bytes(text)


def in_megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def fields_of(entry: Entry) -> dict[str, Any]:
    """What events say of an entry."""
    return {"id": entry.id, "kind": entry.kind, "session": entry.session, "epoch": entry.epoch}
