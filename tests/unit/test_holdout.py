"""A holdout that is cut out of train: which images it takes, that it never divides a patient, and that it stays."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedssh.charity.judge.own_images import reading_of, to_reading, to_record, told_of_cut
from fedssh.errors import SettingsError
from fedssh.models.data import images
from fedssh.models.data.holdout import ChangedError, Cut, Row, divide, identity
from fedssh.models.data.reading import Reading

SQUARE = (4, 4, 1)


def rows(number: int = 100, split: str = "train", patients: int = 0, category: str = "a") -> list[Row]:
    return [
        Row(split, category, f"{category}{at}.png", f"{category}-{at % patients}" if patients else None)
        for at in range(number)
    ]


def test_every_class_keeps_its_share() -> None:
    every = rows(100) + rows(30, category="b") + rows(3, category="c")
    kept, held = divide(every, Cut(0.2, 0), "x")
    assert Counter(every[place].category for place in held) == {"a": 20, "b": 6, "c": 1}
    assert sorted(kept + held) == list(range(133))


def test_the_same_images_on_every_machine_and_by_every_version() -> None:
    every = rows(20)
    assert divide(every, Cut(0.2, 0), "x")[1] == [2, 6, 11, 16]
    assert divide(every, Cut(0.2, 1), "x")[1] == [0, 3, 8, 17]
    shuffled = random.Random(0).sample(every, 20)
    assert {shuffled[place] for place in divide(shuffled, Cut(0.2, 0), "x")[1]} == {every[at] for at in (2, 6, 11, 16)}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))), min_size=4, max_size=60),
    st.floats(0.05, 0.95), st.integers(0, 3),
)  # fmt: skip
def test_no_patient_is_ever_on_both_sides(said: list[tuple[str, int | None]], share: float, seed: int) -> None:
    every = [
        Row("train", category, f"{at}.png", None if patient is None else str(patient))
        for at, (category, patient) in enumerate(said)
    ]
    try:
        kept, held = divide(every, Cut(share, seed), "x")
    except ValueError as error:  # one patient, or one image of each class
        assert "too few" in str(error)
        return
    both = {every[place].patient for place in kept} & {every[place].patient for place in held}
    assert both <= {None} and kept and held and not set(kept) & set(held)


def test_an_existing_val_is_part_of_it_with_its_patients() -> None:
    every = [*rows(100, patients=25), Row("val", "a", "v.png", "a-7")]
    kept, held = divide(every, Cut(0.2, 0), "x")
    assert 100 in held
    assert {place for place in range(100) if every[place].patient == "a-7"} <= set(held)
    assert len(held) == pytest.approx(1 + 4 + 0.2 * 96, abs=4) and len(kept) + len(held) == 101


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_share_is_between_nothing_and_all(share: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share between 0 and 1, such as 0\.2"):
        divide(rows(), Cut(share, 0), "x")


def test_a_set_that_changed_is_refused() -> None:
    every = rows()
    cut = Cut(0.2, 0, identity(every), 100)
    divide(every[::-1], cut, "x")
    changed = {
        "one more": [*every, Row("train", "a", "new.png", None)],
        "one less": every[1:],
        "another class": [every[0]._replace(category="b"), *every[1:]],
        "another name": [every[0]._replace(name="b"), *every[1:]],
        "another patient": [every[0]._replace(patient="b"), *every[1:]],
        "another split": [every[0]._replace(split="val"), *every[1:]],
    }
    for now in changed.values():
        with pytest.raises(ChangedError, match="x has changed since `charity init` cut the holdout"):
            divide(now, cut, "x")


def folder(root: Path, number: int = 20) -> Path:
    """Images whose values say which file they are from; two of each patient."""
    for at in range(number):
        path = root / "ab"[at % 2] / f"person{at // 4}_{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 100 + at).save(path)
    return root


def arrays(path: Path, number: int = 20) -> Path:
    pixels = np.repeat(np.arange(100, 100 + number, dtype=np.uint8), 16).reshape(number, 4, 4)
    labels = np.arange(number) % 2
    patients = np.arange(number) // 4
    np.savez(
        path, train_images=pixels, train_labels=labels, train_patients=patients,
        val_images=pixels[:1] + 100, val_labels=labels[:1], val_patients=patients[:1],
    )  # fmt: skip
    return path


def test_a_folder_is_cut_into_what_is_trained_on_and_what_is_scored_on(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    said = to_record(data, r"(person\d+)_", share=0.3)
    reading = to_reading(reading_of({}, said | {"max_value": None}))
    train, val = (images.load(data, SQUARE, 2, split, reading) for split in ("train", "val"))
    assert (len(train), len(val)) == (12, 8)
    assert not set(train.images[:, 0, 0, 0]) & set(val.images[:, 0, 0, 0])
    assert train.patients is not None and val.patients is not None
    assert not set(train.patients) & set(val.patients)
    assert images.splits(data, reading) == ("train", "val")
    assert told_of_cut(data, said) == (
        "the holdout is 8 of 20 images; 12 stay to train on; none of 5 patients is in both"
    )
    (data / "a" / "person0_new.png").write_bytes((data / "a" / "person0_0.png").read_bytes())
    for split in ("train", "val"):
        with pytest.raises(ChangedError, match="train and val had 20 images, now 21; give exactly those back"):
            images.load(data, SQUARE, 2, split, reading)


def test_arrays_are_cut_and_joined_with_the_val_they_have(tmp_path: Path) -> None:
    data = arrays(tmp_path / "a.npz")
    reading = to_reading(reading_of({}, to_record(data, share=0.2) | {"max_value": None}))
    train, val = (images.load(data, SQUARE, 2, split, reading) for split in ("train", "val"))
    assert len(train) + len(val) == 21
    values = np.rint(val.images[:, 0, 0, 0] * 255).astype(int).tolist()
    assert {100, 101, 102, 103, 200} <= set(values), "the patient of val, with all images"
    assert not set(train.patients.tolist()) & set(val.patients.tolist())  # type: ignore[union-attr]


def test_other_images_are_not_cut_but_hers_at_another_place_are(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    said = to_record(data, r"(person\d+)_", share=0.3)
    shutil.copytree(data, tmp_path / "moved")
    assert "holdout" in reading_of({}, said, tmp_path / "moved")
    other = reading_of({}, said, folder(tmp_path / "other", 16))
    assert "holdout" not in other and "patient" not in other


def test_what_cannot_be_cut_is_said(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", 2)
    with pytest.raises(SettingsError, match="2 images of 2 patients: too few to cut"):
        to_record(data, share=0.2)
    with pytest.raises(SettingsError, match=r"--patient '\(' is no regular expression"):
        to_record(data, "(", share=0.2)
    with pytest.raises(SettingsError, match=r"--patient 'P.*d' fits no file of .*data, such as a/person0_0\.png"):
        to_record(data, r"P\d", share=0.2)
    with pytest.raises(SettingsError, match="has no file names for --patient"):
        to_record(arrays(tmp_path / "a.npz"), "x", share=0.2)


def test_a_site_never_validates_on_a_patient_that_it_trains_on(tmp_path: Path) -> None:
    told: list[str] = []
    data = folder(tmp_path / "data", 40)
    Image.new("L", (4, 4), 255).save(data / "a" / "nobody.png")
    found = images.load(data, SQUARE, 2, "train", Reading(patient=r"(person\d+)_", tell=told.append))
    assert told[0] == (
        "--patient fits 40 of 41 files; each of the others, such as a/nobody.png, counts as a patient of its own"
    )
    assert found.patients is not None and len(set(found.patients)) == 11
    for seed in range(5):
        kept, held = images.hold_out(found.labels, 0.15, seed, found.patients)
        assert not set(found.patients[kept]) & set(found.patients[held])
