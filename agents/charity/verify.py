"""Checking everything the coordinator holds against its signed history, or an exported history by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedssh.chain import MAX_LINE_BYTES
from fedssh.charity.folders import Folders
from fedssh.charity.vault import COORDINATOR, check_history, publish_history
from fedssh.errors import LedgerError, SettingsError
from fedssh.files import locked, sha256_file
from fedssh.keys import load_public, parse_public
from fedssh.ledger import Ledger, checked, read_export
from fedssh.rules.events import Record
from fedssh.rules.vocabulary import MAKES_CURRENT
from fedssh.signature import read_allowed_signers


def audit(folders: Folders, head: str | None = None) -> dict[str, Any]:
    """Recompute the chain, every signature and every stored model file, and compare and repair what is published.

    Args:
        folders: An initialised coordinator's.
        head: The hash of a record that must be in the history, as somebody noted it earlier.

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
    for newest in _through(checked(ledger.iterate(), coordinator), head):
        if newest.event in MAKES_CURRENT:
            _check_model(folders, newest, models)
    assert newest is not None
    with locked(folders.vault / "lock"):  # nobody appends meanwhile, so a half line is a damaged one
        check_history(folders, ledger)
        publish_history(folders, ledger)
    return {"records": newest.sequence, "head": newest.hash, "models": len(models)}


def check_export(export: Path, signers: Path, head: str | None = None) -> dict[str, Any]:
    """Check an exported history as scripts/verify does; both refuse the same.

    Args:
        export: What `history --export` printed.
        signers: allowed_signers, with the coordinator's key under her name.
        head: The hash of a record that must be in the history, as somebody noted it earlier.

    Raises:
        SettingsError: A file cannot be read, or names no coordinator.
        LedgerError: Names the first record that is not as it must be.
    """
    try:
        coordinator = read_allowed_signers(signers.read_text()).get(COORDINATOR)
        if coordinator is None:
            raise SettingsError(f"{signers} has no line for {COORDINATOR}")
        newest: Record | None = None
        with open(export, "rb") as file:
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for record in _through(checked(read_export(lines, growing=False), coordinator), head):
                newest = record
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read: {error}") from None
    if newest is None:
        raise LedgerError(f"{export} holds no record")
    return {"records": newest.sequence, "head": newest.hash, "coordinator": coordinator.fingerprint}


def _through(records: Iterable[Record], head: str | None) -> Iterator[Record]:
    """The records, when the one that somebody noted earlier is among them."""
    seen = head is None
    for record in records:
        seen = seen or record.hash == head
        yield record
    if not seen:
        raise LedgerError(
            f"no record has the hash {head}", "the history was cut off before it, or is another one; ask its operator"
        )


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
