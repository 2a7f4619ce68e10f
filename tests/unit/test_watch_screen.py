"""The screen of `fedssh watch` by textual's own pilot, without a terminal: keys, records that come, and a bad one.

What it looks like stands in tests/unit/screens, of histories that never change, at a fixed time. After a change that is
meant, `RENEW_SCREENS=1 python -m pytest tests/unit/test_watch_screen.py` writes them anew; look at the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from fedssh.errors import LedgerError
from fedssh.history.published import row_of
from fedssh.keys import PrivateKey
from fedssh.rules.events import Invalid
from fedssh.watch import follow
from fedssh.watch.follow import Follower
from fedssh.watch.screen import Help, WatchScreen
from fedssh.watch.text import _seconds
from fedssh.watch.trust import Trust
from tests.harness.bob import Door
from tests.harness.watched import Played, kept

SCREENS = Path(__file__).with_name("screens")
HOSTILE = "[red]see[/red] [@click=app.quit]here[/] \x1b[2J\u202egnp.exe [link=http://x]y[/link]"
Shown = Callable[..., Any]


@contextlib.asynccontextmanager
async def opened(
    source: Played, size: tuple[int, int] = (80, 24), clock: Callable[[], float] = lambda: 0.0, **said: Any
) -> AsyncIterator[tuple[WatchScreen, Pilot[int]]]:
    """The screen of what a played door shows, once all of it was read."""
    follower = Follower(source, Trust(), None)
    thread = threading.Thread(target=follower.run, daemon=True)
    app = WatchScreen(follower, "charity@charity.example", clock, **said)
    try:
        async with app.run_test(size=size) as pilot:
            thread.start()
            await seen(pilot, lambda: follower.error or follower.standing.connection == "connected")
            app.look()
            await settled(app, pilot)
            yield app, pilot
    finally:
        follower.stop()
        thread.join(10)
        follower.close()


async def settled(app: WatchScreen, pilot: Pilot[int]) -> None:
    """Wait until nothing moves any more and the keys stand at the foot."""
    same, before = 0, ""
    for _ in range(200):
        await pilot.pause(0.05)
        now = whole(app)
        same, before = (same + 1 if now == before else 0), now
        if same >= 6 and lines(app)[-1].startswith("q leave") and any(map(_of_a_record, lines(app))):
            return
    raise AssertionError(f"it does not settle\n{before}")


def _of_a_record(line: str) -> bool:
    return line.strip()[:1].isdigit() and line.startswith(" ")


async def seen(pilot: Pilot[int], condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await pilot.pause(0.01)
    raise AssertionError(f"it did not happen\n{whole(pilot.app)}")  # type: ignore[arg-type]


def lines(app: WatchScreen) -> list[str]:
    """What stands on the screen, without colours."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def whole(app: WatchScreen) -> str:
    return "\n".join(lines(app))


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


@pytest.fixture
def door(tmp_path: Path, keys: dict[str, PrivateKey]) -> Door:
    return Door(tmp_path, keys)


@pytest.mark.parametrize(
    ("name", "size"), [("best-free", (80, 24)), ("krum", (80, 24)), ("best-free", (120, 40)), ("median", (120, 40))]
)
def test_what_it_looks_like(name: str, size: tuple[int, int]) -> None:
    history = kept(name)
    newest = _seconds(row_of(history[-1])["time"])
    assert newest is not None

    async def look() -> str:
        async with opened(Played(history), size, lambda: newest + 100) as (app, _):
            return whole(app)

    shown = asyncio.run(look()) + "\n"
    path = SCREENS / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("RENEW_SCREENS"):
        path.write_text(shown)
    assert shown == path.read_text()
    assert len(shown.splitlines()) == size[1] and max(map(len, shown.splitlines())) <= size[0]


