"""Coordinators without Keras, see tests/harness/room.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedssh.keys import PrivateKey
from tests.harness.room import Room, Rooms


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Coordinators as they stand after their beginning, by what they agreed on: made once, copied for each test."""
    return {"": tmp_path_factory.mktemp("begun")}


@pytest.fixture
def new_room(tmp_path: Path, keys: dict[str, PrivateKey], begun: dict[str, Path]) -> Iterator[Rooms]:
    """Begins federations; keyword arguments change what they agree on."""
    rooms = Rooms(tmp_path, keys, begun)
    yield rooms
    rooms.close()


@pytest.fixture
def room(new_room: Rooms) -> Room:
    """A federation of alice-1 and alice-2 whose genesis scores 0.5."""
    return new_room()
