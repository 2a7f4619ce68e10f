"""The kills of a turn, in brief: `python -m tests.attacks.split_kills` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.attacks.split_kills import POLICY, SPEC, WHO, one, wrong
from tests.harness.channel import Line
from tests.harness.split import Rooms


def test_each_is_killed_and_the_line_is_cut_and_the_bits_are_the_same(tmp_path: Path) -> None:
    with Rooms(tmp_path, POLICY, epochs=60, spec=SPEC, line=Line) as rooms:
        rooms.begin()
        killed = one(rooms, random.Random(3), len(WHO))
        assert wrong(rooms, rooms.unsplit()) == ""
        assert killed.total() >= 3  # it gets as far as that
        assert rooms.line and rooms.line.cuts
