"""What an operator decides: an earlier model, an end, a new beginning, a model's name. `charity serve` releases it.

That a model was scored on the test split is written down here, too.
"""

from __future__ import annotations

from fedssh.charity.vault import Vault
from fedssh.errors import AgentError, SettingsError
from fedssh.forms import shown
from fedssh.history.table import few
from fedssh.rules import orders, records, tested
from fedssh.rules.events import Blob, Finished, Metrics, Record, Reopened, RolledBack, Tagged, Tested, Untagged
from fedssh.rules.federation import Federation
from fedssh.rules.gate import Decision
from fedssh.rules.orders import Order
from fedssh.rules.typed import ABSENT, Absent

MOST_BY, MOST_NOTE = 64, 1000  # letters


def roll_back(vault: Vault, sequence: int, reason: str) -> Record:
    """Make an earlier model current again. Later candidates are compared with it; an open round ends without a result.

    Raises:
        SettingsError: It is current, or the record did not make a model current.
        AgentError: Its file is gone.
    """
    with vault.locked() as state:
        record = vault.ledger.record(sequence)
        model, metrics = _made(record, "roll back to")
        order = RolledBack(to=sequence, model=model, metrics=metrics, reason=reason)
        _check(state, order)
        _check_stored(vault, record, model)
        _end_round(vault, f"{orders.ROLLED_BACK}{sequence}")  # its updates started from what is taken back
        return vault.append(order)


def finish(vault: Vault, reason: str) -> Record:
    """End the federation; an open round ends without a result.

    Raises:
        SettingsError: It is finished.
    """
    with vault.locked() as state:
        order = Finished(reason=reason)
        _check(state, order)
        _end_round(vault, orders.FINISHED)
        return vault.append(order)


def reopen(vault: Vault, sessions: int | None, reason: str) -> Record:
    """Go on, with another number of sessions per site, or of rounds.

    Args:
        sessions: Past ones included; None is without end.

    Raises:
        SettingsError: It is open, or as many sessions or rounds are done.
    """
    with vault.locked() as state:
        order = Reopened(sessions=sessions, reason=reason)
        _check(state, order, f"give --sessions {state.done + 1} or more" if state.finished else None)
        return vault.append(order)


def tag(vault: Vault, sequence: int, name: str, by: str, note: str | None = None) -> Record:
    """Call the model of a record by a name; if another model has it, it has it no longer.

    Args:
        by: Who does so, and `note` why, in their own words.

    Raises:
        SettingsError: Nothing can be called so, it is called so already, or the record did not make a model current.
        AgentError: Its file is gone.
    """
    if not orders.is_tag(name):
        raise SettingsError(f"no model can be called {shown(name)}", f"names are {orders.TAG_FORM}")
    with vault.locked() as state:
        record = vault.ledger.record(sequence)
        model, _ = _made(record, "name the model of")
        order = Tagged(of=sequence, tag=name, by=_words("--by", by, MOST_BY), note=_note(note))
        _check(state, order)
        _check_stored(vault, record, model)
        return vault.append(order)


def untag(vault: Vault, name: str, by: str, note: str | None = None) -> Record:
    """Take a name away from the model that has it.

    Raises:
        SettingsError: None has.
    """
    with vault.locked() as state:
        order = Untagged(tag=name, by=_words("--by", by, MOST_BY), note=_note(note))
        _check(state, order, f"names are {few(sorted(state.names))}" if state.names else None)
        return vault.append(order)


def tell_tested(
    vault: Vault, sequence: int, examples: int, metrics: Metrics, curve: list[list[float]] | None = None
) -> Record:
    """Write down what a model scored on the test split.

    Args:
        curve: Points of its receiver operating characteristic, see `models.decision.curve`.

    Raises:
        SettingsError: The record did not make a model current.
        AgentError: No reader would take what the judge said; nothing is written down.
    """
    with vault.locked():
        _made(vault.ledger.record(sequence), "score the model of")
        points = ABSENT if curve is None else tuple(map(tuple, curve))
        said = Tested(of=sequence, split=tested.SPLIT, examples=examples, metrics=metrics, curve=points)
        if why := tested.objection(said):
            raise AgentError(f"what the test split said cannot be written down: {why}")
        return vault.append(said)


def _made(record: Record, what: str) -> tuple[Blob, Metrics]:
    if (made := orders.made_current(record.said)) is None:
        raise SettingsError(
            f"record {record.sequence} is {record.event}, which made no model current",
            f"{what} genesis, an accepted record or round, or a rollback",
        )
    return made


def _check_stored(vault: Vault, record: Record, model: Blob) -> None:
    if not vault.folders.model(model.sha256).is_file():
        raise AgentError(f"the model of record {record.sequence} is not stored any more")


def _note(text: str | None) -> str | Absent:
    return ABSENT if text is None else _words("--note", text, MOST_NOTE)


def _words(option: str, text: str, most: int) -> str:
    """What somebody said, if it can be written down."""
    if not text.strip() or len(text) > most:
        raise SettingsError(f"{option} has {len(text):,} letters, expected 1 to {most:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{option} is not UTF-8") from None
    return text


def _check(state: Federation, order: Order, hint: str | None = None) -> None:
    if why := orders.objection(state, order):
        raise SettingsError(why, hint)


def _end_round(vault: Vault, reason: str) -> None:
    """Close the open round without a result, so that none of its updates is ever used. The caller holds the lock.

    It counts as one that closed: a site tells by the number whether it has trained for a round.
    """
    if vault.state.round is not None:
        vault.append(records.closed_empty(vault.state, vault.state.round, Decision(False, reason)))
        vault.end_round()
