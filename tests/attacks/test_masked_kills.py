"""The kills of rounds under masks, in brief: `python -m tests.attacks.masked_kills` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.attacks.masked_kills import one, rooms_of, summed, wrong


def test_whoever_is_killed_sums_are_right_and_no_site_tells_both_secrets(tmp_path: Path) -> None:
    with rooms_of(tmp_path, rounds=3) as rooms:
        rooms.begin()
        killed = one(rooms, random.Random(2), 4)
        assert wrong(rooms) == ""
        assert killed.total() >= 2 and summed(rooms.records())  # it gets as far as that
