"""The coordinator's folders: what lies where under `--state`, and who may see it.

    vault/     Charity only: coordinator_key, ledger.db, snapshot.json, charity.json, models/, claimed/, opened/,
               evidence/, updates/ (of the open round), server/ (state of a server optimizer), turn/ (under `split`),
               garbage/ (counts of what was dropped and is not recorded yet), exporting (who has it locked brings the
               history into a tracker)
    inbox/     written by the door, emptied by the vault: <site>/<arrival>.bundle
    outbox/    written by the vault, read by the door: ledger.jsonl, summary.json, verdicts/<site>/<id>.json,
               releases/<record, 8 digits>.bundle, layers/<id>.bundle, coordinator_key.pub, allowed_signers, sites.json:
               {"sites": [{"site": NAME, "role": "site" or "auditor", "key": one OpenSSH line}, …]};
               channel.sock while a turn is on, where the judge listens
    door/      the door only: host_key, its logs and generated files

What lies in the outbox is derived from the vault, and written again where it is missing.
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
        """What only Charity may see: its owner alone can enter it, and the door's container never has it."""
        return self.state / "vault"

    @property
    def inbox(self) -> Path:
        """Bundles that the door has taken whole, by site; the vault moves them on and believes nothing about them."""
        return self.state / "inbox"

    @property
    def outbox(self) -> Path:
        """What the door may read and hand out; the vault alone writes there."""
        return self.state / "outbox"

    @property
    def key(self) -> Path:
        """The coordinator's private key: signs records and releases, opens what sites send. Its .pub lies beside it."""
        return self.vault / "coordinator_key"

    @property
    def ledger(self) -> Path:
        """The history itself, an SQLite database; everything that others read of it is a copy."""
        return self.vault / "ledger.db"

    @property
    def snapshot(self) -> Path:
        """The signed state as of an older record, so that a start is fast; may be removed at any time."""
        return self.vault / "snapshot.json"

    @property
    def published(self) -> Path:
        """The history as the door hands it out, one signed line per record; follows the ledger."""
        return self.outbox / "ledger.jsonl"

    @property
    def summary(self) -> Path:
        """Totals of the history for the door's views; derived, and written anew where it is missing."""
        return self.outbox / "summary.json"

    @property
    def garbage(self) -> Path:
        """Per site, how many worthless arrivals were dropped and no record counts yet."""
        return self.vault / "garbage"

    @property
    def settings(self) -> Path:
        """What later commands need and the history does not tell, such as where the coordinator's data lies."""
        return self.vault / "charity.json"

    @property
    def exporting(self) -> Path:
        """Locked by whoever brings the history into a tracker, whose process it names."""
        return self.vault / "exporting"

    @property
    def claimed(self) -> Path:
        """Bundles taken from the inbox, by site, until their verdict is recorded: out of the door's reach."""
        return self.vault / "claimed"

    @property
    def opened(self) -> Path:
        """Decrypted models, and results of rounds, while they are judged; a start empties it."""
        return self.vault / "opened"

    @property
    def models(self) -> Path:
        """Every model that became current; see `model`."""
        return self.vault / "models"

    @property
    def evidence(self) -> Path:
        """The newest accepted or counted bundles as their sites signed them, by the number of their record."""
        return self.vault / "evidence"

    @property
    def updates(self) -> Path:
        """Models that sites have sent into the open round, see `update`; they go when it closes."""
        return self.vault / "updates"

    @property
    def server(self) -> Path:
        """The server optimizer's state that goes with the current model; see `server_state`."""
        return self.vault / "server"

    @property
    def turn(self) -> Path:
        """Under `split`: where the judge writes down how far the turn at hand is."""
        return self.vault / "turn"

    @property
    def layers(self) -> Path:
        """Under `split` with `weights=sites`: sealed layers of sites, for sites; see `layers_of`."""
        return self.outbox / "layers"

    def layers_of(self, submission: str) -> Path:
        """The bundle with the layers that a submission brought."""
        return self.layers / f"{submission}.bundle"

    @property
    def releases(self) -> Path:
        """Sealed releases for the sites, by the number of their record; older ones than the newest few go."""
        return self.outbox / "releases"

    @property
    def host_key(self) -> Path:
        """The door's private host key, which sites pin; neither the vault nor a model depends on it."""
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
