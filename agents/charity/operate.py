"""What an operator decides: back to an earlier model, an end, a new beginning. `charity serve` releases it."""

from __future__ import annotations

from fedssh.charity.vault import Vault
from fedssh.errors import AgentError, SettingsError
from fedssh.rules import records
from fedssh.rules.events import Accepted, Finished, Genesis, Record, Reopened, RolledBack, RoundAccepted
from fedssh.rules.gate import Decision


def roll_back(vault: Vault, sequence: int, reason: str) -> Record:
    """Make an earlier model current again. Later candidates are compared with it; an open round ends without a result.

    Raises:
        SettingsError: It is current, or the record did not make a model current.
        AgentError: Its file is gone.
    """
    with vault.locked() as state:
        record = vault.ledger.record(sequence)
        said = record.said
        if not isinstance(said, Genesis | Accepted | RoundAccepted | RolledBack) or said.metrics is None:
            raise SettingsError(
                f"record {sequence} is {record.event}",
                "roll back to genesis, an accepted record or round, or a rollback",
            )
        if said.model == state.current.model:
            raise SettingsError(f"the model of record {sequence} is the current one")
        if not vault.folders.model(said.model.sha256).is_file():
            raise AgentError(f"the model of record {sequence} is not stored any more")
        _end_round(vault, f"rolled back to record {sequence}")  # its updates started from what is taken back
        return vault.append(RolledBack(to=sequence, model=said.model, metrics=said.metrics, reason=reason))


def finish(vault: Vault, reason: str) -> Record:
    """End the federation; an open round ends without a result.

    Raises:
        SettingsError: It is finished.
    """
    with vault.locked() as state:
        if state.finished:
            raise SettingsError("the federation is finished already")
        _end_round(vault, "the federation was finished")
        return vault.append(Finished(reason=reason))


def reopen(vault: Vault, sessions: int | None, reason: str) -> Record:
    """Go on, with another number of sessions per site, or of rounds.

    Args:
        sessions: Past ones included; None is without end.

    Raises:
        SettingsError: It is open, or as many sessions or rounds are done.
    """
    with vault.locked() as state:
        if not state.finished:
            raise SettingsError("the federation is open")
        done = state.rounds if state.policy.rounds else min((site.sessions for site in state.sites), default=0)
        what = f"{done} rounds have closed" if state.policy.rounds else f"every site has trained {done} sessions"
        if sessions is not None and sessions <= done:
            raise SettingsError(f"{what} already", f"give --sessions {done + 1} or more")
        return vault.append(Reopened(sessions=sessions, reason=reason))


def _end_round(vault: Vault, reason: str) -> None:
    """Close the open round without a result, so that none of its updates is ever used. The caller holds the lock.

    It counts as one that closed: a site tells by the number whether it has trained for a round.
    """
    if vault.state.round is not None:
        vault.append(records.closed_empty(vault.state, vault.state.round, Decision(False, reason)))
        vault.end_round()
