"""The coordinator's folders: what lies where under `--state`, and who may see it.

vault/     Charity only: coordinator_key, ledger.db, snapshot.json, charity.json, models/, claimed/, opened/,
               evidence/, updates/ (of the open round), server/ (state of a server optimizer),
               garbage/ (counts of what was dropped and is not recorded yet)
inbox/     written by the door, emptied by the vault: <site>/<arrival>.bundle
outbox/    written by the vault, read by the door: ledger.jsonl, summary.json, sites.json, verdicts/, releases/
door/      the door only: host_key, its logs and generated files
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """Where everything lies.

    Args:
        state: The folder given as `--state`.
    """

    state: Path

    @property
    def vault(self) -> Path:
        return self.state / "vault"

    @property
    def inbox(self) -> Path:
        return self.state / "inbox"

    @property
    def outbox(self) -> Path:
        return self.state / "outbox"

    @property
    def key(self) -> Path:
        return self.vault / "coordinator_key"

    @property
    def ledger(self) -> Path:
        return self.vault / "ledger.db"

    @property
    def snapshot(self) -> Path:
        return self.vault / "snapshot.json"

    @property
    def published(self) -> Path:
        return self.outbox / "ledger.jsonl"

    @property
    def summary(self) -> Path:
        return self.outbox / "summary.json"

    @property
    def garbage(self) -> Path:
        return self.vault / "garbage"

    @property
    def settings(self) -> Path:
        return self.vault / "charity.json"

    @property
    def claimed(self) -> Path:
        return self.vault / "claimed"

    @property
    def opened(self) -> Path:
        return self.vault / "opened"

    @property
    def models(self) -> Path:
        return self.vault / "models"

    @property
    def evidence(self) -> Path:
        return self.vault / "evidence"

    @property
    def updates(self) -> Path:
        return self.vault / "updates"

    @property
    def server(self) -> Path:
        return self.vault / "server"

    @property
    def releases(self) -> Path:
        return self.outbox / "releases"

    @property
    def host_key(self) -> Path:
        return self.state / "door" / "host_key"

    def model(self, sha256: str) -> Path:
        """The file of an accepted model."""
        return self.models / f"{sha256}.safetensors"

    def update(self, sha256: str) -> Path:
        """The file of an update of the open round."""
        return self.updates / f"{sha256}.safetensors"

    def server_state(self, sha256: str) -> Path:
        """A file of the server optimizer's state."""
        return self.server / f"{sha256}.safetensors"

    def verdict(self, site: str, submission: str) -> Path:
        """The file of a verdict."""
        return self.outbox / "verdicts" / site / f"{submission}.json"

    def make(self) -> None:
        """Create what is missing; only the owner can enter the vault."""
        vault = (self.claimed, self.opened, self.models, self.evidence, self.updates, self.server, self.garbage)
        for folder in (*vault, self.inbox, self.releases, self.outbox / "verdicts"):
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # a volume whose root belongs to somebody else
            self.vault.chmod(0o700)
