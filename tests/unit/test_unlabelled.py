"""Images without labels: what a plan says of them, where a data set has them, and that nobody counts them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.alice.fitting import loss_of
from fedssh.errors import BundleError, SettingsError
from fedssh.models import autoencoder, check_spec, fixmatch
from fedssh.models.data import images, unlabelled_set
from fedssh.models.data.contents import look, look_through
from fedssh.models.data.holdout import Cut
from fedssh.models.data.pixel_file import Store
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import NOTE
from fedssh.rules.plan import read_plan
from fedssh.rules.unlabelled import read_unlabelled
from fedssh.use import check
from tests.unit.test_agreement import OLD_PLAN, agreed

SQUARE = (4, 4, 1)
WRITTEN = "fixmatch:threshold=0.8,weight=1,ratio=3,decay=0.9"


# what is agreed


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("none", "none"),
        ("fixmatch", WRITTEN),
        (WRITTEN, WRITTEN),
        (" fixmatch:ratio=7, threshold=0.95 ", "fixmatch:threshold=0.95,weight=1,ratio=7,decay=0.9"),
        ("fixmatch:decay=0", "fixmatch:threshold=0.8,weight=1,ratio=3,decay=0"),
        ("autoencoder", "autoencoder:weight=1,cut=auto"),
        ("autoencoder:cut=pool2,weight=0.5", "autoencoder:weight=0.5,cut=pool2"),
    ],
)
def test_a_plan_has_every_option_written_out_as_trainers_read_it(text: str, written: str) -> None:
    assert read_unlabelled(text) == written == read_unlabelled(written)
    found = autoencoder.read(written) if written.startswith("autoencoder") else fixmatch.read(written)
    if written == "none":
        assert found is None
    else:
        assert found is not None
        every = (f"{name}={value}".removesuffix(".0") for name, value in vars(found).items())
        assert ",".join(every) == written.partition(":")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("encoder", "expected none, fixmatch or autoencoder"),
        ("fixmatch:", "expected none, fixmatch or autoencoder"),
        (3, "expected none, fixmatch or autoencoder"),
        ("autoencoder:cut=a=b", "cut of autoencoder is 'a=b', expected the name of a layer"),
        ("autoencoder:ratio=3", "no option 'ratio'"),
        ("autoencoder:weight=0", "weight of autoencoder is '0', expected a number above 0"),
        ("fixmatch:0.9", "'0.9' of fixmatch is not OPTION=VALUE"),
        ("fixmatch:treshold=0.9", "no option 'treshold'; did you mean 'threshold'"),
        ("fixmatch:ratio=2,ratio=3", "ratio twice"),
        ("fixmatch:ratio=0", "ratio of fixmatch is '0', expected a whole number in 1..64"),
        ("fixmatch:threshold=1.1", "threshold of fixmatch is '1.1', expected a number above 0 to 1"),
        ("fixmatch:decay=1", "decay of fixmatch is '1', expected a number from 0 to below 1"),
        ("fixmatch:weight=nan", "weight of fixmatch is 'nan', expected a number above 0"),
    ],
)
def test_what_no_site_could_learn_by_is_refused_when_it_is_agreed_and_at_the_site(text: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_unlabelled(text)
    with pytest.raises(SettingsError, match=words):
        agreed(unlabelled=text)
    with pytest.raises(BundleError, match=words):
        read_plan({**OLD_PLAN, "unlabelled": text, "loss": "auto with unlabelled"})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"input": [1, 3, 1], "classes": 3, "kind": "table"}, "this is a table"),
        ({"input": [4, 4, 1], "task": "labels", "labels": 3}, "labels are guessed of classes"),
    ],
)
def test_a_site_refuses_a_plan_that_does_not_fit_the_network(spec: dict[str, Any], words: str) -> None:
    metric = "subset_accuracy" if "labels" in spec else "accuracy"
    plan = read_plan({**OLD_PLAN, "unlabelled": WRITTEN, "loss": "auto with unlabelled", "metric": metric})
    with pytest.raises(SettingsError, match=f"the plan's unlabelled: .*{words}"):
        loss_of(check_spec({"name": "mlp", **spec}), plan)


# where they are


def npz(path: Path, **arrays: Any) -> Path:
    random = np.random.default_rng(0)
    pixels = {
        f"{name.removesuffix('_labels')}_images": random.integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
        for name, labels in arrays.items() if name.endswith("_labels")
    }  # fmt: skip
    every: dict[str, Any] = {**pixels, **arrays}
    np.savez(path, **every)
    return path


def folder(root: Path, *names: str) -> Path:
    random = np.random.default_rng(1)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4), dtype=np.uint8)).save(root / name)
    return root


LABELS = [0, -1, 1, 1, -1, 0, -1]


def test_the_label_of_nobody_knows_is_no_class_and_no_example(tmp_path: Path) -> None:
    path = npz(tmp_path / "site.npz", train_labels=LABELS, train_patients=list("aabbccd"), val_labels=[0, 1])
    stored = np.load(path)["train_images"]
    train = images.load(path, SQUARE, 2, "train")
    assert train.labels.tolist() == [0, 1, 1, 0]
    assert train.patients is not None and train.patients.tolist() == ["a", "b", "b", "c"]
    assert np.array_equal(train.images[..., 0], stored[[0, 2, 3, 5]] / np.float32(255))
    assert images.describe(path).classes == 2
    assert images.task(path) == "classes"
    assert [row.category for row in images.rows(path)] == ["0", "1", "1", "0", "0", "1"]
    assert images.count_unlabelled(path) == 3
    others = images.unlabelled(path, SQUARE)
    assert others is not None and np.array_equal(others[..., 0], stored[[1, 4, 6]] / np.float32(255))
    file = images.load(path, SQUARE, 2, "train", Reading(store=Store(tmp_path / "pixels", 0)))
    assert np.array_equal(file.images.read(np.arange(4)), train.images)  # type: ignore[attr-defined]


def test_a_holdout_that_is_cut_has_labels_only(tmp_path: Path) -> None:
    path = npz(tmp_path / "own.npz", train_labels=LABELS * 4)
    reading = Reading(cut=Cut(0.25, 1))
    train, val = (images.load(path, SQUARE, 2, split, reading) for split in ("train", "val"))
    assert len(train) + len(val) == 16 and len(val) >= 4
    assert {*train.labels.tolist(), *val.labels.tolist()} == {0, 1}


def test_only_images_to_train_on_may_lack_a_class(tmp_path: Path) -> None:
    path = npz(tmp_path / "site.npz", train_labels=[0, 1], val_labels=[0, -1])
    with pytest.raises(ValueError, match=r"val_labels has the label -1 \(1 such\).* only in train"):
        images.load(path, SQUARE, 2, "val")
    numbers = npz(tmp_path / "numbers.npz", train_labels=np.array([-1.0, 0.5, 2.25]))
    reading = Reading(task="regression")
    assert images.targets(numbers, 1, reading).ravel().tolist() == [-1.0, 0.5, 2.25]
    assert images.count_unlabelled(numbers, reading) == 0
    assert images.unlabelled(numbers, SQUARE, reading) is None


@pytest.mark.parametrize("place", ["Unlabelled", "unlabelled/more"])
@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_beside_the_classes_has_no_class(tmp_path: Path, place: str, splits: bool, packed: bool) -> None:
    before = "train/" if splits or packed else ""
    names = [f"{before}cats/1.png", f"{before}dogs/2.png", f"{before}{place}/3.png", f"{before}{place}/4.png"]
    root = folder(tmp_path / "data", *names, *(["val/cats/5.png", "val/dogs/6.png"] if splits else []))
    if packed:
        with tarfile.open(tmp_path / "data.tar", "w") as archive:
            archive.add(root, "photographs")
        root = tmp_path / "data.tar"
    assert images.describe(root).names == ("cats", "dogs")
    assert images.load(root, SQUARE, 2, "train").labels.tolist() == [0, 1]
    assert len(images.rows(root)) == (4 if splits else 2)
    assert images.count_unlabelled(root) == 2
    others = images.unlabelled(root, SQUARE)
    assert others is not None and others.shape == (2, *SQUARE) and 0 < others.mean() < 1


def test_a_folder_of_them_beside_splits_and_nowhere_else(tmp_path: Path) -> None:
    root = folder(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "unlabelled/4.png")
    assert images.count_unlabelled(root) == 1
    folder(root, "test/unlabelled/5.png")  # as ever a class: nothing is trained on there
    assert images.describe(root).names == ("a", "b", "unlabelled")
    only = folder(tmp_path / "only", "unlabelled/1.png")
    with pytest.raises(ValueError, match="only images without labels"):
        images.describe(only)


def test_all_of_a_site_are_put_together_and_must_stand_in_memory(tmp_path: Path) -> None:
    data = npz(tmp_path / "site.npz", train_labels=LABELS)
    more = folder(tmp_path / "more", "1.png", "deep/2.png")
    found = unlabelled_set.load_all(data, more, SQUARE, Reading())
    assert found is not None and len(found.images) == 5
    assert found.remarks == (f"3 images of {data} have no label", f"2 images from {more}")
    none = npz(tmp_path / "none.npz", train_labels=[0, 1])
    assert unlabelled_set.load_all(none, None, SQUARE, Reading()) is None
    for own, others in ((data, None), (none, more)):
        with pytest.raises(ValueError, match=r"unlabelled images take 0 MB of memory, more than may be used"):
            unlabelled_set.load_all(own, others, SQUARE, Reading(store=Store(tmp_path / "pixels", 10)))


@pytest.mark.parametrize("whole", [look, look_through])
def test_a_check_counts_them_apart(tmp_path: Path, whole: Any) -> None:
    data = npz(tmp_path / "site.npz", train_labels=LABELS)
    root = folder(tmp_path / "data", "a/1.png", "b/2.png", "unlabelled/3.png", "unlabelled/4.png")
    for path, number in ((data, 3), (root, 2)):
        found = whole(path)
        assert found.unlabelled == number
        assert "-1" not in found.counts["train"] and "unlabelled" not in found.counts["train"]
        checked = check.site_data(path, Reading(), check.Agreed(None), unpack=whole is look_through)
        assert [one.text for one in checked.said if "label" in one.text and one.level == NOTE] == [
            f"{number} images more have no label and are counted nowhere else"
        ]
    (root / "unlabelled" / "4.png").write_bytes(b"no image")
    if whole is look_through:
        found = whole(root)
        assert found.unlabelled == 1 and len(found.wrong["no readable images"]) == 1


# which of them a step takes


def test_every_pass_goes_through_all_whichever_step_comes_first() -> None:
    whole = fixmatch.places(5, 7, 0, 9, 4)
    assert whole.shape == (9, 4) and whole.dtype == np.int64
    row = whole.ravel()
    assert [sorted(row[at : at + 7].tolist()) for at in range(0, 35, 7)] == [list(range(7))] * 5
    assert row[:7].tolist() != row[7:14].tolist()
    parts = [fixmatch.places(5, 7, 0, 2, 4), fixmatch.places(5, 7, 2, 1, 4), fixmatch.places(5, 7, 3, 6, 4)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(fixmatch.places(6, 7, 0, 9, 4), whole)
    assert fixmatch.places(5, 2, 3, 2, 9).shape == (2, 9), "fewer than a step takes come more than once"
