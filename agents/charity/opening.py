"""What opens a turn at the judge, under `split`: derived from the history, so that after any restart it is the same."""

from __future__ import annotations

from typing import Any, Protocol

from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import JudgeDownError
from fedssh.errors import JudgeError
from fedssh.rules.events import Released
from fedssh.rules.federation import Federation
from fedssh.rules.turns import turn_id


class Judge(Protocol):
    """What is asked, see `judge.turns`."""

    def turn(self, wanted: dict[str, Any] | None) -> dict[str, Any]:
        """Open a turn, unless it is open: the judge's `key`, and `tensors`, what the site sends at its end."""
        ...


def question(state: Federation, folders: Folders) -> dict[str, Any] | None:
    """What opens the turn at hand, see `judge.turns`; None where nobody has it, or its release is yet to come."""
    said = state.release.said if state.release else None
    if state.turn is None or not isinstance(said, Released):
        return None
    if (said.federation.turn, said.federation.started.turns) != (state.turn, state.turns):
        return None
    return {
        "folder": str(folders.turn),
        "id": turn_id(state.genesis.model.sha256, state.turns, state.current.model.sha256),
        "site": state.turn,
        "policy": state.policy.text,
        "plan": dict(state.genesis.plan),
        "base": str(folders.model(state.current.model.sha256)),
        "state": [str(folders.server_state(blob.sha256)) for blob in state.current.server],
    }


def site_tensors(judge: Judge, state: Federation, folders: Folders) -> tuple[str, ...] | None:
    """The names of what a site sends of the turn at hand; None where it sends whole models.

    Raises:
        JudgeDownError: The judge cannot say now.
    """
    if not state.policy.split or (wanted := question(state, folders)) is None:
        return None
    try:
        return tuple(judge.turn(wanted)["tensors"])
    except JudgeError as error:  # nothing that the submission could be blamed for
        raise JudgeDownError(f"the turn of {wanted['site']} cannot be opened: {error}") from None
