"""Checking an exported history by itself: every hash, link, signature and decision. No coordinator is needed for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedssh.chain import MAX_LINE_BYTES, record_of
from fedssh.errors import LedgerError, SettingsError
from fedssh.history.published import NoRecord, Published
from fedssh.keys import PublicKey, parse_public
from fedssh.ledger import checked, read_export
from fedssh.rules.events import Record
from fedssh.rules.replay import Replay
from fedssh.signature import read_allowed_signers

COORDINATOR = "charity"  # her name in allowed_signers


def check_export(export: Path, signers: Path | None, head: str | None = None) -> dict[str, Any]:
    """Check an exported history. scripts/verify refuses the same, but for decisions, which it does not look at.

    Args:
        export: What `history --export` printed.
        signers: allowed_signers, with the coordinator's key under her name; without it her key is what record 1 says,
            so that its fingerprint has to be compared by whoever reads it.
        head: The hash of a record that must be in the history, as somebody noted it earlier.

    Returns:
        `records`, `head`, the `coordinator`'s fingerprint, and as `unchecked` how often somebody's word had to do.

    Raises:
        SettingsError: A file cannot be read, or names no coordinator.
        LedgerError: Names the first record that is not as it must be.
        DecisionError: Names the first record that the federation's own rules do not give.
    """
    try:
        with open(export, "rb") as file, open(export, "rb") as again:
            coordinator = _signer(signers) if signers else _said_to_be(file.readline(MAX_LINE_BYTES + 1))
            file.seek(0)
            published = Published(again)
            replay = Replay(look_up=lambda number: _looked_up(published, number))
            lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
            for record in through(checked(read_export(lines, growing=False), coordinator), head):
                if record.sequence == 1:
                    _check_coordinator(record, coordinator)
                replay.follow(record)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read: {error}") from None
    if replay.state is None:
        raise LedgerError(f"{export} holds no record")
    return {
        "records": replay.state.sequence,
        "head": replay.state.head,
        "coordinator": coordinator.fingerprint,
        "unchecked": dict(replay.unchecked),
    }


def through(records: Iterable[Record], head: str | None) -> Iterator[Record]:
    """The records, when the one that somebody noted earlier is among them."""
    seen = head is None
    for record in records:
        seen = seen or record.hash == head
        yield record
    if not seen:
        raise LedgerError(
            f"no record has the hash {head}", "the history was cut off before it, or is another one; ask its operator"
        )


def _check_coordinator(first: Record, coordinator: PublicKey) -> None:
    """See that who signed the history is whom it names; a history without processes names nobody."""
    named = first.fields.get("coordinator", coordinator.line)
    if named != coordinator.line:
        raise LedgerError("record 1 names another coordinator than the one who signed it")


def _signer(signers: Path) -> PublicKey:
    found = read_allowed_signers(signers.read_text()).get(COORDINATOR)
    if found is None:
        raise SettingsError(f"{signers} has no line for {COORDINATOR}")
    return found


def _said_to_be(line: bytes) -> PublicKey:
    """The key that the first record names."""
    if not line:
        raise LedgerError("the history holds no record")
    key = record_of(line).fields.get("coordinator")
    return parse_public(str(key), "the coordinator's key in record 1")


def _looked_up(published: Published, number: int) -> Record:
    try:
        return record_of(published.line(number))
    except (NoRecord, ValueError) as error:  # it is not there, or damaged on the way to it
        raise LedgerError(f"record {number} cannot be looked up: {error}") from None
