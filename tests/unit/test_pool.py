"""The pool of trainers, with strings in their place: it hands them out and knows nothing about them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fedssh.models.pool import Pool


def named(size: int) -> Pool:
    names = iter(range(size))
    make: Callable[[], Any] = lambda: f"trainer {next(names)}"  # noqa: E731
    return Pool(make, size)


def test_results_come_in_the_order_of_the_jobs() -> None:
    """The first job ends last."""
    others = threading.Barrier(2)

    def first(trainer: Any) -> str:
        others.wait(10)
        return "first"

    def second(trainer: Any) -> str:
        others.wait(10)
        return "second"

    with named(2) as pool:
        assert pool.run([first, second, lambda trainer: "third"]) == ["first", "second", "third"]
        assert pool.run([]) == []


def test_no_trainer_has_two_jobs_at_once() -> None:
    busy: set[Any] = set()
    seen: list[Any] = []

    def job(trainer: Any) -> None:
        assert trainer not in busy
        busy.add(trainer)
        seen.append(trainer)
        busy.remove(trainer)

    with named(3) as pool:
        pool.run([job] * 200)
    assert len(seen) == 200


def test_a_failing_job_is_raised_and_the_pool_goes_on() -> None:
    def fail(trainer: Any) -> None:
        raise ValueError("no such weights")

    with named(1) as pool:
        with pytest.raises(ValueError, match="no such weights"):
            pool.run([fail, lambda trainer: None])
        assert pool.run([lambda trainer: trainer]) == ["trainer 0"]


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 trainer"):
        named(0)
