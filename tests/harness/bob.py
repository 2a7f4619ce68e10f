"""Around Bob, on files: the exchange, his site's folder, and a coordinator with a door who keeps her own rules."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import bundle, files
from fedssh.address import Address
from fedssh.bob.incoming import Incoming
from fedssh.bob.outgoing import Outgoing
from fedssh.bob.receipts import Receipts
from fedssh.bob.shipping import Shipping
from fedssh.bob.site import Folder, Site
from fedssh.bob.spool import Spool
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.manifest import Claim, Release, SessionOver, Submission, new_id, now
from fedssh.rules import events, records
from fedssh.rules.events import (
    Blob,
    Event,
    Genesis,
    Local,
    Record,
    Released,
    SiteAdded,
    SiteRevoked,
)
from fedssh.rules.federation import Federation, derive
from fedssh.rules.gate import decide
from fedssh.rules.records import Over, Sent
from fedssh.transport import Answer
from fedssh.weights import read_header, write_weights

SPEC = {"name": "mlp", "input": [2], "classes": 2}
RUN = threading.Event()  # never set: do not stop
Step = Callable[[], None]


def said(path: Path) -> dict[str, Any]:
    """What a bundle's manifest says."""
    with bundle.read(path) as arrived:
        return arrived.said


def scores(accuracy: float) -> dict[str, Any]:
    """What a model scores on the coordinator's images."""
    return {"accuracy": accuracy, "loss": 0.5}


class Door:
    """A coordinator with a door, on files: takes bundles, judges an id once, hands out releases.

    Her history is one that the rules give: record 2 enrols the site, record 3 is the first release. In rounds record 3
    opens one.

    Args:
        keys: By name; who is enrolled later is alice-3.
        name: Whose key signs.
        sites: Who is enrolled at the beginning.
        agreed: Members of the genesis that are to be otherwise than usual.

    Attributes:
        step: Called between any two things that the other side does.
        trouble: Raised instead of taking the next bundle.
        answer: Given instead of a verdict.
        asked: For which single lines of the history.
        followed: After which record the history was asked for.
    """

    address = Address("charity", "charity.example", 22)
    alive = True

    def __init__(
        self,
        folder: Path,
        keys: dict[str, PrivateKey],
        name: str = "coordinator",
        sites: tuple[str, ...] = ("alice-1",),
        **agreed: Any,
    ) -> None:
        self.arrived, self.releases = folder / "arrived", folder / "releases"
        self.keys, self.key, self.site = keys, keys[name], keys["alice-1"]
        self.model = folder / "model.safetensors"
        self.step: Step = lambda: None
        self.trouble: Exception | None = None
        self.answer: Answer | None = None
        self.asked: list[str] = []
        self.followed: list[int] = []
        self.later = "charity: no release yet"
        self.path = folder / "ledger.db"
        if not self.arrived.exists():
            self.arrived.mkdir(parents=True)
            self.releases.mkdir()
            write_weights(self.model, {"w": np.zeros(4, np.float32)}, SPEC)
            self.append(Genesis(**self.terms() | agreed))
            for site in sites:
                self.enrol(site)
            self.open_round()
            self.release()

    def terms(self) -> dict[str, Any]:
        return {
            "federation": "lungs", "spec": SPEC, "plan": {"batch_size": 8, "metric": "accuracy"}, "policy": "best",
            "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None, "coordinator": self.key.public.line,
            "architecture": read_header(self.model).architecture, "model": self.blob(), "metrics": scores(0.5),
            "examples": 9, "seed": 0,
        }  # fmt: skip

    def blob(self) -> events.Blob:
        return events.Blob(sha256=files.sha256_file(self.model), size=self.model.stat().st_size)

    def state(self) -> Federation:
        state: Federation = self.held(lambda ledger: derive(ledger.iterate()))
        return state

    def held(self, work: Callable[[Ledger], Any]) -> Any:
        ledger = Ledger.create(self.path)
        try:
            return work(ledger)
        finally:
            ledger.close()

    def append(self, event: Event) -> Record:
        record: Record = self.held(lambda ledger: ledger.append(event.name, event.fields(), self.key))
        return record

    def enrol(self, site: str) -> Record:
        return self.append(SiteAdded(site=site, role="site", key=self.keys[site].public.line))

    def due_release(self) -> Released:
        """What the next release says; where none is due, alice-3 comes or goes."""
        if (due := self.state().due_release()) is None:
            if "alice-3" in [site.name for site in self.state().sites]:
                self.append(SiteRevoked(site="alice-3", reason="left the federation"))
            else:
                self.enrol("alice-3")
            due = self.state().due_release()
        assert due is not None
        return due

    def release(self, signer: PrivateKey | None = None, said: Released | None = None, **changes: Any) -> Record:
        """The next release, as it is due or as it is said; `changes` stand in its manifest, and not in its record."""
        said = said or self.due_release()
        record, agreed = self.append(said), self.state().genesis
        path = self.model_file(said.model.sha256)
        fields: dict[str, Any] = {
            "id": new_id(), "sender": "charity", "recipients": [], "model": Blob(**said.model.fields()),
            "sealed": Blob(**said.model.fields()), "architecture": agreed.architecture, "sequence": record.sequence,
            "head": record.hash, "plan": dict(agreed.plan), "created": now(), "metrics": dict(said.metrics),
            "federation": said.federation.fields(),
        }  # fmt: skip
        out = self.releases / f"{record.sequence:08}.bundle"
        bundle.seal(path, Release(**(fields | changes)), signer or self.key, [self.site.public], out)
        return record

    def model_file(self, sha256: str) -> Path:
        """A model that became current: the first one, or one that arrived."""
        if sha256 == self.blob().sha256:
            return self.model
        path = self.arrived.parent / f"{sha256}.safetensors"
        for one in self.arrived.iterdir():
            with bundle.read(one) as arrived:
                if not path.exists() and arrived.model_sha256 == sha256:
                    arrived.verify(self.site.public, Submission)
                    arrived.extract(path, self.key)
        return path

    def sent(self, site: str = "alice-1", **changes: Any) -> Sent:
        """A submission of the first model, which trained from the newest release."""
        state = self.state()
        assert state.release is not None and isinstance(state.release.said, Released)
        fields: dict[str, Any] = {
            "site": site, "submission": new_id(), "session": 1, "epoch": 1, "examples": 9,
            "builds_on": state.release.sequence, "started": state.release.said.federation.started,
            "claim": events.Local(loss=0.5, accuracy=0.5), "model": self.blob(),
            "architecture": state.genesis.architecture,
        }  # fmt: skip
        return Sent(**fields | changes)

    def scored(self, sent: Sent, accuracy: float) -> events.Verdict:
        """The verdict on a submission that scores so."""
        state = self.state()
        if state.policy.rounds:
            return records.counted(state, sent)
        mixes, current = [(1.0, scores(accuracy))], state.current
        decided = decide(state.policy, state.gate, state.metric, current.metrics, current.bar, mixes)
        return records.verdict(state, sent, decided, 0, sent.model)

    def open_round(self) -> None:
        if self.state().policy.rounds and (opening := records.opening(self.state())):
            self.append(opening)

    def closing(self, accuracy: float) -> Event:
        """The end of the open round, whose result is the first model and scores so."""
        state = self.state()
        assert state.round is not None
        decided = records.gated(state, len(state.round.updates), scores(accuracy))
        shares = state.policy.shares_of([update.examples for update in records.in_order(state.round)])
        assert shares is not None
        if decided.accept:
            return records.closed(state, state.round, decided, shares, self.blob(), [])
        return records.closed_empty(state, state.round, decided, shares)

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
        if found := self.held(lambda ledger: ledger.find("alice-1", id)):
            return bytes(found.line())
        for path in sorted(self.arrived.iterdir()):
            if (manifest := said(path))["id"] == id:
                return self.append(self.verdict(manifest)).line()
        return None

    def verdict(self, manifest: dict[str, Any]) -> Event:
        """On what arrived: each model is a little better than the one before."""
        same = {name: manifest[name] for name in ("session", "examples", "builds_on")}
        started = self.held(lambda ledger: ledger.record(manifest["builds_on"])).said.federation.started
        claim = manifest["metrics"] and events.Local(**manifest["metrics"])
        if manifest["kind"] == "report":
            counts = {name: manifest[name] for name in ("epochs", "checkpoints")}
            over = Over(site="alice-1", submission=manifest["id"], metrics=claim, started=started, **same, **counts)
            return records.reported(self.state(), over)
        sent = self.sent(
            submission=manifest["id"], epoch=manifest["epoch"], claim=claim, model=Blob(**manifest["model"]),
            architecture=manifest["architecture"], started=started, **same,
        )  # fmt: skip
        return self.scored(sent, round(self.state().current.metrics["accuracy"] + 0.01, 4))

    def stream(self, *words: str | int, into: Path, max_bytes: int, timeout: float = 0) -> Answer:
        self.step()
        after = int(words[words.index("--after") + 1])
        if words[0] == "history":
            self.followed.append(after)
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
        return [record.line() for record in self.held(lambda ledger: ledger.records(after))]


