"""The screen of `fedssh watch`: what a follower has read, drawn on a terminal. The only place for textual.

Strings of a site are text: cells are `Text` and lines `Content` objects, which know no markup.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.theme import BUILTIN_THEMES
from textual.widgets import DataTable, Footer, Input, Static

from fedssh.forms import printable
from fedssh.watch import text
from fedssh.watch.follow import Follower, Standing

Row = dict[str, Any]
LOOK_SECONDS = 0.25  # between two looks at what the follower has read
INTERRUPTED = 130
ROOMY = 30  # lines, from which on nothing of what there is to say is cut off
NOTES, FEW_NOTES = 5, 2  # lines at the foot, where there is room and where there is not
_MOODS = {
    "accepted": "green", "round-accepted": "green", "invalid": "red", "rollback": "yellow", "site-revoked": "yellow",
    "refused": "dim", "round-refused": "dim", "counted": "dim",
}  # fmt: skip
# The terminal's own colours, so that it can be read on light and on dark ones.
_THEME = replace(
    BUILTIN_THEMES["ansi-dark"],
    name="terminal",
    variables=BUILTIN_THEMES["ansi-dark"].variables
    | {"block-cursor-background": "ansi_blue", "block-cursor-foreground": "ansi_bright_white"},
)
_HELP = """\
tab, shift+tab   to the next table, and back
up, down         through its rows; the reason of a record stands below in full
page up, down    through a long table
left, right      along a wide one
/                only the records in which a text stands; enter keeps it, escape ends it
a                every record, or only what was decided
s                sort the sites: as enrolled, last heard, gain, scored
?                these lines
q                leave

