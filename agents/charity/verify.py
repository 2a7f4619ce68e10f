"""Checking everything the coordinator holds against its signed history; an exported one is for `fedssh.verify`."""

from __future__ import annotations

from typing import Any

from fedssh.charity.folders import Folders
from fedssh.charity.vault import check_history, publish_history
from fedssh.errors import LedgerError
from fedssh.files import locked, sha256_file
from fedssh.keys import load_public, parse_public
from fedssh.ledger import Ledger, checked
from fedssh.rules.events import Record
from fedssh.rules.replay import Replay
from fedssh.rules.vocabulary import MAKES_CURRENT
from fedssh.verify import through


def audit(folders: Folders, head: str | None = None) -> dict[str, Any]:
    """Recompute the chain, every signature, decision and stored model file; compare and repair what is published.

    Args:
        folders: An initialised coordinator's.
        head: The hash of a record that must be in the history, as somebody noted it earlier.

    Raises:
        LedgerError: Names the first thing that is not as it must be.
        DecisionError: Names the first record that the federation's own rules do not give.
    """
    ledger = Ledger(folders.ledger)
    ledger.check()
    if ledger.head() is None:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    coordinator = parse_public(ledger.record(1).fields["coordinator"], "the coordinator's key in record 1")
    if load_public(folders.key.with_name(folders.key.name + ".pub")) != coordinator:
        raise LedgerError(f"record 1 names {coordinator.fingerprint} as the coordinator, the vault holds another key")
    models: set[str] = set()
    replay = Replay(look_up=ledger.record)
    for record in through(checked(ledger.iterate(), coordinator), head):
        replay.follow(record)
        if record.event in MAKES_CURRENT:
            _check_model(folders, record, models)
    assert replay.state is not None
    with locked(folders.vault / "lock"):  # nobody appends meanwhile, so a half line is a damaged one
        check_history(folders, ledger)
        publish_history(folders, ledger)
    return {
        "records": replay.state.sequence,
        "head": replay.state.head,
        "models": len(models),
        "unchecked": dict(replay.unchecked),
    }


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
