"""What went through channels, in words, and where it is shown."""

from __future__ import annotations

from pathlib import Path

from fedssh.history import totals, views, work
from fedssh.history.text import best_text, show_text, status_text
from tests.unit.test_memory_engine import Halves, play

WORK = {"steps": 38, "images": 2400, "received": 7_844_241, "sent": 1234, "seconds": 2.0}


def test_in_words() -> None:
    assert work.told(WORK) == "38 steps, 2,400 images, 7.8 MB in and 1,234 bytes out, 19.0 steps a second"
    assert work.told({**WORK, "steps": 1, "seconds": 0.0}) == "1 step, 2,400 images, 7.8 MB in and 1,234 bytes out"


def test_turns_are_added_up() -> None:
    assert work.add(None, None) is None
    twice = work.add(work.add(None, WORK), WORK)
    assert twice == {name: 2 * value for name, value in {"turns": 1, **WORK}.items()}


def test_history_best_and_status_tell_what_happened_in_a_turn(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 130}
    played = play(tmp_path / "h", sites, Halves(sites), policy="split:dense1", start=0.4, sessions=1)
    rows = [record.fields | {"hash": record.hash, "signature": "x"} for record in played.records]
    judged = [row for row in rows if row["event"] in ("accepted", "refused")]
    assert [views.history_row(row)["work"]["steps"] for row in judged] == [1, 2]
    assert views.why(judged[1]).endswith(
        "; 2 steps, 130 images, 4,000 bytes in and 3,000 bytes out, 4.0 steps a second"
    )
    assert "work" not in views.history_row(rows[0])
    sums = totals.fold(rows)
    assert sums is not None
    assert sums["work"] == {"turns": 2, "steps": 3, "images": 230, "received": 8000, "sent": 6000, "seconds": 1.0}
    assert "2 turns: 3 steps, 230 images" in status_text(views.status(sums))
    best = best_text(views.best(sums, lambda number: rows[number - 1]))
    assert "over a channel: 1 step, 100 images" in best
    assert "work.steps" in show_text(views.show(judged[0]))
