"""The launcher of a federation on one machine, with agents that are a few lines of shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedssh.errors import SettingsError
from scripts import environment
from scripts.demo import live, quickstart
from scripts.demo.federation import Federation
from scripts.demo.processes import AgentFailed, Event, interruptible

# Says with which words and variables it was called, and does what its first option asks for.
AGENT = """#!/bin/sh
name=$(basename "$0")
case "$*" in
  *--version*) echo "$name, $ALICE_EPOCHS$OMP_NUM_THREADS"; exit;;
  *--log-format=json*) ;;
  *) echo "$name: error: no" >&2; exit 3;;
esac
echo "{\\"event\\": \\"start\\", \\"text\\": \\"$name $*\\"}"
echo "a library's word"
case "$*" in
  *--fails*) echo "$name: error: the disk is full" >&2; exit 1;;
  *--deaf*) trap '' TERM;;
  *--done*) exit 0;;
esac
while :; do sleep 0.05; done
"""


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("alice", "bob", "charity"):
        (programs / name).write_text(AGENT)
        (programs / name).chmod(0o700)
    monkeypatch.setenv("ALICE_EPOCHS", "7")  # somebody's own, for another folder
    with Federation(tmp_path / "state", 2222, programs) as federation:
        yield federation


def heard(federation: Federation, number: int) -> list[Event]:
    """So many events, as they come."""
    events: list[Event] = []
    until = time.monotonic() + 20
    while len(events) < number:
        assert time.monotonic() < until, events
        events += federation.heard(0.1)
    return events


def history(federation: Federation, *events: str) -> None:
    """Write a history of these events; the last line is not whole."""
    federation.ledger.parent.mkdir(parents=True, exist_ok=True)
    records = [{"event": event, "sequence": number} for number, event in enumerate(events, 1)]
    lines = [json.dumps({"record": json.dumps(record)}) for record in records]
    federation.ledger.write_text("".join(f"{line}\n" for line in lines) + '{"record": "{')


def test_lines_are_events_and_are_kept(federation: Federation) -> None:
    federation.start_site("alice-1", alice=("--seed=3",), bob=("--retry-max=1",))
    said = [(event.agent.name, event.agent.site, event.fields) for event in heard(federation, 4)]
    folder = federation.site("alice-1")
    exchange = f"--exchange={folder / 'exchange'}"
    text = f"bob --log-format=json watch --state={folder / 'bob'} {exchange} --retry-max=1"
    assert ("bob", "alice-1", {"event": "start", "text": text}) in said
    assert ("alice", "alice-1", {"event": "line", "text": "a library's word"}) in said
    assert federation.log("bob", "alice-1").read_text().splitlines()[1] == "a library's word"
    assert federation.find("alice", "alice-1").code() is None


def test_a_command_is_run_to_its_end(federation: Federation) -> None:
    assert federation.command("alice", "--version") == "alice, 1\n"  # one thread, and nobody's own variables
    with pytest.raises(SettingsError, match=r"^`bob keygen --state=x` ended with code 3: bob: error: no$"):
        federation.command("bob", "keygen", "--state=x", "--force")


def test_an_agent_that_fails_is_told_with_its_last_lines(federation: Federation) -> None:
    federation.serve("--fails")
    heard(federation, 3)
    federation.find("charity").wait(5)
    ended = r"(?s)^charity ended with code 1;.*is full\n  all: .*/coordinator-charity\.log$"
    with pytest.raises(AgentFailed, match=ended):
        federation.going()


def test_it_goes_on_while_somebody_trains_or_something_is_on_its_way(federation: Federation) -> None:
    assert not federation.going()
    federation.start_site("alice-1")
    assert federation.going()
    federation.kill("alice-1")
    assert not federation.going()
    waiting = [
        federation.site("alice-1") / "bob/spool/1.bundle",
        federation.site("alice-1") / "exchange/outgoing/1.json",
        federation.coordinator / "inbox/alice-1/1.bundle",
        federation.coordinator / "vault/claimed/alice-1/1.bundle",
    ]
    federation.start_site("alice-1", alice=("--done",))
    federation.find("alice", "alice-1").wait(5)
    for path in waiting:
        path.parent.mkdir(parents=True)
        path.touch()
        assert federation.going()
        path.unlink()
        assert not federation.going()
    federation.kill("alice-1")
    waiting[0].touch()  # nobody is there to send it
    assert not federation.going()


def test_what_is_killed_can_be_started_again(federation: Federation) -> None:
    federation.start_site("alice-1")
    first = federation.find("bob", "alice-1")
    federation.kill("alice-1")
    assert first.code() == -signal.SIGKILL
    federation.start_site("alice-1")
    assert [agent.code() for agent in federation.agents] == [None, None]


def test_all_are_stopped_also_who_does_not_listen(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.demo.processes.stop_all.__defaults__", (0.5,))
    federation.serve("--deaf")
    federation.start_site("alice-1")
    heard(federation, 6)
    sites = [agent for agent in federation.agents if agent.site]
    federation.stop_sites()
    assert [agent.code() for agent in sites] == [-signal.SIGTERM] * 2
    (charity,) = federation.agents
    assert charity.code() is None
    federation.stop()
    assert charity.code() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("events", "waits"),
    [
        (("genesis",), False),
        (("genesis", "release", "finished", "release"), False),
        (("genesis", "release", "finished", "release", "reopened"), True),
        (("genesis", "release", "finished", "release", "reopened", "round-opened"), True),
        (("genesis", "release", "finished", "release", "reopened", "round-opened", "release"), False),
    ],
)
def test_sites_wait_until_a_release_says_that_it_is_open_again(
    federation: Federation, events: tuple[str, ...], waits: bool
) -> None:
    history(federation, *events)
    assert [record["event"] for record in federation.records()] == list(events)
    assert federation.reopening() is waits


class Asked(BaseException):
    pass


def test_a_request_to_stop_waits_until_everything_is_stopped(federation: Federation, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM])
    (programs / "bob").write_text(AGENT.replace("while :;", "trap 'sleep 1; exit 0' TERM; while :;"))
    with pytest.raises(Asked), interruptible(Asked, [signal.SIGTERM]):  # noqa: PT012 - what is asked comes in between
        with Federation(tmp_path / "other", 2223, programs, Asked) as other:
            other.start_site("alice-1")
            heard(other, 4)
            timer.start()
        pytest.fail("nobody asked")
    assert [agent.code() for agent in other.agents] == [0, -signal.SIGTERM]


def test_enrolling_does_what_is_missing(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    enrolled: list[dict[str, str]] = []

    def command(program: str, *words: str) -> str:
        calls.append([program, *words[:2]])
        bob = federation.site("alice-1") / "bob"
        if words[0] == "keygen":
            bob.mkdir(parents=True)
            for name in ("site_key", "site_key.pub"):
                (bob / name).touch()
        elif words[0] == "join":
            if len(calls) < 5:
                raise subprocess.CalledProcessError(1, "bob")  # as if it had been interrupted
            (bob / "site.json").touch()
        elif words[1] == "list":
            return json.dumps(enrolled)
        else:
            enrolled.append({"site": "alice-1"})
        return "an invitation"

    monkeypatch.setattr(federation, "command", command)
    with pytest.raises(subprocess.CalledProcessError):
        federation.enrol("alice-1")
    federation.enrol("alice-1")
    federation.enrol("alice-1")
    verbs = [words[1] if words[0] == "bob" else words[2] for words in calls]
    assert verbs == ["keygen", "list", "add", "join", "list", "invite", "join"]
    theirs: dict[str, Any] = {path.name: path.read_text() for path in (federation.site("alice-1") / "data").iterdir()}
    assert theirs == {"invitation.json": "an invitation"}


def test_a_live_screen_is_for_terminals_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not live.drawable()  # pytest has none
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for term, columns, lines, there in (("xterm", 80, 24, True), ("xterm", 59, 24, False), ("xterm", 80, 19, False),
                                        ("dumb", 80, 24, False), ("", 80, 24, False)):  # fmt: skip
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        assert live.drawable() is there, (term, columns, lines)


@pytest.mark.parametrize("end", ['{"bar": "3 of', "nonsense\n", ""])
def test_a_screen_ends_with_the_run_wherever_it_stops_speaking(end: str) -> None:
    pytest.importorskip("textual", reason="the extra look is not installed")
    from scripts.demo.shown import hear

    reader, writer = os.pipe()
    os.write(writer, b'{"line": "one"}\n{"bar": "2 of 3"}\n' + end.encode())
    os.close(writer)
    lines, bar, over = deque[str](), [""], threading.Event()
    hearing = threading.Thread(target=hear, args=(reader, lines, bar, over))
    hearing.start()
    hearing.join(20)
    assert over.is_set() and list(lines) == ["one"] and bar == ["2 of 3"]


def test_what_cannot_be_installed_leaves_plain_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(lock: str) -> Path:
        raise environment.InstallError(f"locks/{lock}.txt: no network")

    monkeypatch.setattr(quickstart, "drawable", lambda: True)
    monkeypatch.setattr(environment, "ensure", missing)
    assert quickstart._live(tmp_path) is None
    assert "quickstart: no live screen: locks/look.txt: no network" in capsys.readouterr().err
    assert quickstart.parse(["--plain"]).plain and not quickstart.parse([]).plain
