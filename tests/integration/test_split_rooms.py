"""Split learning in four rooms, each a process of its own: they learn what one trainer learns, to the bit."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from fedssh.keys import load_public
from tests.harness.split import Rooms


@pytest.mark.parametrize(
    ("policy", "sites"),
    [
        ("split:cut=pool2,wire=f32", 3),
        ("split:cut=pool1,tail=dense,labels=site,wire=f32", 1),
        ("split:cut=pool1,wire=f32,weights=sites", 2),
    ],
)
def test_the_rooms_learn_what_one_trainer_learns(policy: str, sites: int, tmp_path: Path) -> None:
    with Rooms(tmp_path, policy, sites) as rooms:
        rooms.begin()
        rooms.run()
        assert rooms.learned() == rooms.unsplit()
        handed_on = list((rooms.coordinator / "outbox" / "layers").glob("*.bundle"))
        assert bool(handed_on) == ("weights=sites" in policy)
        for bundle in handed_on:
            with tarfile.open(bundle) as opened:
                said = json.loads(opened.extractfile("manifest.json").read())  # type: ignore[union-attr]
            hers = load_public(rooms.coordinator / "outbox" / "coordinator_key.pub").fingerprint
            assert len(said["recipients"]) == sites and hers not in said["recipients"], "she cannot open it"
        work = [record["work"]["steps"] for record in rooms.happened("accepted")]
        assert work == [rooms.steps(name) for name in rooms.names]
        rooms.command("charity", "verify", rooms.state)
