"""Where two rooms go on in a turn under `split`, after a line was cut or one of them was killed. Pure.

Every step has a number, from 1, and counts once. The coordinator takes a step when she has the batch, and the site when
it has her gradient: so she is as far as the site, or one step further, as long as both have lived on. What each keeps
in between brings both to the same step again when one has not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

LIVE, KEPT, START, ENDED = "live", "kept", "start", "ended"


@dataclass(frozen=True)
class Position:
    """Where a room is.

    Attributes:
        live: How many steps it has taken and has in memory; None after a start.
        kept: After how many steps it has written down where it was.
    """

    live: int | None
    kept: Sequence[int] = ()


@dataclass(frozen=True)
class GoOn:
    """Where both go on.

    Attributes:
        step: How many steps are done at the site.
        how: `live`: from what both have in memory. `kept`: from what both wrote down. `start`: from the beginning.
            `ended`: the turn is over at the coordinator, the site has yet to hear so.
        again: Whether the coordinator has taken the next step already.
    """

    step: int
    how: str
    again: bool = False


def turn_id(first: str, turn: int, base: str, site: str) -> str:
    """What tells a turn from every other, also from itself with another beginning: 16 hexadecimal digits.

    Args:
        first: SHA-256 of the federation's first model.
        turn: How often the turn has been passed, or the number of the round.
        base: SHA-256 of the model that it begins with.
        site: Whose it is.
    """
    return hashlib.sha256(f"{first} {turn} {base} {site}".encode()).hexdigest()[:16]


def go_on(site: Position, coordinator: Position, of: int, *, ended: bool = False) -> GoOn:
    """Where to go on.

    Args:
        of: How many steps the turn has.
        ended: Whether the coordinator has the site's word that it is over.
    """
    if ended and (site.live == of or of in site.kept):
        return GoOn(of, ENDED)
    if site.live is not None and coordinator.live is not None:
        ahead = coordinator.live - site.live
        if ahead in (0, 1):
            return GoOn(site.live, LIVE, again=ahead == 1)
    both = set(site.kept) & set(coordinator.kept)
    return GoOn(max(both), KEPT) if both else GoOn(0, START)
