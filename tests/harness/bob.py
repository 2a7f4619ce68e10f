"""A site's Bob in process, without threads, and a door that is played on files, so that it outlives a killed Bob."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import bundle, files
from fedssh.bob.incoming import Incoming
from fedssh.bob.outgoing import Outgoing
from fedssh.bob.receipts import Receipts
from fedssh.bob.shipping import Shipping
from fedssh.bob.site import Folder, Site
from fedssh.bob.spool import Spool
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.manifest import Blob, Claim, Local, Release, SessionOver, new_id, now
from fedssh.rules.events import Record
from fedssh.transport import Address, Answer
from fedssh.weights import read_header, write_weights
from tests.harness.killed import Step

SPEC = {"name": "mlp", "input": [2], "classes": 2}
RUN = threading.Event()  # never set: do not stop


def said(path: Path) -> dict[str, Any]:
    """What a bundle's manifest says."""
    with bundle.read(path) as arrived:
        return arrived.said


class Door:
    """A coordinator with a door, on files: takes bundles, judges an id once, hands out releases.

    Attributes:
        step: Called between any two things that the other side does.
        trouble: Raised instead of taking the next bundle.
        answer: Given instead of a verdict.
        verdict: On every submission.
    """

    address = Address("charity", "charity.example", 22)
    alive = True
    verdict = "accepted"

    def __init__(self, folder: Path, key: PrivateKey, site: PrivateKey) -> None:
        self.arrived, self.releases = folder / "arrived", folder / "releases"
        self.key, self.site = key, site
        self.model = folder / "model.safetensors"
        self.step: Step = lambda: None
        self.trouble: Exception | None = None
        self.answer: Answer | None = None
        self.asked: list[str] = []
        self.later = "charity: no release yet"
        self.path = folder / "ledger.db"
        if not self.arrived.exists():
            self.arrived.mkdir(parents=True)
            self.releases.mkdir()
            write_weights(self.model, {"w": np.zeros(4, np.float32)}, SPEC)
            self.append("genesis", coordinator=key.public.line, **self.agreed())
            self.release()

    def append(self, event: str, **fields: Any) -> Record:
        ledger = Ledger.create(self.path)
        try:
            return ledger.append(event, fields, self.key)
        finally:
            ledger.close()

    def agreed(self) -> dict[str, Any]:
        return {"federation": "lungs", "plan": {"batch_size": 8}, "architecture": read_header(self.model).architecture}

    def release(self, signer: PrivateKey | None = None, told: dict[str, Any] | None = None, **changes: Any) -> Record:
        """A new release of the same model; `told` stands in its record as well as in it, `changes` only in it."""
        blob = Blob(files.sha256_file(self.model), self.model.stat().st_size)
        same = {"metrics": {"accuracy": 0.5}, "federation": {"name": "lungs", "state": "open"}} | (told or {})
        record = self.append("release", model=vars(blob), recipients=[self.site.public.fingerprint], **same)
        agreed = self.agreed()
        fields: dict[str, Any] = {
            "id": new_id(), "sender": "charity", "recipients": [], "model": blob, "sealed": blob,
            "architecture": agreed["architecture"], "sequence": record.sequence, "head": record.hash,
            "plan": agreed["plan"], "created": now(), **same,
        }  # fmt: skip
        path = self.releases / f"{record.sequence:08}.bundle"
        bundle.seal(self.model, Release(**(fields | changes)), signer or self.key, [self.site.public], path)
        return record

    def ship(self, path: Path, progress: object = None, meanwhile: Step | None = None) -> None:
        self.step()
        if self.trouble:
            trouble, self.trouble = self.trouble, None
            raise trouble
        if meanwhile:
            meanwhile()
        part = self.arrived.parent / "part"
        part.write_bytes(path.read_bytes())
        os.rename(part, self.arrived / f"{len(list(self.arrived.iterdir())):04}.bundle")
        self.step()

    def begin(self, *words: str | int) -> Any:
        door = self

        class Call:
            def answer(self, timeout: float = 0, max_bytes: int = 0) -> Answer:
                return door.ask(*words)

            def close(self) -> None: ...

        return Call()

    def ask(self, *words: str | int, timeout: float = 0, max_bytes: int = 0) -> Answer:
        self.step()
        if self.answer:
            return self.answer
        verb, id = str(words[0]), str(words[-1])
        assert verb == "verdict"
        line = self.judge(id)
        return Answer(0, line, "") if line else Answer(4, b"", f"no verdict on {id} yet")

    def judge(self, id: str) -> bytes | None:
        ledger = Ledger.create(self.path)
        try:
            if found := ledger.find("alice-1", id):
                return found.line()
            for path in sorted(self.arrived.iterdir()):
                manifest = said(path)
                if manifest["id"] == id:
                    event = "report" if manifest["kind"] == "report" else self.verdict
                    fields = {"site": "alice-1", "submission": id, "model": manifest.get("model"), "reason": "why not"}
                    return ledger.append(event, fields | {"metrics": {"accuracy": 0.75, "loss": 0.5}}, self.key).line()
            return None
        finally:
            ledger.close()

    def stream(self, *words: str | int, into: Path, max_bytes: int, timeout: float = 0) -> Answer:
        self.step()
        after = int(words[words.index("--after") + 1])
        if words[0] == "history":
            into.write_bytes(b"".join(self.history(after)))
        else:
            newest = max(self.releases.iterdir())
            if int(newest.stem) <= after:
                return Answer(4, b"", self.later)
            into.write_bytes(newest.read_bytes())
        self.step()
        return Answer(0, b"", "")

    def line(self, *words: str | int, max_bytes: int) -> Answer:
        self.step()
        self.asked.append(" ".join(map(str, words)))
        return Answer(0, b"".join(self.history(int(words[-1]))[:1]), "")

    def history(self, after: int) -> list[bytes]:
        ledger = Ledger.create(self.path)
        try:
            return [record.line() for record in ledger.records(after)]
        finally:
            ledger.close()


