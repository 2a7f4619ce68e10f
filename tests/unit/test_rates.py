"""Rates per site: pure functions over the times in the history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.rules import rates
from fedssh.rules.rates import HOUR, NEVER, follow, spend, wait


@given(st.integers(1, 50), st.lists(st.floats(0, 500), min_size=1, max_size=300))
def test_no_hour_sees_more_than_twice_the_rate_and_nobody_waits_longer_than_for_one(
    per_hour: int, pauses: list[float]
) -> None:
    full, now, taken = 0.0, 1e9, []
    for pause in pauses:
        now += pause
        seconds = wait(full, now, per_hour)
        assert seconds <= HOUR / per_hour + 1e-6
        if not seconds:
            full = spend(full, now, per_hour)
            taken.append(now)
    for start in taken:
        assert sum(start <= time < start + HOUR for time in taken) <= 2 * per_hour


def test_an_hours_worth_may_come_at_once_and_then_one_at_a_time() -> None:
    full, now = 0.0, 1e9
    for _ in range(60):
        assert wait(full, now, 60) == 0
        full = spend(full, now, 60)
    assert wait(full, now, 60) == pytest.approx(60)
    assert wait(full, now + 60.001, 60) == 0
    full = spend(full, now + 60.001, 60)
    assert wait(full, now + 60.001, 60) > 59
    assert wait(full, now + HOUR * 2, 60) == 0


def test_a_clock_that_was_ahead_locks_nobody_out() -> None:
    full = 0.0
    for _ in range(60):
        full = spend(full, 1e9 + 86400, 60)
    assert wait(full, 1e9, 60) == 0
    full = spend(full, 1e9, 60)
    assert full <= 1e9 + HOUR


def record(event: str, site: str = "alice-1", time: str = "2026-01-31T12:00:00.000Z") -> dict[str, Any]:
    return {"event": event, "site": site, "time": time}


def test_what_each_event_takes() -> None:
    at = rates.seconds("2026-01-31T12:00:00.000Z")
    used: Any = {}
    for event in ("genesis", "site-added", "release", "turn-passed", "round-opened"):
        used = follow(used, record(event), (10, 5))
    assert used == {}
    for event in ("accepted", "refused", "counted", "report"):
        used = follow(used, record(event), (10, 5))
    assert used == {"alice-1": (at + 4 * HOUR / 10, 0.0, 0.0)}
    used = follow(used, record("invalid", "alice-2"), (10, 5))
    assert used["alice-2"] == (at + HOUR / 10, at + HOUR / 5, 0.0)
    used = follow(used, record("garbage"), (10, 5))
    assert used["alice-1"] == (at + 4 * HOUR / 10, 0.0, at)


@pytest.mark.parametrize(
    "genesis", [{}, {"rates": None}, {"rates": {"submissions_per_hour": 0, "invalid_per_hour": 0}}]
)
def test_without_rates_nobody_is_held_and_nothing_is_kept(genesis: dict[str, Any]) -> None:
    agreed = rates.agreed(genesis)
    assert follow({}, record("invalid"), agreed) == {}
    assert rates.waits((1e12, 1e12, 0.0), 0.0, agreed) == (0.0, 0.0)
    assert rates.waits(NEVER, 1e9, (1, 1)) == (0.0, 0.0)
