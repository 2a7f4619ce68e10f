"""A table of features: what its columns are, what becomes of its cells, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.models.data import cells, features, images
from fedssh.models.data.cells import ColumnsError
from fedssh.models.data.columns import Column, Columns, read_columns_record
from fedssh.models.data.holdout import Cut
from fedssh.models.data.reading import Reading
from fedssh.models.data.table import read_columns

TEXT = "age,smoker,diagnosed,outcome\n30,yes,true,ill\n50,no,false,well\n,,TRUE,ill\n40,yes,False,well\n"
SAID = Reading(target="outcome")


def put(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def table(text: str, folder: Path, **more: Any) -> Columns:
    found = images.describe(put(folder, text), Reading(target="outcome", **more)).table
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (["1", "-2.5", "3e4", "", "NA", "?"], "number"),
        ([1.0, None, float("nan")], "number"),
        (["0", "1"], "number"),
        (["true", "False", ""], "flag"),
        ([True, None], "flag"),
        (["2024-05-01", "2024-05-01 10:30"], "date"),
        (["1.5.2024", "12/31/24"], "date"),
        (["3,5", "4", "1.234,5"], "comma"),
        (["m", "f", ""], "category"),
        (["1", "none of these"], "category"),
        (["none", "None"], "category"),
        (["", None], "nothing"),
        (["inf"], "category"),
    ],
)
def test_the_kind_of_a_column_is_what_all_its_values_are(said: list[Any], kind: str) -> None:
    assert cells.kind_of(said) == kind


def test_figures_are_of_the_rows_to_train_on_and_cells_become_numbers_by_them(tmp_path: Path) -> None:
    text = TEXT.replace("outcome\n", "outcome,split\n").replace("ill\n", "ill,train\n").replace("well\n", "well,val\n")
    path = put(tmp_path, text.replace("50,no,false,well,val", "50,no,false,well,train"))
    found = images.describe(path, SAID).table
    assert found is not None
    assert found.columns == (
        Column("age", "number", 40.0, 10.0), Column("smoker", "category", categories=("no", "yes")),
        Column("diagnosed", "flag", 0.666666667, 0.471404521),
    )  # fmt: skip
    assert read_columns_record(found.record()) == found and found.width == 4
    told: list[str] = []
    held = Reading(("ill", "well"), table=found, tell=told.append)
    train, val = (images.load(path, (1, 4, 1), 2, split, held) for split in ("train", "val"))
    assert train.images.dtype == np.float32 and train.images.shape == (3, 1, 4, 1)
    assert train.images[:, 0, :3, 0].tolist() == [[-1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert train.images[:, 0, 3, 0].tolist() == pytest.approx([2**-0.5, -(2**0.5), 2**-0.5])
    assert val.images[0, 0, :3, 0].tolist() == [0, 0, 1] and val.labels.tolist() == [1]
    assert told[-1] == "val: no images here of ill"
    assert "train: of 3 rows, nothing stands for age in 1, smoker in 1: the agreed mean, or no category" in told


def test_a_column_that_says_the_same_in_every_row_is_left_out_with_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    text = "age,site,empty,same,outcome\n1,A,,7,ill\n2,A,,7,well\n"
    found = images.describe(put(tmp_path, text), Reading(target="outcome", tell=told.append)).table
    assert found is not None and found.names == ("age",)
    assert [line.split(",")[0] for line in told] == [
        "the column site says A in every row that is trained on",
        "the column empty says nothing in any row that is trained on",
        "the column same says 7 in every row that is trained on",
    ]


ROWS = "".join(f"n{at},{at},1.{at % 9},{'ill' if at % 2 else 'well'}\n" for at in range(60))


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (f"name,nr,x,outcome\n{ROWS}", "the column name of .* has another text in every row, such as n0", "out name"),
        ("x,born,outcome\n1,1990-01-02,a\n2,1991-11-12,b\n", "column born of .* holds dates, such as 1990-01", "age"),
        ("x;y;outcome\n1;3,5;a\n2;4,25;b\n", "has decimal commas, such as 3,5", "write points"),
        ("fold,x,outcome\n1,2,a\n2,3,b\n", "the column fold of .* is called as if it said train", "--leave-out fold"),
        ("outcome\na\nb\n", "has no column to learn from", "numbers"),
        ("x,outcome\n1,a\n2,a\n", r"has 1 class \(a\), expected at least 2", None),
        ("x,outcome\n1,\n2,a\n3,b\n", r"1 rows without a target \(line 2\)", None),
        ("x,outcome\n1,a,b\n2,a\n3,b\n", r"1 lines with another number of columns \(line 2\)", None),
        ("x,outcome\n", "has no rows", None),
        ("x,x,outcome\n1,2,a\n", "two columns called x", None),
        ("1,2\n3,4\n", "has only numbers, expected the names of the columns", None),
        ("x,result\n1,a\n2,b\n", "has no column outcome; its columns are x, result", "--target=NAME"),
        ("x,outcome\n" + "".join(f"{at},c{at}\n" for at in range(30)), "says 30 different things in 30", "classes"),
        ("x,outcome\n" + "".join(f"{'high' if at == 9 else at},{'ab'[at % 2]}\n" for at in range(60)),
         "has numbers and, among them, texts such as high", "leave a cell empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_refused_with_a_clear_word(
    tmp_path: Path, text: str, said: str, hint: str | None
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        images.describe(put(tmp_path, text), SAID)
    assert hint is None or (isinstance(caught.value, ColumnsError) and hint in caught.value.hint)


def test_columns_are_chosen_and_passed_over(tmp_path: Path) -> None:
    text = "fold,id,x,y,outcome\n1,a,2,5,a\n2,b,3,7,b\n"
    assert table(text, tmp_path, leave_out=("fold", "id")).names == ("x", "y")
    assert table(text, tmp_path, features=("y", "fold")).names == ("y", "fold")
    with pytest.raises(
        ColumnsError, match=r"--leave-out: .* has no column idd; its columns are fold, id, x, y"
    ) as caught:
        table(text, tmp_path, leave_out=("idd",))
    assert caught.value.hint == "did you mean id?"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, between: str, encoding: str) -> None:
    path = put(tmp_path, TEXT.replace(",", between).replace("\n", "\r\n") + "\r\n", encoding=encoding)
    found = images.describe(path, SAID)
    assert (
        found.table is not None
        and found.table.names == ("age", "smoker", "diagnosed")
        and found.names == ("ill", "well")
    )


def agreed() -> Columns:
    return Columns("outcome", (Column("age", "number", 40, 10), Column("Smoker", "category", categories=("no", "yes"))))


def load(path: Path, columns: str = "", told: list[str] | None = None, **more: Any) -> images.Images:
    tell = (told if told is not None else []).append
    held = Reading(("ill", "well"), table=agreed(), columns=read_columns(columns), tell=tell, **more)
    return images.load(path, (1, 3, 1), 2, "train", held)


def test_a_site_is_held_against_what_was_agreed(tmp_path: Path) -> None:
    told: list[str] = []
    path = put(tmp_path, "id,SMOKER,age,outcome\n1,Yes,50,ILL\n2,NO,30,well\n")
    found = load(path, told=told)
    assert found.images[:, 0, :, 0].tolist() == [[1, 0, 1], [-1, 1, 0]] and found.labels.tolist() == [0, 1]
    assert "columns not looked at: id" in told and "columns: SMOKER as Smoker" in told

    path = put(tmp_path, "years,smokes,result\n50,yes,ill\n")
    with pytest.raises(ColumnsError, match="lacks 3 columns: outcome, age, Smoker; its columns are years") as caught:
        load(path)
    assert caught.value.hint.endswith("--columns 'outcome=?,age=?,Smoker=smokes'")
    with pytest.raises(
        ColumnsError, match="lacks 2 columns: age, Smoker; its columns are years, smokes, the fed"
    ) as caught:
        load(path, "outcome=result")
    assert caught.value.hint.endswith("--columns 'age=?,Smoker=smokes'")
    assert len(load(path, "outcome=result,age=years,Smoker=smokes")) == 1
    other = put(tmp_path, "age,smoker,label\n50,yes,ill\n", "other.csv")
    with pytest.raises(
        ColumnsError, match="lacks 1 column: outcome"
    ):  # what is called a label may be of something else
        load(other)
    assert len(load(path, "label=result,age=years,Smoker=smokes", given={"ill": "well"})) == 1
    with pytest.raises(ColumnsError, match="no column smoked; its columns are age, Smoker"):
        load(path, "label=result,smoked=smokes")


def test_cells_that_are_not_what_was_agreed_are_all_named(tmp_path: Path) -> None:
    lines = ["age,smoker,outcome", "50,perhaps,ill", "3;5,yes,ill", "30,perhaps,well", "true,no,ill", "NA,,well"]
    path = put(tmp_path, "\n".join(lines))
    with pytest.raises(ColumnsError) as caught:
        load(path)
    text = str(caught.value)
    assert "age says 3;5, expected a number or nothing (line 3)" in text and "age says true" in text
    assert "Smoker says perhaps, expected one of no, yes, or nothing (line 2, line 4)" in text
    path = put(tmp_path, '"age";smoker;outcome\n3,5;yes;ill\n')
    with pytest.raises(ColumnsError, match="age says 3,5, a decimal comma: write a point"):
        load(path)


def test_one_row_is_enough_where_columns_are_agreed(tmp_path: Path) -> None:
    assert load(put(tmp_path, "age,smoker,outcome\n40,no,ill\n")).images.tolist() == [[[[0], [1], [0]]]]


def test_a_holdout_divides_no_patient_and_no_equal_rows_and_does_not_ask_for_an_order(tmp_path: Path) -> None:
    rows = [f"{at % 20},p{at // 2 % 15},{'ab'[at % 2]}" for at in range(60)]
    path = put(tmp_path, "\n".join(["x,subject,outcome", *rows]))
    first = images.rows(path, SAID)
    reading = Reading(target="outcome", cut=Cut(0.3, 1))
    parts = [set(images.load(path, (1, 1, 1), 2, split, reading).patients.tolist()) for split in ("train", "val")]  # type: ignore[union-attr]
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    path = put(tmp_path, "\n".join(["x,subject,outcome", *rows[::-1]]))
    assert sorted(images.rows(path, SAID)) == sorted(first)
    assert [len(images.load(path, (1, 1, 1), 2, split, reading)) for split in ("train", "val")] != [60, 0]
    same = put(tmp_path, "x,outcome\n" + "1,a\n2,b\n3,a\n4,b\n" * 20)
    cut = features.whole(same, reading)
    sides = {split: {cell for cell, one in zip(cut.features["x"], cut.splits, strict=True) if one == split}
             for split in ("train", "val")}  # fmt: skip
    assert not sides["train"] & sides["val"] and sides["val"]


def test_arrays_with_names_of_columns_are_a_table(tmp_path: Path) -> None:
    values = np.array([[1.0, 10], [3, 20], [5, 30]])
    np.savez(tmp_path / "t.npz", train_images=values, train_labels=[0, 1, 0], column_names=["a", "b"])
    found = images.describe(tmp_path / "t.npz")
    assert found.table is not None and found.table.names == ("a", "b") and found.classes == 2
    loaded = images.load(tmp_path / "t.npz", (1, 2, 1), 2, "train")
    assert np.array_equal(loaded.images, features.encode_numbers(found.table, ("a", "b"), values))


def test_numbers_are_predicted_where_they_are_no_classes(tmp_path: Path) -> None:
    path = put(tmp_path, "x,y,dose\n1,2,0.5\n2,3,1.5\n4,4,-1\n", "numbers.csv")
    reading = Reading(target="dose")
    found = images.describe(path, reading)
    assert (found.task, found.classes, found.names) == ("regression", 1, ("dose",))
    held = Reading(("dose",), task="regression", table=found.table)
    loaded = images.load(path, (1, 2, 1), 1, "train", held)
    assert loaded.labels.dtype == np.float32 and loaded.labels.tolist() == [[0.5], [1.5], [-1]]
    assert images.targets(path, 1, held).tolist() == loaded.labels.tolist()
    few, many = ("x,y,dose\n" + "".join(f"{at},{at % 7},{at % kinds}\n" for at in range(60)) for kinds in (3, 30))
    assert images.describe(put(tmp_path, few), reading).task == "classes"
    assert images.describe(put(tmp_path, many), reading).task == "regression"
    assert images.describe(put(tmp_path, few), Reading(target="dose", task="regression")).names == ("dose",)
    path = put(tmp_path, "x,y,dose\n1,2,0.5\n2,3,high\n3,3,NA\n")
    with pytest.raises(ColumnsError, match=r"to be a number, and is none in 2 rows: high in line 3, NA in line 4"):
        images.load(path, (1, 2, 1), 1, "train", held)


@pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="the extra tables is not installed")
def test_a_parquet_file_says_the_same_as_text(tmp_path: Path) -> None:
    import polars

    path = put(tmp_path, TEXT)
    polars.read_csv(path).write_parquet(tmp_path / "t.parquet")
    assert images.describe(tmp_path / "t.parquet", SAID).table == images.describe(path, SAID).table
    one, other = (images.load(at, (1, 4, 1), 2, "train", SAID) for at in (path, tmp_path / "t.parquet"))
    assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is no readable Parquet file"):
        images.describe(tmp_path / "broken.parquet", SAID)


def test_without_the_extra_a_parquet_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"is a Parquet file: pip install 'fedssh\[tables\]' lets"):
        images.describe(tmp_path / "t.parquet", SAID)


@pytest.mark.parametrize(
    "value",
    [
        None, {}, {"target": "y", "columns": []}, {"target": "", "columns": [{"name": "a", "kind": "number"}]},
        {"target": "y", "columns": [{"name": "a", "kind": "number", "mean": 0, "deviation": 0}]},
        {"target": "y", "columns": [{"name": "a", "kind": "number", "mean": float("nan"), "deviation": 1}]},
        {"target": "y", "columns": [{"name": "a", "kind": "category", "categories": ["x", "x"]}]},
        {"target": "y", "columns": [{"name": "a\x1b", "kind": "category", "categories": ["x"]}]},
        {"target": "y", "columns": [{"name": "a", "kind": "number", "mean": 0, "deviation": 1}] * 2},
        {"target": "y", "columns": "ab"},
        {"target": "y", "columns": [{"name": "a", "kind": "number", "mean": 10**400, "deviation": 1}]},
        {"target": "y", "columns": [{"name": "a", "kind": "number", "mean": 0, "deviation": 5e-324}]},
    ],
)  # fmt: skip
def test_what_a_stranger_says_of_columns_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=r"column|table|name|deviation|figure|categories"):
        read_columns_record(value)


def test_a_column_that_tells_patients_apart_is_learnt_from_only_where_somebody_here_says_so(tmp_path: Path) -> None:
    columns = read_columns_record({"target": "y", "columns": [
        {"name": name, "kind": "number", "mean": 0, "deviation": 1} for name in ("patient_id", "age")
    ]})  # fmt: skip
    path = put(tmp_path, "patient_id,age,y\n1,50,a\n1,51,b\n2,30,a\n")
    reading = Reading(table=columns, names=("a", "b"))
    with pytest.raises(ColumnsError, match="learns from the column patient_id, by whose name patients are known here"):
        features.read(path, reading)
    said = features.read(path, dataclasses.replace(reading, columns={"patient": "patient_id"}))
    assert said.patients is not None and len(set(said.patients)) == 2


def test_images_are_no_table(tmp_path: Path) -> None:
    for name in ("ill", "well"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "train" / name / "1.png")
    reading = Reading(table=agreed(), names=("ill", "well"))
    with pytest.raises(ColumnsError, match=r"learns from a table of features, and .* is none"):
        images.load(tmp_path, [1, 3, 1], 2, "train", reading)