@dataclass
class World:
    """A site's Bob without threads, and the door it talks to."""

    root: Path
    keys: dict[str, PrivateKey]
    said: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        key = self.keys["alice-1"]
        self.exchange, self.folder = self.root / "exchange", Folder(self.root / "site")
        self.folder.path.mkdir(exist_ok=True)
        (self.exchange / "outgoing").mkdir(parents=True, exist_ok=True)
        site = Site("alice-1", "charity", "charity.example", 22, "", self.keys["coordinator"].public)
        self.receipts, self.spool = Receipts(self.folder.receipts), Spool(self.folder.spool)
        self.outgoing = Outgoing(self.exchange, site, key, self.spool, self.receipts, self.say, 1 << 20)
        self.incoming = Incoming(self.exchange, self.folder, site, key, self.say, 1 << 20)
        self.shipping = Shipping(site, self.spool, self.receipts, self.say, 0)
        self.door = Door(self.root / "coordinator", self.keys["coordinator"], key)

    def say(self, event: str, text: str, **fields: Any) -> None:
        self.said.append((event, text))

    def start(self) -> None:
        """What Bob does at start."""
        self.incoming.tidy()
        self.spool.tidy()
        self.shipping.tidy()

    def ship_all(self) -> None:
        self.outgoing.take_all(RUN)
        while self.shipping.ship_next(self.door, RUN):  # type: ignore[arg-type]
            pass

    def fetch(self) -> bool:
        return self.incoming.fetch(self.door, 0, 1.0)

    def publish(self, session: int = 1, epoch: int = 1, **changes: Any) -> str:
        """What Alice lays out; returns the id."""
        id = changes.pop("id", None) or new_id()
        model = self.exchange / "outgoing" / f"{id}.safetensors"
        header = write_weights(model, {"w": np.full(4, epoch, np.float32)}, SPEC)
        fields: dict[str, Any] = {
            "id": id, "architecture": header.architecture, "builds_on": 2, "session": session, "epoch": epoch,
            "examples": 9, "metrics": Local(0.5, 0.5), "started": now(), "created": now(),
        }  # fmt: skip
        files.write_whole(model.with_suffix(".json"), Claim(**(fields | changes)).to_bytes())
        return str(id)

    def report(self, session: int = 1) -> str:
        over = SessionOver(
            id=new_id(), builds_on=2, session=session, epochs=3, checkpoints=1, examples=9, metrics=None,
            started=now(), created=now(),
        )  # fmt: skip
        files.write_whole(self.exchange / "outgoing" / f"{over.id}.json", over.to_bytes())
        return over.id

    def verdicts(self) -> dict[str, str]:
        """By id; an id that has two receipts is an error."""
        found: dict[str, str] = {}
        for receipt in self.receipts:
            assert receipt["id"] not in found
            found[receipt["id"]] = receipt["verdict"]
        return found

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.exchange / folder).glob("*"))

    def arrivals(self) -> list[str]:
        return [said(path)["id"] for path in sorted(self.door.arrived.iterdir())]
