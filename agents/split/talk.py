"""What is said over a channel in a turn: the kinds of frames, and the few that are JSON.

    Alice                               the judge
    HELLO    where she stands      ->
                                   <-   STAND    where both go on
                                   <-   STATE    of the site's optimizer, at the beginning of a turn
    of every step, from 1:
    FORWARD  features, labels      ->
                                   <-   GRADIENT and what the batch scored
    where the labels stay at the site:
    FORWARD  features              ->
                                   <-   OUTPUTS  of the coordinator's layers
    BACKWARD their gradient        ->
                                   <-   GRADIENT
    after so many epochs:
    KEEP                           ->            each has written down where it is
                                   <-   KEPT
    at the end:
    END      her optimizer's state ->
                                   <-   ENDED
    FAULT    a reason             <->            whoever says it closes; nothing of the step at hand counts

Numbers are raw and little-endian, rows of the cut's shape, see `wire`; labels follow as they are trained with.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from fedssh.rules.typed import Typed, said

MAX_TEXT_BYTES = 1 << 16
SCORES = struct.Struct("<dd")  # before a gradient: the mean loss of the batch, and how much of it is right


class Kind(IntEnum):
    """Of a frame."""

    HELLO = 16
    STAND = 17
    STATE = 18
    FORWARD = 19
    GRADIENT = 20
    OUTPUTS = 21
    BACKWARD = 22
    KEEP = 23
    KEPT = 24
    END = 25
    ENDED = 26
    FAULT = 27


@dataclass(frozen=True, kw_only=True)
class Hello(Typed):
    """Where Alice stands, and how long her turn is."""

    session: int = said("Its number, from 1.")
    seed: int = said("From which both rooms draw the random numbers of their layers.")
    examples: int = said("How many images she trains on.")
    epochs: int = said("How many there will be.")
    steps: int = said("In one epoch.")
    live: int | None = said("How many steps she has in memory; null after a start.")
    kept: tuple[int, ...] = said("After how many steps she has written down where she was, ascending.")


@dataclass(frozen=True, kw_only=True)
class Stand(Typed):
    """Where both go on."""

    step: int = said("How many steps are done.")
    how: str = said("`live`, `kept`, `start` or `ended`.")
    again: bool = said("Whether the coordinator has taken the next step already, and will say its gradient again.")


@dataclass(frozen=True, kw_only=True)
class Fault(Typed):
    """Why a channel is closed."""

    reason: str = said("In words.")
