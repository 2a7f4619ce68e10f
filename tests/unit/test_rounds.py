"""Rounds as tables: who is selected, when a round closes, whose update is taken."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.rules.events import Blob
from fedssh.rules.policies import read_policy
from fedssh.rules.rounds import Due, Round, Update, can_open, due, needed, select, why_not

SITES = ("alice-1", "alice-2", "alice-3", "alice-4", "alice-5")


def update(site: str) -> Update:
    return Update(site, 7, Blob(sha256="ab" * 32, size=1), 10)


def opened(sites: tuple[str, ...], heard: int, selected: int | None = None) -> Round:
    chosen = sites if selected is None else SITES[:selected]
    return Round(3, sites, chosen, 100.0, 9, tuple(map(update, sites[:heard])))


@pytest.mark.parametrize(("fraction", "count"), [(1, 5), (0.5, 3), (0.3, 2), (0.1, 1), (0.01, 1)])
def test_as_many_are_selected_as_the_fraction_says_and_at_least_one(fraction: float, count: int) -> None:
    assert len(select(SITES, fraction, 1, 1)) == count


def test_anybody_can_check_the_draw() -> None:
    digests = {site: hashlib.sha256(f"7/4/{site}".encode()).hexdigest() for site in SITES}
    smallest = set(sorted(SITES, key=digests.__getitem__)[:2])
    assert set(select(SITES, 0.4, 7, 4)) == smallest


@given(st.integers(0, 2**31), st.integers(1, 1000))
def test_the_draw_does_not_depend_on_the_order_of_the_sites(seed: int, number: int) -> None:
    drawn = select(SITES, 0.4, seed, number)
    assert set(drawn) == set(select(SITES[::-1], 0.4, seed, number))
    assert list(drawn) == sorted(drawn)  # in the order of SITES


def test_over_many_rounds_every_site_has_its_share() -> None:
    drawn = Counter(site for number in range(1000) for site in select(SITES, 0.4, 1, number))
    assert all(330 < drawn[site] < 470 for site in SITES)  # 400 expected, 15.5 standard deviation


@pytest.mark.parametrize(
    ("text", "selected", "count"),
    [("fedavg", 5, 3), ("fedavg", 4, 2), ("fedavg", 1, 1), ("fedavg:minimum=1", 5, 5), ("krum:1", 5, 5),
     ("trimmed:1,minimum=0.1", 5, 3), ("fedavg:minimum=0.3", 10, 3)],
)  # fmt: skip
def test_how_many_updates_suffice(text: str, selected: int, count: int) -> None:
    assert needed(read_policy(text), selected) == count


@pytest.mark.parametrize(
    ("text", "sites", "expected"),
    [("fedavg", 0, False), ("fedavg", 1, True), ("fedavg:sites=3", 2, False), ("fedavg:sites=3", 3, True),
     ("krum:1", 4, False), ("krum:1", 5, True)],
)  # fmt: skip
def test_when_a_round_can_open(text: str, sites: int, expected: bool) -> None:
    assert can_open(read_policy(text), SITES[:sites]) == expected


BEFORE, AFTER = 159.0, 161.0  # the deadline is at 160


@pytest.mark.parametrize(
    ("current", "now", "expected"),
    [
        (opened(SITES, 0), BEFORE, Due.NOTHING),
        (opened(SITES, 4), BEFORE, Due.NOTHING),
        (opened(SITES, 5), BEFORE, Due.CLOSE),
        (opened(SITES, 3), AFTER, Due.CLOSE),
        (opened(SITES, 2), AFTER, Due.NOTHING),  # nobody else could be asked: it stays open
        (opened(SITES[:3], 1), BEFORE, Due.NOTHING),
        (opened(SITES[:3], 1), AFTER, Due.EXTEND),
        (opened(SITES[:3], 2), AFTER, Due.CLOSE),
        (opened(SITES, 2, selected=3), AFTER, Due.CLOSE),  # extended from three sites: two suffice
        (opened((), 0), BEFORE, Due.EXTEND),  # all its sites were revoked
        (dataclasses.replace(opened(SITES, 4), empty=("alice-5",)), BEFORE, Due.CLOSE),  # nothing will come of it
        (dataclasses.replace(opened(SITES, 4), empty=("alice-4",)), BEFORE, Due.NOTHING),
        (dataclasses.replace(opened(SITES, 1), empty=SITES[1:]), BEFORE, Due.CLOSE),  # without a result
        (dataclasses.replace(opened((), 0), empty=SITES[:4]), BEFORE, Due.EXTEND),  # alice-5 is left
        (dataclasses.replace(opened((), 0), empty=SITES), BEFORE, Due.CLOSE),
    ],
)
def test_what_a_round_is_due_for(current: Round, now: float, expected: Due) -> None:
    assert due(read_policy("fedavg:deadline=60"), current, SITES, now) is expected


def test_a_complete_round_with_too_few_for_its_rule_is_extended() -> None:
    krum = read_policy("krum:0")  # needs three
    assert due(krum, opened(SITES[:2], 2), SITES, BEFORE) is Due.EXTEND


@pytest.mark.parametrize(
    ("current", "site", "number", "reason"),
    [
        (opened(SITES, 2), "alice-3", 3, ""),
        (opened(SITES, 2), "alice-1", 3, "alice-1 has an update in round 3 already"),
        (opened(SITES[:2], 0), "alice-3", 3, "alice-3 is not among the sites of round 3"),
        (opened(SITES, 2), "alice-3", 2, "round 2 is closed; round 3 is open"),
        (None, "alice-3", 2, "round 2 is closed"),
    ],
)
def test_whose_update_is_taken(current: Round | None, site: str, number: int, reason: str) -> None:
    assert why_not(current, site, number) == reason


@given(st.lists(st.sampled_from(SITES), max_size=12), st.floats(0.1, 1), st.floats(0, 200))
def test_a_round_closes_in_the_end_whoever_is_silent(talkers: list[str], fraction: float, late: float) -> None:
    """With at least the needed number of talkers enrolled, some later moment closes the round."""
    policy = read_policy(f"fedavg:deadline=60,fraction={fraction:.3f}")
    sites = select(SITES, float(policy.values["fraction"]), 1, 1)
    current = Round(1, sites, sites, 100.0)
    alive = [site for site in SITES if site in talkers]
    for now in (100.0 + late, 1000.0):
        for _ in range(3):
            heard = tuple(update(site) for site in current.sites if site in alive)
            current = Round(1, current.sites, current.selected, 100.0, 9, heard)
            what = due(policy, current, SITES, now)
            if what is Due.CLOSE:
                return
            if what is Due.EXTEND:
                current = Round(1, SITES, current.selected, 100.0, 9, heard)
    assert len(alive) < needed(policy, len(sites))
