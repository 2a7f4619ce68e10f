"""The records of a federation's history."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from fedssh.errors import LedgerError
from fedssh.forms import canonical

START = "0" * 64
JUDGED = ("accepted", "refused", "counted", "invalid", "report")


@dataclass(frozen=True)
class Record:
    """One event, as signed."""

    sequence: int
    hash: str
    text: bytes
    signature: str

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """What the record says; check with `verify` before trusting it."""
        fields = json.loads(self.text)
        if not isinstance(fields, dict):
            raise LedgerError(f"record {self.sequence} is not a JSON object")
        return fields

    @property
    def event(self) -> str:
        """What happened: genesis, accepted, release, …"""
        return str(self.fields.get("event"))

    def line(self) -> bytes:
        """The record as one line of the export. A verdict is this line."""
        text = self.text.decode()
        return (
            canonical({"sequence": self.sequence, "hash": self.hash, "record": text, "signature": self.signature})
            + b"\n"
        )
