"""What a federation takes from its coordinator's images, and what it asks for when they do not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.charity.judge.own_images import reading_of, take, to_reading
from fedssh.errors import SettingsError


def folder(root: Path, size: tuple[int, int] = (64, 64), mode: str = "L", classes: int = 2) -> Path:
    for number in range(classes):
        for index in range(2):
            path = root / f"class{number}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, size, "white").save(path)
    return root


def npz(path: Path, *shape: int, classes: int = 2, **more: Any) -> Path:
    np.savez(path, train_images=np.full((20, *shape), 200, np.uint8), train_labels=np.arange(20) % classes, **more)
    return path


@pytest.mark.parametrize(
    ("size", "mode", "classes", "wanted"),
    [
        ((64, 64), "L", 2, [64, 64, 1]),
        ((32, 32), "RGB", 10, [32, 32, 3]),
        ((40, 30), "RGBA", 3, [30, 40, 3]),
        ((28, 28), "1", 2, [28, 28, 1]),
    ],
)
def test_size_colours_and_classes_come_from_a_folder(
    tmp_path: Path, size: tuple[int, int], mode: str, classes: int, wanted: list[int]
) -> None:
    taken = take(folder(tmp_path, size, mode, classes), "cnn")
    assert (taken.spec["input"], taken.spec["classes"]) == (wanted, classes)
    assert taken.class_names == [f"class{number}" for number in range(classes)]
    kind = "grey" if wanted[2] == 1 else "coloured"
    assert taken.told[0].startswith(
        f"the network takes {wanted[0]}x{wanted[1]} {kind} images in {classes} classes: 0 is"
    )
    assert len(taken.told) == 1


def test_size_colours_and_classes_come_from_arrays(tmp_path: Path) -> None:
    taken = take(npz(tmp_path / "a.npz", 32, 32, 3, classes=10), '{"name":"cnn","depth":8}')
    assert taken.spec == {"name": "cnn", "input": [32, 32, 3], "classes": 10, "depth": 8}
    assert taken.class_names is None
    assert taken.told == [
        "the network takes 32x32 coloured images in 10 classes without names, so no site is held to what a label means",
        "--classes 0=NAME,1=NAME,… names them",
    ]
    assert take(npz(tmp_path / "b.npz", 28, 28, class_names=np.array(["a", "b"])), "mlp").class_names == ["a", "b"]
    assert take(tmp_path / "a.npz", "cnn", given=",".join(f"{n}=c{n}" for n in range(10))).class_names == [
        f"c{number}" for number in range(10)
    ]


def test_what_is_not_the_images_own_is_said(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", mode="RGB")
    for words in (('{"name":"cnn","input":[28,28,1]}',), ("cnn", "28x28x1")):
        taken = take(data, *words)
        assert taken.spec["input"] == [28, 28, 1]
        assert taken.told[1] == f"of {data}, 4 images are resized from 64x64 to 28x28 and their colours turned grey"
    assert take(data, "cnn", "32x48").spec["input"] == [32, 48, 3]
    assert take(data, '{"name":"cnn","input":[32,48,1]}', "32x48").spec["input"] == [32, 48, 1]


def test_images_of_several_sizes_or_kinds_need_a_word(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    Image.new("L", (300, 200), 255).save(data / "class0" / "large.png")
    with pytest.raises(
        SettingsError, match=r"has images of 2 sizes \(64x64 to 200x300\); a network takes one"
    ) as caught:
        take(data, "cnn")
    assert caught.value.hint == "--size says which, such as --size 64x64; images are resized to it"
    taken = take(data, "cnn", "64x64")
    assert taken.spec["input"] == [64, 64, 1]
    assert taken.told[1] == f"of {data}, 5 images are resized from 2 sizes (64x64 to 200x300) to 64x64"
    Image.new("RGB", (64, 64), 255).save(data / "class0" / "large.png")
    with pytest.raises(SettingsError, match="4 grey and 1 coloured images") as caught:
        take(data, "cnn")
    assert caught.value.hint == "--size with three numbers says which, such as 64x64x1 for grey or 64x64x3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cnn", "64"), "--size is '64', expected HEIGHTxWIDTH"),
        (('{"name":"cnn","input":[28,28,1]}', "64x64"), r"--size is 64x64, --architecture says \[28, 28, 1\]"),
        (('{"name":"cnn","classes":3}',), r"--architecture has 3 classes, .* has 2: 0 is class0, 1 is class1"),
        (("nonesuch",), "--architecture: no architecture is called 'nonesuch'"),
        (("@/nowhere",), "--architecture: .*nowhere"),
        (("cnn", None, "a=b"), "--classes: her data has no class a; its classes are class0, class1"),
        (("cnn", None, "class0=x,class1=x"), r"classes must be a whole number in 2"),
        (("cnn", "99999x99999"), "input has 99999 x 99999 pixels"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, words: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        take(folder(tmp_path), *words)


def test_older_federations_and_states_are_read_as_they_were_made() -> None:
    older = to_reading(reading_of({}, {"data": "x.npz", "address": None}))
    assert (older.held, older.dark) == (False, True)
    known = reading_of({"class_names": ["a", "b"]}, {"classes": "x=a,y=b", "max_value": 4095})
    reading = to_reading(json.loads(json.dumps(known)))
    assert (reading.names, reading.given, reading.white) == (["a", "b"], {"x": "a", "y": "b"}, 4095)
    assert reading.dark is False
