"""What a sum took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a sum took.

    Attributes:
        party, coordinator: Seconds.
        sent: Bytes that one party sends.
    """

    party: float
    coordinator: float
    sent: int


class Watch:
    """Seconds, of parties and of the coordinator."""

    def __init__(self, parties: int) -> None:
        self._spent = [0.0] * parties
        self._coordinator = 0.0

    def party(self, number: int, act: Callable[..., Any], *given: Any) -> Any:
        """What a party does."""
        begun = time.perf_counter()
        found = act(*given)
        self._spent[number] += time.perf_counter() - begun
        return found

    def coordinator(self, act: Callable[..., Any], *given: Any) -> Any:
        """What the coordinator does."""
        begun = time.perf_counter()
        found = act(*given)
        self._coordinator += time.perf_counter() - begun
        return found

    def cost(self, sent: int) -> Cost:
        """All of it."""
        return Cost(max(self._spent), self._coordinator, sent)
