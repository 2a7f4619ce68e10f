"""A site as its Alice sees it: folders, and the releases that a coordinator lays out in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Received
from fedssh.alice.terms import read_terms
from fedssh.chain import Seen
from fedssh.keys import PrivateKey
from fedssh.weights import write_weights
from tests.harness.releases import Coordinator

SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}
PLAN = {"batch_size": 8, "epochs": 3, "patience": 10, "optimizer": "adam", "learning_rate": 0.01, "loss": "auto"}


class Site:
    """A site's folders, and the coordinator that it has agreed to."""

    def __init__(self, folder: Path, key: PrivateKey) -> None:
        self.exchange = Exchange(folder / "exchange")
        self.exchange.tidy()
        self.state = folder / "alice"
        self.state.mkdir()
        self.coordinator = Coordinator(key, SPEC, PLAN)

    @property
    def incoming(self) -> Path:
        return self.exchange.incoming

    def model(self, sequence: int, spec: dict[str, Any] = SPEC) -> Path:
        path = self.incoming / f"{sequence:08}.safetensors"
        write_weights(path, {"dense1/kernel": np.full((4, 2), sequence, np.float32)}, spec)
        return path

    def release(self, sequence: int = 7, coordinator: Coordinator | None = None, **changes: Any) -> Path:
        """Lay a release out; returns its note."""
        self.model(sequence, changes.pop("spec", SPEC))
        return (coordinator or self.coordinator).lay_out(self.incoming, sequence, **changes)

    def newest(self, seen: Seen | None = None, site: str | None = "alice-1") -> Received | None:
        return self.exchange.newest(read_terms(self.coordinator.genesis), self.state, site, seen or Seen())
