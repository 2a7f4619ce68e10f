"""Data of a run: the same for the same run, nothing twice, and everything where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.definition.config import Prepared
from experiments.definition.prepare import prepare
from experiments.definition.read import read
from fedssh.errors import SettingsError
from fedssh.models.data.images import Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in which every image is a number of its own."""
    arrays: dict[str, np.ndarray] = {}
    for split, start, count in (("train", 0, 120), ("val", 120, 30), ("test", 150, 40)):
        numbers = np.arange(start, start + count)
        pixels = np.zeros((count, 12, 12), np.uint8)
        pixels[:, 0, 0] = numbers
        arrays |= {f"{split}_images": pixels, f"{split}_labels": numbers % 2}
    np.savez(tmp_path / "tiny.npz", allow_pickle=False, **arrays)
    return tmp_path


def prepared(folder: Path, text: str) -> Prepared:
    path = folder / "e.toml"
    path.write_text(f'question = "?"\n[data]\ndataset = "tiny.npz"\n{text}')
    return prepare(read(path).runs[0], folder)


def numbers(images: Images | None) -> list[int]:
    assert images is not None
    return [round(float(pixel) * 255) for pixel in images.images[:, 0, 0, 0]]


def test_every_training_image_is_in_one_place(folder: Path) -> None:
    found = prepared(folder, "[[runs]]\nsites = 4\n")
    assert found.train is not None
    everywhere = [*numbers(found.train), *(one for part in found.parts.values() for one in numbers(part))]
    assert sorted(everywhere) == list(range(120))
    assert numbers(found.holdout) == list(range(120, 150))
    assert numbers(found.test) == list(range(150, 190))
    assert found.spec["input"] == [12, 12, 1]
    assert list(found.parts) == ["alice-1", "alice-2", "alice-3", "alice-4"]


def test_same_run_same_arrays(folder: Path) -> None:
    text = "per_label = 40\n[[runs]]\nsites = 3\npartition = 'dirichlet:0.3'\n"
    one, two = prepared(folder, text), prepared(folder, text)
    for name in one.parts:
        assert np.array_equal(one.parts[name].images, two.parts[name].images)


def test_centralised_has_all_of_it(folder: Path) -> None:
    found = prepared(folder, "[[runs]]\nschedule = 'centralised'\n")
    assert sorted(numbers(found.parts["alice-1"])) == list(range(120))


def test_without_the_coordinators_share_it_starts_from_random_weights(folder: Path) -> None:
    found = prepared(folder, "coordinator = 0\n[[runs]]\nsites = 2\n")
    assert found.train is None
    assert sum(map(len, found.parts.values())) == 120


def test_limits_keep_the_shares_of_the_classes(folder: Path) -> None:
    found = prepared(folder, "train = 60\nholdout = 10\ntest = 20\ncoordinator = 0\n[[runs]]\nsites = 2\n")
    assert [len(part) for part in found.parts.values()] == [30, 30]
    assert (len(found.holdout), len(found.test)) == (10, 20)
    assert found.holdout.labels.sum() == 5


def test_folds_test_on_every_image_once(folder: Path) -> None:
    tested: list[int] = []
    for fold in (1, 2, 3):
        found = prepared(folder, f"folds = 3\n[[runs]]\nfold = {fold}\nsites = 2\n")
        trained = [one for part in found.parts.values() for one in numbers(part)]
        assert not {*trained, *numbers(found.train), *numbers(found.holdout)} & {*numbers(found.test)}
        tested += numbers(found.test)
    assert sorted(tested) == list(range(150))


def test_wrong_labels_at_the_attackers_only(folder: Path) -> None:
    honest = prepared(folder, "[[runs]]\nsites = 3\n")
    flipped = prepared(folder, "[[runs]]\nsites = 3\nattack = 'label-flip'\n")
    assert np.array_equal(honest.parts["alice-1"].labels, flipped.parts["alice-1"].labels)
    assert np.array_equal(1 - honest.parts["alice-3"].labels, flipped.parts["alice-3"].labels)


def test_a_backdoor_is_in_the_images_of_the_attackers_only(folder: Path) -> None:
    honest = prepared(folder, "[[runs]]\nsites = 3\n")
    found = prepared(folder, "[[runs]]\nsites = 3\nattack = 'backdoor:1,share=0.5'\n")
    assert np.array_equal(honest.parts["alice-2"].images, found.parts["alice-2"].images)
    part = found.parts["alice-3"]
    assert (part.images[:, -1, -1, 0] == 1).sum() == round(len(part) / 2)
    assert part.labels.sum() > honest.parts["alice-3"].labels.sum()
    assert not found.test.images[:, -1, -1].any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weights = 'none.npz'\n[[runs]]\n", "none.npz is neither in"),
        ("[[runs]]\nsites = 500\n", "do not suffice"),
        ("[[runs]]\ndataset = 'none.npz'\n", "none.npz is neither"),
        ("[[runs]]\npartition = 'by_patient'\n", "by_patient"),
        ("[[runs]]\nattack = 'backdoor:2'\n", "wants class 2, the last one is 1"),
    ],
)
def test_what_is_missing_is_said(folder: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        prepared(folder, text)


def test_a_share_of_each_sites_images_keeps_its_labels_and_the_rest_has_none(folder: Path) -> None:
    found = prepared(folder, "labelled = 0.1\ncoordinator = 0\n[[runs]]\nsites = 3\n")
    assert [len(part) for part in found.parts.values()] == [4, 4, 4]
    assert all(part.labels.tolist().count(0) == 2 for part in found.parts.values())
    everywhere = [one for part in found.parts.values() for one in numbers(part)]
    for images in found.unlabelled.values():
        everywhere += [round(float(pixel) * 255) for pixel in images[:, 0, 0, 0]]
    assert sorted(everywhere) == list(range(120))
    assert not prepared(folder, "[[runs]]\nsites = 3\n").unlabelled
    with pytest.raises(SettingsError, match="alice-1 has 1 labels, at least 2 are needed"):
        prepared(folder, "labelled = 0.01\n[[runs]]\nsites = 3\n")
