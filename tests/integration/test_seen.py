"""Who can see what: each cell of the table in SECURITY.md that no other test stands for, shown on what lies there."""

from __future__ import annotations

import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.alice.fitting import epoch_order
from fedssh.bundle import open_bundle
from fedssh.errors import BundleError
from fedssh.manifest import Submission
from fedssh.models.data import datasets
from fedssh.weights import read_weights
from tests.harness.judge import SHAPES
from tests.harness.room import Room, Rooms
from tests.integration.test_alice import SESSION, SmallSite, shapes, site
from tests.integration.test_audit import noise, train
from tests.integration.test_split_captured import Opened
from tests.unit.test_split_turn import SEED, SPEC, agreed, channels, data
from tests.unit.test_split_turn import Rooms as TwoRooms

__all__ = ["site"]  # a fixture
LAYER = "dense1/kernel"
POLICIES: dict[str, dict[str, Any]] = {
    "best": {"policy": "best"},
    "merge": {"policy": "polyak:keep=0.75"},
    "fedavg": {
        "policy": "fedavg:fraction=1,minimum=0.5,deadline=60,sites=1", "schedule": "rounds", "gate": "off",
        "margin": 0.0,
    },
}  # fmt: skip


class Told:
    """A room in which two sites have sent an update each, with a layer that is known again; not judged yet."""

    def __init__(self, room: Room) -> None:
        self.room = room
        newest = room.release()
        self.start = read_weights(room.opened("alice-2")[1], SHAPES)[LAYER]
        random = np.random.default_rng(1)
        self.layers = {name: random.random((4, 2)).astype(np.float32) for name in ("alice-1", "alice-2")}
        self.ids = {}
        for place, (name, layer) in enumerate(self.layers.items()):
            model = room.model(0.9 + 0.02 * place, **{LAYER: layer})
            fields = {"model": model, "examples": 10 + 20 * place, "builds_on": newest}
            self.ids[name] = room.submit(name, 0.0, **fields)

    def bundle(self, name: str) -> Path:
        (path,) = (self.room.folders.inbox / name).glob("*.bundle")
        return path


@pytest.fixture(params=POLICIES)
def told(request: pytest.FixtureRequest, new_room: Rooms) -> Told:
    return Told(new_room(**POLICIES[request.param]))


def test_the_coordinator_has_each_update_and_what_its_site_says(told: Told, tmp_path: Path) -> None:
    keys = told.room.keys
    for name, layer in told.layers.items():
        model = tmp_path / f"{name}.safetensors"
        open_bundle(told.bundle(name), model, Submission, keys[name].public, keys["coordinator"])
        assert np.array_equal(read_weights(model, SHAPES)[LAYER], layer)
    told.room.work()
    for place, (name, id) in enumerate(told.ids.items()):
        record = told.room.verdict(name, id)
        assert (record["site"], record["examples"]) == (name, 10 + 20 * place)
        assert record["claim"] == {"loss": 0.1, "accuracy": 0.9}


