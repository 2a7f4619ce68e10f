"""What the quickstart says at its end and at the foot of a terminal, from records and numbers."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from scripts.demo import chart, learned
from scripts.demo.bar import Bar, Work, drawn
from scripts.demo.chart import Point

POINTS = [
    Point(0, 0.5, "", True), Point(30, 0.7, "a", True), Point(40, 0.6, "b", False), Point(60, 0.9, "b", True),
]  # fmt: skip


def epoch(session: int, number: int) -> dict[str, Any]:
    return {"event": "epoch", "session": session, "epoch": number}


def test_the_time_left_is_that_of_the_epochs_left() -> None:
    work = Work(["a", "b"], agreed=3, epochs=10, trained={"a": 1, "b": 1})  # two sessions each in this run
    assert (work.total, work.done, work.left(0)) == (40, 0, None)
    work.heard("a", {"event": "session", "session": 2}, now=100)
    work.heard("a", epoch(2, 5), 110)
    assert work.left(110) == pytest.approx(10 * 35 / 5)
    work.heard("a", {"event": "session-over", "session": 2}, 120)  # early: the rest of it will not be done
    work.heard("b", epoch(3, 2), 120)  # its first epochs were never heard of
    assert work.done == 10 + 12
    assert work.left(120) == pytest.approx(20 * 18 / 22)
    work.heard("a", {"event": "finished", "sessions": 3}, 120)
    work.heard("b", {"event": "shut-out"}, 120)
    assert (work.share, work.left(130)) == (1, 0)
    endless = Work(["a"], None, 10, {})
    endless.heard("a", epoch(1, 1), 0)
    assert (endless.share, endless.left(10)) == (0, None)


@pytest.mark.parametrize("width", [12, 40, 79, 200])
def test_a_bar_fits_the_terminal(width: int) -> None:
    line = drawn(0.4, 72, "36 of 90 epochs", width)
    assert len(line) <= min(width, 100)
    assert line.isascii()
    if width >= 79:
        assert line.startswith("[####") and line.endswith("-]  40 %  about 1:12 left  36 of 90 epochs")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals_alone_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown: dict[str, str] = {}
    for name, out in {"terminal": Terminal(), "file": io.StringIO()}.items():
        bar = Bar(out)
        bar.show(Work(["a"], 1, 10, {}), 0)
        bar.clear()
        shown[name] = out.getvalue()
    assert shown["file"] == ""
    assert "0 of 10 epochs" in shown["terminal"]
    assert shown["terminal"].endswith("\r\033[K")
    monkeypatch.setenv("TERM", "dumb")
    assert not Bar(Terminal()).wanted


def test_a_picture_stands_on_eighty_columns_and_in_ascii() -> None:
    lines = chart.in_characters(POINTS, 80, ascii_only=True)
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines)
    assert [line.count("*") for line in lines if "*" in line] == [1, 1, 1]  # refused ones are not the model
    assert lines[-1].split() == ["0:00", "1:00"]
    assert "●" in "".join(chart.in_characters(POINTS, 80, ascii_only=False))
    assert chart.in_characters(POINTS[:1], 80, ascii_only=True)


def test_the_picture_in_a_file_is_svg_with_every_model() -> None:
    text = chart.as_svg([*POINTS, Point(70, 0.9, "<b>", True)], "accuracy", "cats & dogs")
    marks = [element for element in ElementTree.fromstring(text).iter() if element.tag.endswith("}circle")]
    assert len(marks) == 5 + 3  # models, and the sites in the legend


def test_a_matrix_names_its_classes_and_gives_shares() -> None:
    text = learned.matrix([[165, 69], [12, 378]], ["normal", "pneumonia"])
    assert text.splitlines()[1].endswith(" 71 %")
    assert "called normal" in text and "true pneumonia" in text and "378 (97 %)" in text and "69 (29 %)" in text
    ten = [[10 if row == column else row for column in range(10)] for row in range(10)]
    text = learned.matrix(ten, list("0123456789"))
    assert max(map(len, text.splitlines())) <= 80
    assert "(" not in text
    text = learned.matrix([[5 if row == column else 0 for column in range(40)] for row in range(40)], ["x" * 9] * 40)
    assert "CALLED" not in text  # nothing is confused
    assert max(map(len, text.splitlines())) <= 80


GENESIS: dict[str, Any] = {
    "event": "genesis", "time": "2026-01-01T00:00:00.000Z", "plan": {"metric": "accuracy"}, "policy": "best",
    "spec": {"name": "cnn", "depth": 4, "input": [8, 8, 1], "classes": 2}, "class_names": ["NORMAL", "ILL"],
    "model": {"size": 1000}, "metrics": {"accuracy": 0.5}, "sessions": 1,
}  # fmt: skip


def verdict(event: str, site: str, at: str, score: float, before: float) -> dict[str, Any]:
    return {
        "event": event, "site": site, "time": f"2026-01-{at}Z", "metrics": {"accuracy": score}, "examples": 90,
        "current_metrics": {"accuracy": before}, "model": {"size": 1000},
    }  # fmt: skip


def test_what_was_learned_is_added_up_from_the_history() -> None:
    added: dict[str, Any] = {"event": "site-added", "role": "site", "time": "2026-01-01T00:00:01.000Z"}
    report: dict[str, Any] = {"event": "report", "epochs": 3, "time": "2026-01-01T00:01:00.000Z", "examples": 90}
    records = [
        GENESIS, {**added, "site": "a"}, {**added, "site": "b"}, {**added, "site": "eve", "role": "auditor"},
        verdict("accepted", "a", "01T00:00:31.000", 0.7, 0.5), verdict("refused", "b", "01T00:00:41.000", 0.6, 0.7),
        {**report, "site": "a"}, {**report, "site": "b"},
        {"event": "refused", "site": "b", "model": None, "time": "2026-01-01T00:01:01.000Z"},  # a report, not a model
        {"event": "reopened", "time": "2026-01-03T00:00:00.000Z"},  # two days later
        verdict("accepted", "b", "03T00:00:09.000", 0.9, 0.7),
    ]  # fmt: skip
    records = [{**record, "sequence": number} for number, record in enumerate(records, 1)]
    test = {"sequence": 11, "examples": 20, "metrics": {"accuracy": 0.8, "confusion": [[9, 1], [3, 7]]}}
    value = learned.learned(records, {"dataset": "scans", "sites": {"a": 100}, "holdout": 30}, test)
    points = [(point["seconds"], point["score"], point["current"]) for point in value["over_time"]]
    assert points == [(0, 0.5, True), (31, 0.7, True), (41, 0.6, False), (70, 0.9, True)]
    rows = {row["site"]: row for row in value["sites"]}
    assert list(rows) == ["a", "b"]
    assert (rows["a"]["images"], rows["b"]["images"]) == (100, 90)  # older folders say what it trained on
    assert (rows["b"]["accepted"], rows["b"]["refused"]) == (1, 1)
    assert (rows["a"]["gain"], rows["b"]["gain"]) == (pytest.approx(0.2), pytest.approx(0.2))
    about = learned.about(value)
    assert "100 at a, 90 at b; 30 as holdout, 20 to test" in about
    assert "NORMAL and ILL" in about and "2 sessions, 6 epochs at 2 sites in 1:10" in about
    assert "true NORMAL" in learned.scores(value)
    said = learned.learned(records, {}, test | {"compared": {"sentence": "the holdout does not speak " * 5}})
    assert [len(line) <= learned.WIDTH for line in learned.scores(said).splitlines()[-2:]] == [True, True]
    assert "+0.2000" in learned.contributions(value)
