"""Several rooms and several networks: what is counted, and whose word counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from experiments.parties import page, rooms, vote
from fedssh import models
from fedssh.models.data.images import Images


def images(number: int = 40) -> Images:
    random = np.random.default_rng(0)
    return Images(random.random((number, 8, 8, 1), dtype=np.float32), random.integers(0, 2, number))


def test_rooms_in_a_row_learn_what_one_learns_and_what_passes_is_counted() -> None:
    spec = models.check_spec({"name": "mlp", "input": [8, 8, 1], "classes": 2, "width": 5, "depth": 3})
    found = rooms.every(spec, [["dense1"], ["dense1", "dense2", "dense3"]], images(), images(9), 3)
    assert len({row["sha256"] for row in found}) == 1
    assert len({row["test_accuracy"] for row in found}) == 1
    assert [row["megabytes"] for row in found] == [[], [0.0048], [0.0048] * 3]  # 2 x 4 bytes x 5 x 40 x 3 epochs


def test_the_class_that_most_networks_give_counts() -> None:
    said = [[0, 1, 2, 0], [1, 1, 0, 2], [1, 0, 1, 2]]
    assert vote.voted([np.array(one) for one in said]).tolist() == [1, 1, 2, 2]


def test_networks_trained_in_turns_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vote, "TURNS", 1)
    monkeypatch.setattr(vote, "CUTS", {"mlp": "dense1"})
    spec = models.check_spec({"name": "mlp", "input": [8, 8, 1], "classes": 2, "width": 5})
    found = vote.one({"mlp": spec}, images(), images(30), 1)
    assert found["vote"] == found["mlp"]
    assert 0 <= found["vote"] <= 1


@pytest.mark.parametrize(("name", "table"), [(rooms.NAME, rooms.table), (vote.NAME, vote.table)])
def test_the_page_has_what_was_found(name: str, table: Callable[[Sequence[Mapping[str, Any]]], str]) -> None:
    assert page.page_with(name, table) == page.PAGE.read_text()