@dataclass
class World:
    """A site's Bob without threads, and the door it talks to."""

    root: Path
    keys: dict[str, PrivateKey]
    agreed: dict[str, Any] = field(default_factory=dict)
    sites: tuple[str, ...] = ("alice-1",)
    said: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        key = self.keys["alice-1"]
        self.exchange, self.folder = self.root / "exchange", Folder(self.root / "site")
        self.folder.path.mkdir(exist_ok=True)
        (self.exchange / "outgoing").mkdir(parents=True, exist_ok=True)
        site = Site("alice-1", "charity", "charity.example", 22, "", self.keys["coordinator"].public)
        self.receipts, self.spool = Receipts(self.folder.receipts), Spool(self.folder.spool)
        self.outgoing = Outgoing(self.exchange, site, key, self.spool, self.receipts, self.say, 1 << 20)
        self.site, self.incoming = site, self.bob(site)
        self.shipping = Shipping(site, self.spool, self.receipts, self.say, 0)
        self.door = Door(self.root / "coordinator", self.keys, sites=self.sites, **self.agreed)

    def bob(self, site: Site | None = None, refuse: bool = True) -> Incoming:
        """One that remembers what is in files only."""
        key = self.keys["alice-1"]
        return Incoming(self.exchange, self.folder, site or self.site, key, self.say, 1 << 20, refuse)

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
            "id": id, "architecture": header.architecture, "builds_on": 3, "session": session, "epoch": epoch,
            "examples": 9, "metrics": Local(0.5, 0.5), "started": now(), "created": now(),
        }  # fmt: skip
        files.write_whole(model.with_suffix(".json"), Claim(**(fields | changes)).to_bytes())
        return str(id)

    def report(self, session: int = 1, builds_on: int = 3) -> str:
        over = SessionOver(
            id=new_id(), builds_on=builds_on, session=session, epochs=3, checkpoints=1, examples=9, metrics=None,
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
