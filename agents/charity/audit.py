"""Checking everything the coordinator holds against its signed history."""

from __future__ import annotations

from typing import Any

from agents.charity.folders import Folders
from agents.charity.vault import check_history, model_records
from agents.errors import LedgerError
from agents.files import sha256_file
from agents.keys import load_public, parse_public
from agents.ledger import Ledger, verify


def audit(folders: Folders) -> dict[str, Any]:
    """Recompute the chain, every signature and every stored model file, and compare what is published.

    Raises:
        LedgerError: Names the first thing that is not as it must be.
    """
    ledger = Ledger(folders.ledger)
    ledger.check()
    records = ledger.records()
    if not records:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    coordinator = parse_public(records[0].fields["coordinator"], "the coordinator's key in record 1")
    if load_public(folders.key.with_name(folders.key.name + ".pub")) != coordinator:
        raise LedgerError(f"record 1 names {coordinator.fingerprint} as the coordinator, the vault holds another key")
    verify(records, coordinator)
    kept = model_records(records)
    for record in kept:
        wanted = record.fields["model"]["sha256"]
        path = folders.model(wanted)
        if not path.is_file():
            raise LedgerError(f"the model of record {record.sequence} is not at {path}")
        if (found := sha256_file(path)) != wanted:
            raise LedgerError(f"{path} hashes to {found}, which is not the model of record {record.sequence}")
    check_history(folders, ledger)
    return {
        "records": len(records),
        "head": records[-1].hash,
        "models": len({record.fields["model"]["sha256"] for record in kept}),
    }