A record is shown once its form, hash, link, signature and decision are found right.
CLAIM is a site's word, SCORE was measured on the holdout. GAIN is what the current model
scores more than the first one, divided among the sites. TAKEN is accepted or counted."""


class Help(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,question_mark", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        """The keys, in a box."""
        yield Static(Content(_HELP))


class WatchScreen(App[int]):
    """Shows what a follower has read, until somebody leaves or something is wrong.

    Args:
        follower: Reads, in a thread that somebody else has started.
        name: What it reads, as it was asked for.
        clock: The time in seconds since 1970.
        notes: Lines to show at the foot, the newest last; None shows none.
        over: Whether to leave.
    """

    TITLE = "fedssh watch"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+q", "quit", show=False, priority=True),
        Binding("slash", "find", "find", priority=True),  # what is typed at once after it belongs to it already
        Binding("a", "every", "all"),
        Binding("s", "sort", "sort"),
        Binding("tab", "focus_next", "table"),
        Binding("escape", "leave_find", show=False),
        Binding("question_mark", "help", "help"),
    ]
    CSS = """
    Static { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #head { text-style: bold reverse; }
    #checked { height: auto; max-height: 3; text-wrap: wrap; color: ansi_default; }
    DataTable { scrollbar-size-horizontal: 0; }
    #sites { height: auto; max-height: 33%; }
    #curve { color: ansi_green; }
    #facts { height: auto; }
    #facts.roomy { text-wrap: wrap; max-height: 6; }
    #round { height: auto; max-height: 2; text-wrap: wrap; display: none; }
    #round.roomy { max-height: 6; }
    #news { height: 1fr; min-height: 3; }
    #detail { height: 2; text-wrap: wrap; }
    #notes { height: auto; max-height: 5; }
    Help { align: center middle; }
    Help > Static { width: auto; max-width: 100%; height: auto; text-wrap: wrap; }
    Help > Static { padding: 0 1; border: round ansi_blue; }
    #find { height: 1; border: none; padding: 0; display: none; }
    #round.on { display: block; }
    DataTable > .datatable--header { text-style: bold; color: ansi_default; background: ansi_default; }
    """

    def __init__(
        self,
        follower: Follower,
        name: str,
        clock: Callable[[], float] = time.time,
        notes: Callable[[], Sequence[str]] | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(ansi_color=True)
        self.register_theme(_THEME)
        self.theme = "terminal"
        self._follower, self._name, self._clock, self._notes, self._over = follower, name, clock, notes, over
        self._order, self._every, self._wanted = 0, False, ""
        self._value: Row | None = None
        self._shown: tuple[object, ...] = ()
        names = ("head", "checked", "connection", "curve", "facts", "round", "notes", "detail")
        self._lines = {name: Static(id=name) for name in names}
        self._sites = Table(text.SITES, text.NUMBERS, id="sites")
        self._news = Table(text.NEWS, (0, 4), id="news")
        self._find = Input(placeholder="text to find", id="find", compact=True)

    def compose(self) -> ComposeResult:
        """From what it is of, at the head, to the keys at the foot."""
        lines = self._lines
        yield from (lines["head"], lines["checked"], lines["connection"], self._sites, lines["curve"], lines["facts"])
        yield from (lines["round"], self._news, lines["notes" if self._notes else "detail"], self._find)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look, and let signals end it in an orderly way."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self.exit, 128 + number)
            except (RuntimeError, ValueError):  # not in the main thread, where signals never come
                break
        self._news.focus()
        self.look()
        self.set_interval(LOOK_SECONDS, self.look)

    # what is shown

    def look(self) -> None:
        """Show what has been read since the last look."""
        if self._follower.error is not None or self._over():
            self.exit(0)
            return
        standing = self._follower.standing
        self._put("connection", Content(printable(f"{self._name}: {standing.connection}")))
        self._put("checked", Content(printable(f"{standing.records:,} records {standing.checked}")))
        if self._notes:
            lines = list(self._notes())[-(NOTES if self.size.height >= ROOMY else FEW_NOTES) :]
            self._put("notes", Content("\n".join(printable(line) for line in lines)))
        if standing.caught_up:
            self._show(standing)
        else:
            self._put("head", Content("fedssh watch"))

    def _show(self, standing: Standing) -> None:
        if self._value is None or self._value["records"] != standing.records:
            self._value = self._follower.value()
        value = self._value
        if value is None:
            return
        now, width = self._clock(), self.size.width
        self._sites.fill(text.site_rows(value, now, text.ORDERS[self._order]))
        roomy = self.size.height >= ROOMY
        state = (value["records"], width, roomy, self._every, self._wanted)
        if state == self._shown:
            return
        self._shown = state
        self._put("head", Content(text.heading(value)))
        self._put("curve", Content(text.curve_line(value, width)))
        rounds = text.round_lines(value)
        self._put("facts", _named(text.best_lines(value)))
        self._put("round", _named(rounds if roomy else rounds[:1]))
        self._lines["facts"].set_class(roomy, "roomy")
        self._lines["round"].set_class(roomy, "roomy").set_class(bool(rounds), "on")
        self._news.fill(text.news_rows(value, self._every, self._wanted), colour=2)
        self._tell_detail()

    def _put(self, name: str, content: Content) -> None:
        self._lines[name].update(content)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the reason of the record under the cursor in full."""
        if event.data_table is self._news:
            self._tell_detail()

    def _tell_detail(self) -> None:
        row = self._news.under_cursor()
        said = "" if row is None else f"{row[0]} {row[2]} {row[3]}: {row[5]}"
        if not self._notes:
            self._put("detail", Content(said or "nothing was decided yet"))

    # keys

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.exit(INTERRUPTED)

    async def action_quit(self) -> None:
        """Leave."""
        self.exit(0)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_every(self) -> None:
        """Show every record, or only what was decided."""
        self._every = not self._every
        self.look()

    def action_sort(self) -> None:
        """Sort the sites by the next order."""
        self._order = (self._order + 1) % len(text.ORDERS)
        self.notify(f"sites: {text.ORDERS[self._order]}", timeout=2, markup=False)
        self.look()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is ours where a text is typed, or help is shown."""
        return action != "find" or not (isinstance(self.focused, Input) or isinstance(self.screen, Help))

    def action_find(self) -> None:
        """Ask for a text."""
        self._find.display = True
        self.screen.set_focus(self._find)

    def action_leave_find(self) -> None:
        """Show all again."""
        self._find.value = ""
        self._find.display = False
        self._news.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show only where the text stands."""
        self._wanted = event.value
        self.look()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the text, and go back to the records."""
        event.input.display = bool(event.value)
        self._news.focus()


def _named(lines: Sequence[tuple[str, str]]) -> Content:
    """Lines of name and text."""
    return Content("\n").join([Content.assemble((f"{name} ", "bold"), Content(said)) for name, said in lines])


class Table(DataTable[Text]):
    """A table of plain cells, whose cursor stays on its row when rows come."""

    def __init__(self, columns: Sequence[str], right: Sequence[int], id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._headings, self._right = columns, right
        self._filled: list[tuple[str, ...]] = []

    def on_mount(self) -> None:
        """The heading."""
        for at, column in enumerate(self._headings):
            self.add_column(Text(column, justify="right" if at in self._right else "left"))

    def fill(self, rows: Sequence[tuple[str, ...]], colour: int | None = None) -> None:
        """Show these rows; the cursor stays on the first cell that it was on, or at the top.

        Args:
            colour: The column whose word decides how a row looks.
        """
        if rows == self._filled:
            return
        before, at = self.under_cursor(), self.cursor_row
        self.clear()
        self._filled = list(rows)
        for place, column in enumerate(self.ordered_columns):
            # What is drawn before the table has measured itself would keep the old widths.
            column.content_width = max(map(cell_len, (self._headings[place], *(row[place] for row in rows))))
        for row in rows:
            mood = "" if colour is None else _MOODS.get(row[colour], "")
            self.add_row(*(Text(cell, mood, justify="right" if at in self._right else "left")
                           for at, cell in enumerate(row)))  # fmt: skip
        if before is not None and at > 0:  # at the top it stays at the newest
            places = [place for place, row in enumerate(rows) if row[0] == before[0]]
            self.move_cursor(row=places[0] if places else 0, animate=False)

    def under_cursor(self) -> tuple[str, ...] | None:
        """The row under the cursor."""
        return self._filled[self.cursor_row] if 0 <= self.cursor_row < len(self._filled) else None
