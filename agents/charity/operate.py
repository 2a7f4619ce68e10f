"""What an operator decides: back to an earlier model, an end, a new beginning. `charity serve` releases it."""

from __future__ import annotations

from fedssh.charity.vault import Vault
from fedssh.errors import AgentError, SettingsError
from fedssh.rules import orders, records
from fedssh.rules.events import Finished, Record, Reopened, RolledBack
from fedssh.rules.federation import Federation
from fedssh.rules.gate import Decision
from fedssh.rules.orders import Order


def roll_back(vault: Vault, sequence: int, reason: str) -> Record:
    """Make an earlier model current again. Later candidates are compared with it; an open round ends without a result.

    Raises:
        SettingsError: It is current, or the record did not make a model current.
        AgentError: Its file is gone.
    """
    with vault.locked() as state:
        record = vault.ledger.record(sequence)
        if (made := orders.made_current(record.said)) is None:
            raise SettingsError(
                f"record {sequence} is {record.event}",
                "roll back to genesis, an accepted record or round, or a rollback",
            )
        model, metrics = made
        order = RolledBack(to=sequence, model=model, metrics=metrics, reason=reason)
        _check(state, order)
        if not vault.folders.model(model.sha256).is_file():
            raise AgentError(f"the model of record {sequence} is not stored any more")
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
