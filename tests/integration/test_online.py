"""`alice train --online` on files that grow: it trains on what is new, and lets its turn pass where nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedssh.alice import memory, online
from fedssh.alice.learner import Network
from fedssh.alice.train import Alice
from tests.harness.images import easy_images
from tests.harness.waiting import until
from tests.integration.test_alice import LIMITS, SmallSite, site, told

__all__ = ["site", "told"]
Told = Callable[[str], list[dict[str, object]]]


def to_folder(place: Path, start: int, end: int) -> None:
    every = easy_images(end)
    for number in range(start, end):
        folder = place / f"class{every.labels[number]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((every.images[number, :, :, 0] * 255).astype(np.uint8)).save(folder / f"{number:03}.png")


def to_arrays(place: Path, start: int, end: int) -> None:
    every = easy_images(end)
    order = np.random.default_rng(end).permutation(end)  # rows may stand anywhere
    part = place.with_suffix(".part.npz")
    np.savez(part, train_images=every.images[order, :, :, 0], train_labels=every.labels[order])
    part.rename(place)


@pytest.mark.parametrize(("write", "name"), [(to_folder, "photographs"), (to_arrays, "rows.npz")])
def test_a_session_begins_with_new_images_and_a_turn_without_any_passes(
    write: Callable[[Path, int, int], None], name: str, site: SmallSite, told: Told, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(online, "LOOK_SECONDS", 0.1)
    data, stop = tmp_path / name, threading.Event()
    write(data, 0, 40)

    def start() -> Alice:
        network = Network(data, 1, 1, None, online=True)
        return Alice(site.exchange, site.state, network, 1, 0.0, stop, LIMITS, hold_seconds=3600)

    site.release(1, schedule="relay", turn="alice-1", turns=1)
    assert start().run(sessions=1) == 1
    (first,) = told("session")
    trainer = start()  # what was trained on is known after a restart
    thread = threading.Thread(target=trainer.run)
    thread.start()
    try:
        site.release(8, schedule="relay", turn="alice-1", turns=3)  # the other site has trained
        until(lambda: told("passed"), 30)
        passed = site.reports()[-1]
        assert (passed.passed, passed.session, passed.epochs, passed.checkpoints) == (True, 2, 0, 0)
        assert memory.load(site.state).trained.sessions == 1
        site.release(12, schedule="relay", turn="alice-1", turns=5)  # it has not: the turn is held
        until(lambda: len(told("waiting")) > 1 and "new images" in str(told("waiting")[-1]["text"]), 30)
        assert len(told("passed")) == 1
        write(data, 40, 80)
        until(lambda: len(told("session-over")) == 2, 30)
        second = told("session")[-1]
        assert (second["session"], second["builds_on"]) == (2, 12)
        of = int(str(first["examples"])) + int(str(second["examples"]))
        assert 50 <= of < 80  # none twice, and none of those that are scored on
        assert int(str(second["examples"])) <= 40
        assert site.reports()[-1].passed is not True
    finally:
        stop.set()
        thread.join(20)


def test_with_the_schedule_free_nothing_is_said_until_images_come(
    site: SmallSite,
    told: Told,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(online, "LOOK_SECONDS", 0.1)
    data, stop = tmp_path / "photographs", threading.Event()
    to_folder(data, 0, 30)
    site.release(1)
    network = Network(data, 1, 1, None, online=True)
    trainer = Alice(site.exchange, site.state, network, 1, 0.0, stop, LIMITS, hold_seconds=0.01)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    try:
        until(lambda: any("new images" in str(one["text"]) for one in told("waiting")), 30)
        reports = len(site.reports())
        (data / "class0" / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n half of an image")
        until(lambda: any("cannot be read as they are now" in str(one["text"]) for one in told("waiting")), 30)
        assert len(site.reports()) == reports == 1
        (data / "class0" / "half.png").unlink()
        to_folder(data, 30, 50)
        until(lambda: len(told("session-over")) == 2, 30)
        assert not told("passed")
    finally:
        stop.set()
        thread.join(20)
