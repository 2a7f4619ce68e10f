"""A coordinator for tests of a site: her records and releases are really signed, her rules and her door are not here.

Coordinator(key, spec, plan).lay_out(incoming, sequence, model)   what Bob does when a release arrives
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedssh import files, manifest
from fedssh.chain import Seen
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.manifest import Release
from fedssh.rules.events import Blob
from fedssh.signature import LEDGER, RELEASE, sign
from fedssh.weights import architecture_hash

AGREED: dict[str, Any] = {
    "federation": "test", "policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None,
}  # fmt: skip
SITES = ["alice-1", "alice-2"]


class Coordinator:
    """Signs for one federation.

    Args:
        key: Her private key.
        spec: The architecture.
        plan: The training plan.
        agreed: Fields of the genesis record that are to be otherwise than usual.
    """

    def __init__(self, key: PrivateKey, spec: Mapping[str, Any], plan: Mapping[str, Any], **agreed: Any) -> None:
        self.key = key
        self.agreed: dict[str, Any] = {
            **AGREED,
            "spec": dict(spec),
            "architecture": architecture_hash(dict(spec)),
            "plan": dict(plan),
            "coordinator": key.public.line,
            **agreed,
        }
        self.genesis = self.line(1, "genesis", **self.agreed)
        self.hash: str = json.loads(self.genesis)["hash"]

    def line(self, sequence: int, event: str, **fields: Any) -> bytes:
        """A signed ledger line, without newline."""
        previous = Seen().head if sequence == 1 else hashlib.sha256(str(sequence - 1).encode()).hexdigest()
        time = "2026-01-31T12:00:00.123Z"  # a record of the same content is the same record
        text = canonical({"sequence": sequence, "previous": previous, "event": event, "time": time, **fields})
        digest = hashlib.sha256(text).hexdigest()
        signature = sign(text, self.key, LEDGER)
        return canonical({"sequence": sequence, "hash": digest, "record": text.decode(), "signature": signature})

    def invitation(self, site: str = "alice-1") -> dict[str, Any]:
        """What the site is invited with, as far as Alice reads it."""
        return {
            "fedssh": 1, "site": site, "role": "site", "coordinator": self.key.public.line, "genesis": self.hash,
        }  # fmt: skip

    def release(self, sequence: int, model: Path, **changes: Any) -> tuple[Release, bytes]:
        """A release of a model file and the ledger line of its record.

        Args:
            changes: Fields of the manifest that are to be otherwise than usual; `federation` and `metrics` change the
                record, too, so that the two agree.
        """
        agreed = self.agreed
        federation = {
            "name": agreed["federation"], "policy": agreed["policy"], "gate": agreed["gate"],
            "margin": agreed["margin"], "schedule": agreed["schedule"], "turn": None, "state": "open",
            "sessions": agreed["sessions"], "sites": SITES, **changes.pop("federation", {}),
        }  # fmt: skip
        metrics = changes.pop("metrics", {"loss": 0.7, "accuracy": 0.5})
        blob, recipients = Blob(files.sha256_file(model), model.stat().st_size), [self.key.public.fingerprint]
        record = self.line(
            sequence, "release", of=1, model={"sha256": blob.sha256, "size": blob.size}, metrics=metrics,
            federation=federation, recipients=recipients,
        )  # fmt: skip
        fields: dict[str, Any] = {
            "id": manifest.new_id(), "sender": "charity", "recipients": recipients, "model": blob, "sealed": blob,
            "architecture": agreed["architecture"], "sequence": sequence, "head": json.loads(record)["hash"],
            "metrics": metrics, "plan": agreed["plan"], "federation": federation, "created": manifest.now(),
        }  # fmt: skip
        return Release(**(fields | changes)), record

    def note(self, release: Release, record: bytes, site: str = "alice-1") -> dict[str, Any]:
        """What stands beside a model in `incoming`."""
        text = release.to_bytes()
        return {
            "site": site, "manifest": json.loads(text), "signature": sign(text, self.key, RELEASE),
            "record": record.decode(),
        }  # fmt: skip

    def lay_out(self, incoming: Path, sequence: int, **changes: Any) -> Path:
        """Lay out the release of the model that lies there under its final name; returns the note."""
        files.write_whole(incoming / "genesis.json", self.genesis + b"\n")
        model = incoming / f"{sequence:08}.safetensors"
        note = model.with_suffix(".json")
        files.write_whole(note, canonical(self.note(*self.release(sequence, model, **changes))))
        return note


def write_status(incoming: Path, **fields: Any) -> None:
    """What Bob says of the door."""
    status = {"newest": None, "confirmed": None, "refused_since": None, "reason": None, **fields}
    files.write_whole(incoming / "status.json", canonical(status))