def test_the_doors_machine_has_what_is_said_in_plain_and_no_weights(told: Told, tmp_path: Path) -> None:
    """Its folders are inbox and outbox; in the vault it has no part (`test_compose`, `test_fleet_compose`)."""
    folders = told.room.folders
    with tarfile.open(told.bundle("alice-2")) as bundle:
        opened = bundle.extractfile("manifest.json")
        assert opened is not None
        said = json.loads(opened.read())
    assert (said["sender"], said["examples"], said["metrics"]) == ("alice-2", 30, {"loss": 0.1, "accuracy": 0.9})

    def nowhere(*secrets: np.ndarray) -> None:
        files = [path for part in (folders.inbox, folders.outbox) for path in part.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert not any(one.tobytes() in path.read_bytes() for one in secrets), path

    nowhere(*told.layers.values())
    told.room.work()
    released = read_weights(told.room.opened("alice-1")[1], SHAPES)[LAYER]
    nowhere(*told.layers.values(), released)


@pytest.mark.parametrize(("policy", "share"), [("best", 1.0), ("polyak:keep=0.75", 0.25)])
def test_without_rounds_another_site_has_an_update_that_was_accepted(
    policy: str, share: float, new_room: Rooms
) -> None:
    """As it is; under a policy that mixes, by the share that the history tells."""
    told = Told(new_room(policy=policy))
    told.bundle("alice-2").unlink()
    told.room.work()
    record = told.room.verdict("alice-1", told.ids["alice-1"])
    assert (record["event"], record.get("share", 1.0)) == ("accepted", share)
    released = read_weights(told.room.opened("alice-2")[1], SHAPES)[LAYER]
    assert np.allclose(told.start + (released - told.start) / share, told.layers["alice-1"], atol=1e-6)


def test_in_rounds_another_site_has_the_mean_and_one_of_two_the_others_update(new_room: Rooms, tmp_path: Path) -> None:
    told = Told(new_room(**POLICIES["fedavg"]))
    keys = told.room.keys
    with pytest.raises(BundleError):
        open_bundle(told.bundle("alice-1"), tmp_path / "model", Submission, keys["alice-1"].public, keys["alice-2"])
    told.room.work()
    mean = read_weights(told.room.opened("alice-2")[1], SHAPES)[LAYER]
    one, other = told.layers.values()
    assert np.allclose(mean, (10 * one + 30 * other) / 40, atol=1e-6)
    assert np.allclose((40 * mean - 30 * other) / 10, one, atol=1e-5), "which alice-2 knows, and counts are told"


def test_who_reads_the_history_has_counts_claims_and_scores_and_no_weights(told: Told) -> None:
    told.room.work()
    history = (told.room.folders.outbox / "ledger.jsonl").read_text()
    lines = [json.loads(json.loads(line)["record"]) for line in history.splitlines()]
    sent = {one["site"]: one for one in lines if one.get("submission") in told.ids.values()}
    assert {name: one["examples"] for name, one in sent.items()} == {"alice-1": 10, "alice-2": 30}
    assert all(one["claim"] == {"loss": 0.1, "accuracy": 0.9} for one in sent.values())
    assert any("accuracy" in one["metrics"] for one in lines if one["event"] in {"accepted", "round-accepted"})
    for layer in told.layers.values():
        assert layer.tobytes() not in history.encode() and layer.tobytes().hex() not in history


def test_bob_has_the_weights_of_his_site_and_none_of_its_images(site: SmallSite) -> None:
    images = noise(120, 1)
    datasets.save(site.data, {"train": images, "val": noise(20, 2)})
    site.release(1, plan=SESSION)
    train(site, 1.0)
    (model,) = site.exchange.outgoing.glob("*.safetensors")
    assert {name: one.shape for name, one in read_weights(model, shapes()).items()} == shapes()
    seen = b"".join(path.read_bytes() for path in site.exchange.folder.rglob("*") if path.is_file())
    for image in images.images:
        row = image[0]
        assert row.tobytes() not in seen and np.rint(255 * row).astype(np.uint8).tobytes() not in seen


def holds(said: bytes, row: np.ndarray) -> bool:
    """Whether a row of numbers stands somewhere in what was sent, as float32."""
    for offset in range(4):
        numbers = np.frombuffer(said[offset : len(said) - (len(said) - offset) % 4], "<f4")
        rows = np.lib.stride_tricks.sliding_window_view(numbers, len(row))
        if np.isclose(rows, row, rtol=0, atol=1e-5).all(axis=1).any():
            return True
    return False


@pytest.mark.parametrize("labels", ["", ",labels=site,tail=dense2"])
@pytest.mark.parametrize("weights", ["", ",weights=sites"])
def test_under_split_the_coordinator_has_what_is_made_of_images_and_labels_as_agreed(
    labels: str, weights: str, tmp_path: Path
) -> None:
    begun = models.get_weights(models.build(SPEC))
    what, images = agreed(f"split:dense1,wire=f32{weights}{labels}", 1), data()
    rooms = TwoRooms(tmp_path, begun, what, images)
    ours, theirs = channels()
    sent = Opened(ours)
    thread = threading.Thread(target=rooms.coordinator.serve, args=(theirs,))
    thread.start()
    rooms.site.run(sent)
    thread.join(30)
    order = epoch_order(SEED, 1, len(images))[:8]
    first = begun["dense1/kernel"], begun["dense1/bias"]
    made = np.maximum(images.images[order].reshape(8, -1) @ first[0] + first[1], 0)
    assert holds(bytes(sent.said), made[0])
    assert not holds(bytes(sent.said), made[0] + 0.01)
    assert (images.labels[order].astype("<i4").tobytes() in sent.said) == (not labels)
    moments = [one.tobytes() for one in rooms.site.state().values() if one.size > 1]
    assert moments and all((one in sent.said) == (not weights) for one in moments)
    assert not any(one.tobytes() in sent.said for one in images.images), "of this network images do not pass the cut"
