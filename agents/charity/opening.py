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

    def turn(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Open a turn, unless it is open: the judge's `key`, and `tensors`, what the site sends at its end."""
        ...


def on(state: Federation) -> tuple[str, ...]:
    """The sites that may train over a channel now: whose turn it is, or who has sent nothing in the open round."""
    said = state.release.said if state.release else None
    if not state.policy.split or state.finished or not isinstance(said, Released):
        return ()
    if (said.federation.turn, said.federation.started.turns) != (state.turn, state.turns):
        return ()  # the release that says so is yet to come
    if state.policy.rounds:
        return state.round.awaited if state.round else ()
    return () if state.turn is None else (state.turn,)


def question(state: Federation, folders: Folders, site: str) -> dict[str, Any]:
    """What opens a site's turn, see `judge.turns`.

    Args:
        site: One of `on`.
    """
    server = () if state.policy.rounds else state.current.server  # there it is a server optimizer's
    id = turn_id(state.genesis.model.sha256, state.turns, state.current.model.sha256, site)
    return {
        "folder": str(folders.turn / site if state.policy.rounds else folders.turn),
        "id": id,
        "site": site,
        "policy": state.policy.text,
        "plan": dict(state.genesis.plan),
        "base": str(folders.model(state.current.model.sha256)),
        "state": [str(folders.server_state(blob.sha256)) for blob in server],
    }


def site_tensors(judge: Judge, state: Federation, folders: Folders, site: str) -> tuple[str, ...] | None:
    """The names of what a site sends at the end of a turn; None where it sends whole models, or has no turn.

    Raises:
        JudgeDownError: The judge cannot say now.
    """
    if site not in on(state):
        return None
    wanted = question(state, folders, site)
    try:
        return tuple(judge.turn(wanted)["tensors"])
    except JudgeError as error:  # nothing that the submission could be blamed for
        raise JudgeDownError(f"the turn of {wanted['site']} cannot be opened: {error}") from None