@pytest.mark.parametrize("colours", [True, False])
def test_without_colours_none_are_drawn(monkeypatch: pytest.MonkeyPatch, colours: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")

    async def look() -> None:
        async with opened(Played(kept("best-free"))) as (app, _):
            strips = app.screen._compositor.render_strips()
            drawn = [strip.apply_filter(app._filters[-1], app.background_colors[0]) for strip in strips]
            styles = [segment.style for strip in drawn for segment in strip if segment.style]
            coloured = [one for one in styles if one.color and not one.color.is_default]
            assert bool(coloured) is colours
            assert "accepted" in whole(app)

    run(look)


def test_records_come_one_by_one_and_are_shown(door: Door) -> None:
    async def play() -> None:
        source = Played(door.history(0))
        async with opened(source) as (app, pilot):
            assert "3 records checked" in whole(app)
            for number in range(4, 7):
                door.append(
                    Invalid(site="alice-1", submission=None, bundle=f"{number:064x}", reason=f"no tar {number}")
                )
                source.show(*door.history(number - 1))
                await seen(pilot, lambda number=number: f"no tar {number}" in whole(app))  # type: ignore[misc]
                assert f"{number} records checked" in whole(app)
            assert [line.split()[-1] for line in lines(app) if line.startswith(" alice-1")] == ["3"]  # are invalid

    run(play)


def test_a_bad_record_ends_it(door: Door) -> None:
    async def play() -> None:
        source = Played(door.history(0))
        async with opened(source) as (app, pilot):
            door.append(Invalid(site="alice-1", submission=None, bundle="ab" * 32, reason="no tar"))
            source.show(door.history(3)[0].replace(b"no tar", b"no car"))
            await seen(pilot, lambda: not app.is_running or app._exit)
            error = app._follower.error
            assert isinstance(error, LedgerError) and "record 4" in str(error)
            assert "no car" not in whole(app)

    run(play)


def test_what_a_site_said_is_text(door: Door) -> None:
    door.append(Invalid(site="alice-1", submission=None, bundle="ab" * 32, reason=HOSTILE))

    async def play() -> None:
        async with opened(Played(door.history(0)), (200, 30)) as (app, pilot):
            told = "[red]see[/red] [@click=app.quit]here[/] \\u001b[2J\\u202egnp.exe [link=http://x]y[/link]"
            places = [(line.index(told), at) for at, line in enumerate(lines(app)) if told in line]
            assert len(places) == 2  # in the table, and below it in full
            for x, y in places:
                for column in range(x, x + len(told), 4):
                    await pilot.click(offset=(column, y))
            assert not app._exit
            assert whole(app).replace("\n", "").isprintable()
            svg = app.export_screenshot()
            assert "http://x" in svg and 'href="http://x' not in svg

    run(play)


def test_keys() -> None:
    async def play() -> None:
        async with opened(Played(kept("best-free"))) as (app, pilot):
            first = lines(app)[-3]
            assert first.startswith("19 accepted alice-2: accuracy 0.6667 beats 0.6000; layer dense1")
            await pilot.press("down")
            assert lines(app)[-3].startswith("18 refused alice-2")
            await pilot.press("ctrl+end")
            assert lines(app)[-3].startswith("1 genesis –: mlp, random weights")
            await pilot.press("ctrl+home", "slash", *"ALICE-3")
            assert app._find.value == "ALICE-3"
            shown = [line.split()[0] for line in lines(app) if "alice-3" in line and line.startswith((" ", "1"))]
            assert "16" in shown and "13" in shown and "19" not in shown
            await pilot.press("enter", "down")
            assert lines(app)[-3].startswith("13 invalid alice-3") or lines(app)[-4].startswith("13 invalid alice-3")
            await pilot.press("escape")
            assert "19  " in whole(app) and not app._find.display
            await pilot.press("s", "s")
            assert [row[0] for row in app._sites._filled] == [
                "alice-1",
                "alice-2",
                "alice-3",
            ]
            await pilot.press("s")
            assert [row[0] for row in app._sites._filled] == [
                "alice-2",
                "alice-1",
                "alice-3",
            ]
            news = app._news
            some = news.row_count
            await pilot.press("a")
            assert news.row_count == 20 > some
            await pilot.press("tab")
            assert app.focused is not None and app.focused.id == "sites"
            await pilot.press("question_mark")
            assert isinstance(app.screen, Help) and "divided among the sites" in whole(app)
            app.look()  # goes on below
            await pilot.press("q")
            assert len(app.screen_stack) == 1
            await pilot.press("q")
            assert app._exit and app.return_value == 0

    run(play)


def test_the_cursor_stays_on_its_record(door: Door) -> None:
    for number in range(4, 8):
        door.append(Invalid(site="alice-1", submission=None, bundle=f"{number:064x}", reason=f"no tar {number}"))

    async def play() -> None:
        source = Played(door.history(0))
        async with opened(source) as (app, pilot):
            await pilot.press("down", "down")
            assert lines(app)[-3].startswith("5 invalid alice-1: no tar 5")
            door.append(Invalid(site="alice-1", submission=None, bundle=f"{8:064x}", reason="no tar 8"))
            source.show(*door.history(7))
            await seen(pilot, lambda: "no tar 8" in whole(app))
            assert lines(app)[-3].startswith("5 invalid alice-1: no tar 5")

    run(play)


def test_ctrl_c_leaves_with_its_code() -> None:
    async def play() -> None:
        async with opened(Played(kept("krum"))) as (app, pilot):
            await pilot.press("slash", "ctrl+c")
            assert app._exit and app.return_value == 130

    run(play)


def test_a_lost_connection_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_SECONDS", 0.05)

    async def play() -> None:
        source = Played(door.history(0))
        async with opened(source) as (app, pilot):
            await seen(pilot, lambda: (3, True) in source.asked)
            source.cut(gone=True)
            await seen(pilot, lambda: "not connected, next try in 0 s: Connection refused" in whole(app))
            source.gone = False
            await seen(pilot, lambda: "charity@charity.example: connected" in whole(app))

    run(play)


def test_a_long_history_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()

    class Slow(Played):
        def lines(self, after: int, *, follow: bool = False) -> Any:
            for number, line in enumerate(super().lines(after, follow=follow)):
                if number == 10:
                    held.wait(10)
                yield line

    async def play() -> None:
        follower = Follower(source := Slow(kept("median")), Trust(), None)
        thread = threading.Thread(target=follower.run, daemon=True)
        app = WatchScreen(follower, "charity")
        async with app.run_test(size=(80, 24)) as pilot:
            thread.start()
            await seen(pilot, lambda: follower.standing.records == 10)
            await seen(pilot, lambda: "10 records checked" in whole(app) and "charity: reading" in whole(app))
            assert "SITE" in whole(app) and "alice-1" not in whole(app)
            held.set()
            await seen(pilot, lambda: "25 records checked" in whole(app) and "alice-1" in whole(app))
        follower.stop()
        thread.join(10)
        follower.close()
        assert source.asked[0] == (0, False)

    run(play)


def test_notes_stand_at_the_foot() -> None:
    async def play() -> None:
        said = [f"line {number} [red]\x1b" for number in range(9)]
        async with opened(Played(kept("krum")), notes=lambda: said) as (app, _):
            notes = app._lines["notes"]
            assert lines(app)[-3:-1] == ["line 7 [red]\\u001b", "line 8 [red]\\u001b"] and notes.size.height == 2

    run(play)
