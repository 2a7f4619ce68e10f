"""Checking everything the coordinator holds against its signed history."""

from __future__ import annotations

from typing import Any

from agents.charity.folders import Folders
from agents.charity.vault import MAKES_CURRENT, check_history
from agents.errors import LedgerError
from agents.files import sha256_file
from agents.keys import load_public, parse_public
from agents.ledger import Ledger, Record, checked


def audit(folders: Folders) -> dict[str, Any]:
    """Recompute the chain, every signature and every stored model file, and compare what is published.

    Raises:
        LedgerError: Names the first thing that is not as it must be.
    """
    ledger = Ledger(folders.ledger)
    ledger.check()
    if ledger.head() is None:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    coordinator = parse_public(ledger.record(1).fields["coordinator"], "the coordinator's key in record 1")
    if load_public(folders.key.with_name(folders.key.name + ".pub")) != coordinator:
        raise LedgerError(f"record 1 names {coordinator.fingerprint} as the coordinator, the vault holds another key")
    models: set[str] = set()
    newest = None
    for newest in checked(ledger.iterate(), coordinator):
        if newest.event in MAKES_CURRENT:
            _check_model(folders, newest, models)
    assert newest is not None
    check_history(folders, ledger)
    return {"records": newest.sequence, "head": newest.hash, "models": len(models)}


def _check_model(folders: Folders, record: Record, known: set[str]) -> None:
    wanted = record.fields["model"]["sha256"]
    path = folders.model(wanted)
    if wanted in known:
        return
    if not path.is_file():
        raise LedgerError(f"the model of record {record.sequence} is not at {path}")
    if (found := sha256_file(path)) != wanted:
        raise LedgerError(f"{path} hashes to {found}, which is not the model of record {record.sequence}")
    known.add(wanted)
