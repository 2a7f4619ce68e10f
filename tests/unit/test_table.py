"""A .csv table of files and labels: how its columns are found, and what it may not list."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from fedssh.models.data import images
from fedssh.models.data.reading import Reading
from fedssh.models.data.table import read, read_columns

SQUARE = (4, 4, 1)


def put(root: Path, text: str, *names: str, encoding: str = "utf-8") -> Path:
    for value, name in enumerate(names, 100):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), value).save(root / name)
    (root / "labels.csv").write_text(text, encoding=encoding)
    return root / "labels.csv"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file,label\nx/1.png,b\n2.png,a\n", "utf-8"),
        ("Image;Class;age\r\nx/1.png;b;7\r\n2.png;a;9\r\n\r\n", "utf-8-sig"),
        ('path\tnote\tDiagnosis\n"x/1.png"\t\tb\n2.png\t"a\tb"\ta\n', "utf-8"),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path: Path, text: str, encoding: str) -> None:
    path = put(tmp_path, text, "x/1.png", "2.png", encoding=encoding)
    assert images.describe(path).names == ("a", "b")
    assert images.splits(path) == ("train",)
    found = images.load(path, SQUARE, 2, "train")
    assert found.labels.tolist() == [0, 1] and found.patients is None
    assert [round(255 * float(image.max())) for image in found.images] == [101, 100]


def test_splits_and_patients_have_columns_of_their_own(tmp_path: Path) -> None:
    lines = ["file,label,split,patient", "1.png,a,Training,p", "2.png,b,train,q", "3.png,a,TEST,p", "4.png,b,valid,r"]
    path = put(tmp_path, "\n".join(lines), "1.png", "2.png", "3.png", "4.png")
    assert images.splits(path) == ("train", "val", "test")
    assert images.load(path, SQUARE, 2, "train").patients is not None
    with pytest.raises(ValueError, match="has a column of patients; leave out --patient"):
        images.load(path, SQUARE, 2, "train", Reading(patient="x"))


def test_other_names_are_said(tmp_path: Path) -> None:
    path = put(tmp_path, "id,finding,file\n1.png,a,no\n2.png,b,no\n", "1.png", "2.png")
    with pytest.raises(
        ValueError,
        match=r"no column for label \(label or class or .*\); its columns are id, finding, file: --columns la",
    ):
        images.splits(path)
    columns = read_columns("file=id, label=finding")
    assert images.load(path, SQUARE, 2, "train", Reading(columns=columns)).labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"no column for patient \(person\); its columns are"):
        read(path, {**columns, "patient": "person"})


def test_columns_of_the_same_meaning_are_asked_about(tmp_path: Path) -> None:
    path = put(tmp_path, "file,path,label\n1.png,x,a\n", "1.png")
    with pytest.raises(ValueError, match="several columns for file"):
        read(path, {})
    assert read(path, {"file": "file"}).names == ("a",)


@pytest.mark.parametrize("text", ["file", "what=x", "label=", "=x"])
def test_what_columns_says_is_checked(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, "file,label\n1.png,a\n", "1.png")
    with pytest.raises(ValueError, match="is none of file=NAME, label=NAME, split=NAME, patient=NAME"):
        read(path, read_columns(text))


def test_everything_that_cannot_be_used_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as in a plain room
    inside = tmp_path / "set"
    outside = tmp_path / "secret.png"
    lines = [
        "file,label,split", "1.png,a,train", "1.png,b,test", "../secret.png,a,train", "link.png,a,train",
        f"{outside},a,train", "away/secret.png,a,train", "gone.png,a,train", "2.png,,train", "3.png,a,fold 3",
        ",a,train", "note.txt,a,train", "4.dcm,a,train", "5.png,a", "null\0.png,a,train",
    ]  # fmt: skip
    path = put(inside, "\n".join(lines), "1.png", "2.png", "3.png")
    Image.new("L", (4, 4), 1).save(outside)
    (inside / "link.png").symlink_to(outside)
    (inside / "away").symlink_to(tmp_path)
    (inside / "note.txt").write_text("x")
    (inside / "4.dcm").write_bytes(b"x")
    wrong = read(path, {}).wrong
    assert {kind: len(names) for kind, names in wrong.items()} == {
        "files listed twice": 1, "files outside the table's folder": 5, "missing files": 2, "files without a label": 1,
        "files whose split is none of train, val, test": 1, "*.txt files": 1, "DICOM files": 1,
        "lines with another number of columns": 1,
    }  # fmt: skip
    assert wrong["files listed twice"] == ["1.png in line 3"]
    with pytest.raises(ValueError, match="has 13 files that cannot be used"):
        images.load(path, SQUARE, 2, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column for file .* its columns are none"),
        (b"file,label\n", "lists no files"),
        (b"file,label\n\xff\xfe,a\n", "is no readable table"),
        (b'file,label\n"1.png,a\n', "is no readable table"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        images.splits(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        images.splits(tmp_path / "gone.csv")
