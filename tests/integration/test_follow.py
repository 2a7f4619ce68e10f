"""`history --follow` at both doors and at the coordinator, and `history` with all that it can be asked."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from fedssh.keys import PrivateKey
from fedssh.manifest import new_id
from tests.harness.room import Room
from tests.harness.waiting import until
from tests.integration.test_door import KINDS, Door, make_door


@pytest.fixture(params=KINDS)
def door(request: pytest.FixtureRequest, tmp_path: Path, keys: dict[str, PrivateKey]) -> Iterator[Door]:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh (on Debian and Ubuntu: apt install openssh-client)")
    door = make_door(request.param, tmp_path, keys)
    door.vault.begin()
    door.start()
    yield door
    door.stop()


class Reader:
    """A process that prints what it follows into a file."""

    def __init__(self, command: list[str], path: Path) -> None:
        self.path, self.errors = path, path.with_suffix(".errors")
        with open(path, "wb") as out, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)

    @property
    def text(self) -> str:
        return self.path.read_text()

    def lines(self, count: int) -> list[str]:
        """What was printed, once there are so many lines."""
        until(lambda: self.text.count("\n") >= count, 20, lambda: self.text + self.errors.read_text())
        assert self.text.count("\n") == count, self.text
        assert self.text.endswith("\n")
        return self.text.splitlines()

    def end(self) -> int:
        return self.process.wait(20)


@contextlib.contextmanager
def reading(door: Door, path: Path, *words: str, site: str = "alice-1") -> Iterator[Reader]:
    """Stock ssh, without a terminal."""
    reader = Reader(
        ["ssh", *door.options(site), "-p", str(door.port), f"{door.user}@127.0.0.1", "history", *words], path
    )
    try:
        yield reader
    finally:
        reader.process.kill()
        reader.process.wait()


def ledger(door: Door) -> Path:
    return door.vault.state / "outbox" / "ledger.jsonl"


def held_back(door: Door, line: bytes) -> None:
    """Take the last line out of the history again."""
    text = ledger(door).read_bytes()
    assert text.endswith(line)
    os.truncate(ledger(door), len(text) - len(line))


def add(door: Door, data: bytes) -> None:
    with open(ledger(door), "ab") as file:
        file.write(data)


# Over SSH


@pytest.mark.parametrize("form", ["", "--json", "--csv", "--export"])
def test_every_form_is_followed_line_by_line(door: Door, tmp_path: Path, form: str) -> None:
    there = len(door.vault.records)
    head = 1 if form in ("", "--csv") else 0
    with reading(door, tmp_path / "out", *filter(None, [form, "--follow"]), site="auditor") as reader:
        reader.lines(there + head)
        for count in range(1, 4):
            door.vault.judge("alice-1", new_id(), f"the reason {count}")
            last = reader.lines(there + head + count)[-1]
            assert f"the reason {count}" in last
        for _ in range(30):  # many at once, in whole lines
            door.vault.judge("alice-2", new_id())
        lines = reader.lines(there + head + 33)
    whole = door.ssh("history", *filter(None, [form])).stdout.decode()
    if form == "--json":
        assert [json.loads(line) for line in lines] == json.loads(whole)
    elif form == "":
        assert [line.split() for line in lines] == [line.split() for line in whole.splitlines()]
    else:
        assert reader.text == whole.replace("\r\n", "\n")


def test_what_was_asked_for_comes_first_and_then_what_fits(door: Door, tmp_path: Path) -> None:
    door.vault.judge("alice-1", new_id())
    door.vault.judge("alice-2", new_id())
    asked = ("--json", "--follow", "--site", "alice-1,auditor", "--site=alice-2", "--event", "accepted", "--last", "1")
    with (
        reading(door, tmp_path / "out", *asked) as reader,
        reading(door, tmp_path / "new", "--last=0", "--follow") as new,
    ):
        assert json.loads(reader.lines(1)[0])["site"] == "alice-2"
        new.lines(1)
        door.vault.append("site-revoked", site="alice-2", reason="not asked for")
        door.vault.judge("alice-1", new_id())
        assert json.loads(reader.lines(2)[-1])["site"] == "alice-1"
        assert "not asked for" in new.lines(3)[1]
    with reading(door, tmp_path / "signed", "--export", "--follow", "--after", "6") as signed:
        numbers = [json.loads(line)["sequence"] for line in signed.lines(2)]
        assert numbers == [7, 8]
        held = door.vault.append("site-revoked", site="alice-2", reason="again")
        assert signed.lines(3)[-1].encode() + b"\n" == held


def test_records_that_are_not_there_yet_can_be_waited_for(door: Door, tmp_path: Path) -> None:
    there = len(door.vault.records)
    with reading(door, tmp_path / "out", "--export", "--follow", "--after", str(there + 1)) as reader:
        until(door.commands)
        for _ in range(2):
            door.vault.judge("alice-1", new_id())
        assert json.loads(reader.lines(1)[0])["sequence"] == there + 2


def test_half_a_line_is_never_printed(door: Door, tmp_path: Path) -> None:
    there = len(door.vault.records)
    with reading(door, tmp_path / "out", "--export", "--follow") as reader:
        reader.lines(there)
        line = door.vault.append("site-revoked", site="alice-2", reason="x" * 3000)
        reader.lines(there + 1)
        for piece in (b'{"hash":"', b"ab" * 100):  # killed while it wrote: half a line, and more of it
            add(door, piece)
            until(lambda: True, 1)
        other = door.vault.append("site-revoked", site="alice-1", reason="y")
        os.truncate(ledger(door), ledger(door).stat().st_size - len(other))
        reader.lines(there + 1)
        size = ledger(door).read_bytes().rfind(b"\n") + 1
        os.truncate(ledger(door), size)  # as the vault does when it goes on
        add(door, other[:40])
        add(door, other[40:])
        lines = reader.lines(there + 2)
        assert [text.encode() + b"\n" for text in lines[-2:]] == [line, other]
        assert reader.path.read_bytes() == ledger(door).read_bytes()


def test_a_history_that_was_put_back_is_no_longer_followed(door: Door, tmp_path: Path) -> None:
    line = door.vault.append("site-revoked", site="alice-2", reason="x")
    with reading(door, tmp_path / "out", "--follow") as reader:
        reader.lines(len(door.vault.records) + 1)
        held_back(door, line)
        assert reader.end() == 3
        assert "not the one that this began with any more" in reader.errors.read_text()


@pytest.mark.parametrize("how", ["channel", "connection", "socket"])
@pytest.mark.parametrize(
    "asked", ["history --follow", "history --follow --json --event invalid", "history --export --follow"]
)
def test_following_does_not_outlive_its_reader(door: Door, how: str, asked: str) -> None:
    with door.client() as client:
        channel = client.open_session()
        channel.exec_command(asked)
        until(door.commands)
        if how == "channel":
            channel.close()
        elif how == "socket":
            client.sock.close()
        else:
            client.close()
        until(lambda: door.commands() == [], 20)


def test_a_reader_who_stops_reading_misses_nothing(door: Door) -> None:
    """More than pipes and windows hold: the door waits, and still ends when the reader goes."""
    with door.client() as client:
        channel = client.open_session(window_size=1 << 15)
        channel.settimeout(20)
        channel.exec_command("history --export --follow")
        until(door.commands)
        line = door.vault.append("site-revoked", site="alice-2", reason="x" * 30_000)
        add(door, line * 300)
        until(lambda: channel.recv_ready())
        found = b""
        while found.count(b"\n") < len(door.vault.records) + 300:
            found += channel.recv(1 << 16)
        assert found == ledger(door).read_bytes()
        add(door, line * 300)
        channel.close()
        until(lambda: door.commands() == [], 20)


def test_a_reader_who_is_revoked_is_out(door: Door, tmp_path: Path) -> None:
    with (
        reading(door, tmp_path / "out", "--follow") as reader,
        reading(door, tmp_path / "o", "--follow", site="alice-2") as other,
    ):
        reader.lines(len(door.vault.records) + 1)
        other.lines(len(door.vault.records) + 1)
        door.vault.enrol("alice-2", "auditor")
        assert reader.end() == 3
        assert "refused: alice-1 is not enrolled with this key any more" in reader.errors.read_text()
        door.vault.judge("alice-2", new_id())
        other.lines(len(door.vault.records) + 1)
        assert "alice-2" not in reader.text.splitlines()[-1]


def test_a_reader_who_stops_reading_cannot_stay_when_revoked(door: Door) -> None:
    """Its process waits for the pipe and looks at nothing meanwhile: the door ends the connection."""
    with door.client() as client:
        channel = client.open_session(window_size=1 << 15)
        channel.exec_command("history --export --follow")
        until(door.commands)
        line = door.vault.append("site-revoked", site="alice-2", reason="x" * 30_000)
        add(door, line * 300)
        until(channel.recv_ready)
        door.vault.enrol("alice-2", "auditor")
        until(lambda: door.commands() == [], 20)
        until(lambda: not client.is_active(), 20)


def test_who_follows_takes_one_channel_of_the_own_ones(door: Door) -> None:
    """As many as may be: the same site is told so, and nobody else notices."""
    with contextlib.ExitStack() as open_, door.client() as one, door.client() as two, door.client() as three:
        for client in [one] * 10 + [two] * 9 + [three]:
            channel = open_.enter_context(client.open_session())
            channel.settimeout(20)
            channel.exec_command("history --follow")
            channel.recv(1)
        last = three.open_session()
        last.settimeout(20)
        last.exec_command("history --follow")
        assert (last.recv_exit_status(), last.recv_stderr(200)) == (
            4,
            b"charity: later: 20 channels of alice-1 are open already\n",
        )
        assert door.ssh("history", "--last", "1", site="alice-2").returncode == 0
        one.close()
        until(lambda: door.ssh("history", "--last", "1").returncode == 0, 20)


@pytest.mark.sshd
def test_a_pipe_that_has_seen_enough_ends_it(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    """`ssh … history --follow | head -n 2`: the embedded door is not told before the client goes."""
    door = make_door("sshd", tmp_path, keys)
    door.vault.begin()
    door.start()
    try:
        ssh = ["ssh", *door.options("alice-1"), "-p", str(door.port), f"{door.user}@127.0.0.1", "history", "--follow"]
        with subprocess.Popen(ssh, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
            assert reader.stdout and reader.stdout.readline().startswith(b"   #")
            reader.stdout.close()
            until(lambda: (door.vault.judge("alice-1", new_id()), reader.poll() is not None)[1], 20)
            assert reader.returncode == 0
        until(lambda: door.commands() == [], 20)
    finally:
        door.stop()


NOT_TOGETHER = {
    "--json --csv": "--json and --csv are two forms; give one of them",
    "--export --follow --json": "--json and --export are two forms; give one of them",
    "--export --site alice-1": "--site would leave gaps in an --export, which then is no chain; …",
    "--export --follow --round 5": "--round waits for one round, and --follow has no end; give one of them",
    "--round 5": "--round belongs to --export",
    "--event acepted": "--event: 'acepted' is no event; did you mean 'accepted'?",
    "--site alice-4 --follow": "--site: 'alice-4' was never enrolled; did you mean 'alice-…'?",
    "--since yesterday": "--since is 'yesterday', expected a date or time in UTC such as …",
    "--since 2026-11-26 --since 2h": "'--since' does not fit, the form is: …",
    "--event ,": "--event names nothing",
    "--site '$(id)'": "--site: '$(id)' was never enrolled; …",
    "--site ../../vault": "--site: '../../vault' was never enrolled; …",
    "--site '(a+)+$'": "--site: '(a+)+$' was never enrolled; …",
    "--site '\x1b[2J'": "--site: '\\x1b[2J' was never enrolled; …",
    "--last 99999999999999999999": "--last is '99999999999999999999', expected a whole number",
    "--follow=yes": "'--follow=yes' does not fit, the form is: …",
    "--follow 5": "the form is: …",
}  # fmt: skip
OF_THE_DOOR = ("--round", "does not fit", "the form is", "--last is")  # click has its own words for these


def like(said: str) -> str:
    return re.escape(said).replace("…", ".*")


def test_what_cannot_be_asked_is_said_in_one_line(door: Door) -> None:
    with door.client() as client:
        for words, said in NOT_TOGETHER.items():
            channel = client.open_session()
            channel.settimeout(20)
            channel.exec_command(f"history {words}")
            out, errors = channel.makefile("rb").read(), channel.makefile_stderr("rb").read().decode()
            assert (out, channel.recv_exit_status()) == (b"", 2), words
            assert re.fullmatch(f"charity: {like(said)}\n", errors), (words, errors)
        for words in ("--last 999999999999999", "--after 999999999999999", "--since 999999999999999w --last 3"):
            assert client_reads(client, f"history {words}")[1] == 0, words


def client_reads(client: Any, words: str) -> tuple[bytes, int]:
    channel = client.open_session()
    channel.exec_command(words)
    return channel.makefile("rb").read(), channel.recv_exit_status()


def test_csv_of_the_door_is_read_by_a_spreadsheet(door: Door) -> None:
    door.vault.judge("alice-1", new_id(), reason='=cmd|"/c calc"!A1;+1,-1\x1b[2J\r\n\u202e')
    told = door.ssh("history", "--csv", "--site", "alice-1", "--event", "accepted")
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.decode().replace("\r\n", "").isprintable()
    [row] = csv.DictReader(io.StringIO(told.stdout.decode(), newline=""), strict=True)
    assert row["reason"] == "'=cmd|\"/c calc\"!A1;'+1,'-1\\u001b[2J\\u000d\\u000a\\u202e"
    assert (row["bytes"], row["gain.accuracy"], row["gain.loss"]) == ("9", "0.1", "0.2")


# At the coordinator


def charity(room: Room, *words: str) -> list[str]:
    return [sys.executable, "-m", "fedssh.charity.cli", "history", "--state", str(room.folders.state), *words]


@pytest.fixture
def growing(room: Room) -> Room:
    room.work()
    room.submit("alice-1", 0.7)
    room.work()
    return room


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("form", ["", "--json", "--csv", "--export"])
def test_the_coordinator_follows_until_she_is_told_to_stop(
    growing: Room, tmp_path: Path, form: str, number: signal.Signals
) -> None:
    there, head = len(growing.vault.ledger.records()), 1 if form in ("", "--csv") else 0
    reader = Reader(charity(growing, *filter(None, [form]), "--follow"), tmp_path / "out")
    try:
        reader.lines(there + head)
        growing.submit("alice-2", 0.8)
        growing.work()
        more = len(growing.vault.ledger.records())
        lines = reader.lines(more + head)
        assert more > there and "alice-2" in "".join(lines[there + head :])
        reader.process.send_signal(number)
        assert (reader.end(), reader.errors.read_text()) == (0, "")
    finally:
        reader.process.kill()
    if form == "--export":
        assert reader.path.read_bytes() == growing.folders.published.read_bytes()


@pytest.mark.parametrize("words", [("--follow",), ("--follow", "--last", "0"), ("--export", "--follow"), ("--json",)])
def test_a_reader_of_the_coordinator_who_has_seen_enough_ends_it(growing: Room, words: tuple[str, ...]) -> None:
    with subprocess.Popen(charity(growing, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout and reader.stderr
        reader.stdout.readline()
        reader.stdout.close()
        assert (reader.wait(20), reader.stderr.read()) == (0, b"")


def shown(room: Room, *words: str) -> str:
    told = subprocess.run(charity(room, *words), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_coordinator_asks_for_the_same(growing: Room) -> None:
    rows = json.loads(shown(growing, "--json"))
    only = json.loads(shown(growing, "--json", "--site", "alice-1", "--event", "accepted,refused", "--since", "1d"))
    assert only == [row for row in rows if row["site"] == "alice-1" and row["event"] in ("accepted", "refused")] != []
    assert (
        json.loads(shown(growing, "--json", "--last", "2", "--event", "site-added"))
        == [row for row in rows if row["event"] == "site-added"][-2:]
    )
    assert json.loads(shown(growing, "--json", "--since", "2999-01-01")) == []
    assert json.loads(shown(growing, "--json", "--after", "3")) == rows[3:]
    table = list(csv.DictReader(io.StringIO(shown(growing, "--csv")), strict=True))
    assert [line["hash"] for line in table] == [row["hash"] for row in rows]
    for words, said in NOT_TOGETHER.items():
        if not any(word in said for word in OF_THE_DOOR):
            told = subprocess.run(charity(growing, *shlex.split(words)), capture_output=True, text=True, check=False)
            assert (told.returncode, told.stdout) == (2, "")
            assert re.match(f"charity: error: {like(said)}\n", told.stderr), told.stderr


@pytest.fixture
def full() -> Iterator[IO[bytes]]:
    with open("/dev/full", "wb") as file:
        yield file


@pytest.mark.parametrize("words", [(), ("--follow",)])
def test_a_full_disk_is_an_error_in_one_line(growing: Room, full: IO[bytes], words: tuple[str, ...]) -> None:
    told = subprocess.run(
        charity(growing, *words), stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert told.returncode == 1 and told.stderr.count("\n") == 1 and "no space left" in told.stderr.lower()


def test_none_of_the_last_is_none_at_the_coordinator_too(growing: Room) -> None:
    shown = subprocess.run(charity(growing, "--last", "0", "--json"), capture_output=True, check=True)
    assert json.loads(shown.stdout) == []


@pytest.mark.parametrize("verb", ["history", "best", "status", "tags", "report", "help"])
def test_who_reads_no_further_makes_no_error(growing: Room, verb: str) -> None:
    words = [str(Path(sys.executable).with_name("charity"))]
    words += ["--help"] if verb == "help" else [verb, "--state", str(growing.folders.state)]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
