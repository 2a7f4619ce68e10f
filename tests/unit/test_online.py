"""Training when new images come: which are new, when a turn passes, and what a turn that passed is in the history."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from fedssh.alice import online, session
from fedssh.errors import BundleError
from fedssh.manifest import Report, SessionOver
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import PixelFile
from fedssh.rules.standing import Standing
from fedssh.rules.typed import ABSENT, Absent

RANDOM = np.random.default_rng(0)
IMAGES = Images(RANDOM.random((60, 4, 4, 1), dtype=np.float32), RANDOM.integers(0, 2, 60))
GENESIS = "ab" * 32


def standing(
    turn: str = "alice-1", turns: int = 5, sites: tuple[str, ...] = ("alice-1", "alice-2", "alice-3")
) -> Standing:
    return Standing(
        name="x", policy="best", gate="on", margin=0.0, version=1, schedule="relay", turn=turn, turns=turns,
        round=None, last=None, state="open", sessions=None, sites=sites,
    )  # fmt: skip


def test_a_new_file_and_a_changed_one_are_seen_without_opening_any(tmp_path: Path) -> None:
    folder = tmp_path / "photographs" / "ill"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"x")
    first = online.stamp(tmp_path / "photographs")
    assert online.stamp(tmp_path / "photographs") == first
    (folder / "1.png").chmod(0)
    assert online.stamp(tmp_path / "photographs") == first
    (folder / "2.png").write_bytes(b"x")
    second = online.stamp(tmp_path / "photographs")
    os.utime(folder / "2.png", (1, 1))
    assert len({first, second, online.stamp(tmp_path / "photographs")}) == 3
    assert online.stamp(folder / "2.png") != online.stamp(folder / "1.png")


def test_an_image_is_known_wherever_it_stands(tmp_path: Path) -> None:
    known = online.digests(IMAGES)
    assert len(set(known)) == 60
    order = RANDOM.permutation(60)
    assert online.digests(IMAGES.take(order)) == [known[place] for place in order]
    other = dataclasses.replace(IMAGES, labels=1 - IMAGES.labels)
    assert not set(online.digests(other)) & set(known)
    with open(tmp_path / "pixels", "w+b") as file:
        file.write(IMAGES.images.tobytes())
        file.flush()
        streamed = Images(PixelFile(file, 60, (4, 4, 1), np.float32, None), IMAGES.labels)  # type: ignore[arg-type]
        assert online.digests(streamed) == known


def test_who_is_held_out_stays_so_when_others_come() -> None:
    known = online.digests(IMAGES)
    every = online.held_out(IMAGES, known, 0.3, 1)
    half = IMAGES.take(np.arange(30))
    assert online.held_out(half, known[:30], 0.3, 1).tolist() == every[:30].tolist()
    assert 8 <= every.sum() <= 28
    assert online.held_out(IMAGES, known, 0.3, 2).tolist() != every.tolist()
    assert not online.held_out(IMAGES, known, 0, 1).any()
    assert online.held_out(IMAGES, known, 1e-9, 1).sum() == 1
    patients = dataclasses.replace(IMAGES, patients=np.arange(60) // 6)
    held = online.held_out(patients, known, 0.3, 1).reshape(10, 6)
    assert held.any() and (held.all(axis=1) == held.any(axis=1)).all()


def test_what_a_session_was_trained_on_counts_once_it_is_counted(tmp_path: Path) -> None:
    known = online.digests(IMAGES)
    online.remember(tmp_path, GENESIS, 1, known[:10])
    online.remember(tmp_path, GENESIS, 2, known[10:15])
    online.remember(tmp_path, "cd" * 32, 1, known[15:])
    assert online.recall(tmp_path, GENESIS, 2) == set(known[:15])
    assert online.recall(tmp_path, GENESIS, 1) == set(known[:10])
    assert online.recall(tmp_path, GENESIS, 2) == set(known[:10])  # the second never counted: it is trained anew


@pytest.mark.parametrize(
    ("images", "steps", "found"),
    [(0, 0, False), (1, 2, True), (1, 3, False), (8, 2, True), (9, 4, True), (9, 5, False)],
)
def test_how_many_new_images_are_enough(images: int, steps: int, found: bool) -> None:
    """Two epochs of batches of eight."""
    assert online.enough(images, 8, 2, steps) is found


@pytest.mark.parametrize(
    ("sequence", "turns", "found"),
    [(20, 8, True), (26, 8, True), (27, 8, False), (40, 8, False), (26, ABSENT, False)],
)
def test_it_is_quiet_while_turns_only_pass(sequence: int, turns: int | Absent, found: bool) -> None:
    now = dataclasses.replace(standing(), turns=turns)
    assert session.quiet(now, sequence, session.Passed(20, 5)) is found
    assert not session.quiet(now, sequence, None)


class Release:
    """As far as `New.passes` looks at one."""

    def __init__(self, sequence: int, of: Standing) -> None:
        self.release, self.standing, self.site = self, of, "alice-1"
        self.sequence = sequence


def test_a_turn_passes_at_once_where_others_train_and_is_held_where_none_does(tmp_path: Path) -> None:
    now = [0.0]
    new = online.New(tmp_path, lambda: now[0])

    def passes(sequence: int, turns: int, **more: object) -> bool:
        of = dataclasses.replace(standing(turns=turns), **more)  # type: ignore[arg-type]
        return new.passes(Release(sequence, of), 60.0)  # type: ignore[arg-type]

    assert passes(10, 3)  # nobody was heard of yet
    assert passes(17, 6)  # one of the two others has trained
    now[0] = 10.0
    assert not passes(23, 9)  # nobody has
    now[0] = 69.0
    assert not passes(23, 9)
    assert not passes(25, 9, schedule="free")
    assert not passes(25, 9, sites=("alice-1",))
    now[0] = 70.0
    assert passes(23, 9)


OVER = SessionOver(
    id="01890a5d-ac96-774b-bcce-b302099a8057", builds_on=3, session=4, epochs=0, checkpoints=0, examples=0,
    metrics=None,
    started="2026-01-31T12:00:00.123Z", created="2026-01-31T12:00:00.123Z",
)  # fmt: skip


def test_a_turn_that_passes_is_said_and_an_ordinary_report_is_as_ever() -> None:
    assert b"passed" not in OVER.to_bytes()
    passed = dataclasses.replace(OVER, passed=True)
    assert SessionOver.from_bytes(passed.to_bytes()) == passed
    travels = Report(sender="alice-1", **vars(passed))
    assert Report.from_bytes(travels.to_bytes()) == travels
    for wrong in (b"false", b"1", b"null"):
        with pytest.raises(BundleError, match="'passed' of the manifest"):
            SessionOver.from_bytes(passed.to_bytes().replace(b"true", wrong))
