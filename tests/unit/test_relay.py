"""The verb `channel`: the forced command between a client's pipes and the judge's socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedssh.channel.handshake import who
from fedssh.channel.sockets import listen
from fedssh.door.admission import DoorSettings, Enrolled, forced_command
from fedssh.forms import canonical

KEY = "ssh-rsa " + "A" * 400


def enrol(state: Path, *sites: str) -> None:
    entries = [{"site": site, "role": "site", "key": KEY} for site in sites]
    part = state / "outbox" / ".sites.json.part"
    part.write_bytes(canonical({"sites": entries}))
    part.replace(state / "outbox" / "sites.json")


@dataclass
class Door:
    """A state folder with a judge who listens."""

    state: Path
    judge: socket.socket
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, words: str = "channel", before: str = "", role: str = "site") -> subprocess.Popen[bytes]:
        argv = forced_command(DoorSettings(state=self.state), Enrolled("alice-1", role, KEY))
        argv[4] = argv[4].replace("main()", f"{before}; main()" if before else "main()")
        pipe = subprocess.PIPE
        environment = {**os.environ, "SSH_ORIGINAL_COMMAND": words}
        command = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0)
        self.started.append(command)
        return command

    def end(self, command: subprocess.Popen[bytes]) -> tuple[int, bytes]:
        """How it ended by itself."""
        code = command.wait(20)
        assert command.stderr
        return code, command.stderr.read()

    def accept(self) -> socket.socket:
        self.judge.settimeout(20)
        judge, _ = self.judge.accept()
        assert who(judge, 20) == "alice-1"  # the door says so before anybody else says anything
        judge.settimeout(20)
        return judge


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    (tmp_path / "outbox").mkdir()
    enrol(tmp_path, "alice-1")
    door = Door(tmp_path, listen(tmp_path / "outbox"))
    yield door
    door.judge.close()
    for command in door.started:
        command.kill()
        command.wait()
        for pipe in (command.stdin, command.stdout, command.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


def exactly(source: socket.socket | int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = os.read(source, size - len(data)) if isinstance(source, int) else source.recv(size - len(data))
        assert block, f"it ended after {len(data)} of {size} bytes"
        data += block
    return data


def test_bytes_go_both_ways_as_they_are(door: Door) -> None:
    command = door.start()
    assert command.stdin and command.stdout
    with door.accept() as judge:
        for size in (1, 24, 102_000, 3_000_000):
            data = os.urandom(size)
            for there in (True, False):
                if there:
                    send = threading.Thread(target=write_all, args=(command.stdin.fileno(), data))
                else:
                    send = threading.Thread(target=judge.sendall, args=(data,))
                send.start()
                assert exactly(judge if there else command.stdout.fileno(), size) == data
                send.join()
        judge.sendall(b"the last word")  # before she ends
    assert command.stdout.read() == b"the last word"
    assert door.end(command) == (0, b"")


def write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def test_both_may_send_much_at_once(door: Door) -> None:
    command = door.start()
    assert command.stdin and command.stdout
    data = os.urandom(4_000_000)
    with door.accept() as judge:
        sending = [
            threading.Thread(target=write_all, args=(command.stdin.fileno(), data)),
            threading.Thread(target=judge.sendall, args=(data[::-1],)),
        ]
        for one in sending:
            one.start()
        found: list[bytes] = []
        reading = threading.Thread(target=lambda: found.append(exactly(judge, len(data))))
        reading.start()
        assert exactly(command.stdout.fileno(), len(data)) == data[::-1]
        for one in (*sending, reading):
            one.join()
    assert found == [data]


def test_what_the_judge_said_arrives_although_she_took_nothing_more(door: Door) -> None:
    command = door.start()
    assert command.stdin and command.stdout
    judge = door.accept()

    def say_and_go() -> None:
        judge.sendall(b"x" * 3_000_000)  # no pipe holds so much: some of it waits in the door
        judge.close()

    leaving = threading.Thread(target=say_and_go)
    leaving.start()
    with contextlib.suppress(BrokenPipeError):
        write_all(command.stdin.fileno(), b"y" * 100)
    assert exactly(command.stdout.fileno(), 3_000_000) == b"x" * 3_000_000
    leaving.join()
    assert door.end(command) == (0, b"")


def test_the_client_ends_it(door: Door) -> None:
    command = door.start()
    assert command.stdin
    with door.accept() as judge:
        command.stdin.write(b"bye")
        command.stdin.close()
        assert exactly(judge, 3) == b"bye" and judge.recv(1) == b""
    assert door.end(command) == (0, b"")


def test_a_client_that_listens_no_more_ends_it_though_nothing_is_said(door: Door) -> None:
    command = door.start()
    assert command.stdout
    with door.accept() as judge:
        command.stdout.close()
        assert judge.recv(1) == b""
    assert door.end(command) == (4, b"")


@pytest.mark.parametrize("left", ["nothing", "a socket", "a file"])
def test_without_a_judge_it_is_to_be_tried_later(door: Door, left: str) -> None:
    door.judge.close()
    if left != "a socket":
        (door.state / "outbox" / "channel.sock").unlink()
    if left == "a file":
        (door.state / "outbox" / "channel.sock").touch()
    assert door.end(door.start()) == (4, b"charity: later: no turn is on\n")


def test_a_judge_who_lets_nobody_in_is_not_waited_for_long(door: Door) -> None:
    door.judge.listen(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(door.state / "outbox" / "channel.sock"))
        command = door.start()
        assert door.end(command) == (4, b"charity: later: the judge lets nobody in just now\n")


def test_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    state = tmp_path / ("x" * 200)
    (state / "outbox").mkdir(parents=True)
    enrol(state, "alice-1")
    with listen(state / "outbox") as listening:
        door = Door(state, listening)
        command = door.start()
        assert command.stdin
        with door.accept() as judge:
            command.stdin.write(b"hello")
            assert exactly(judge, 5) == b"hello"
        assert door.end(command)[0] == 0
        for pipe in (command.stdin, command.stdout, command.stderr):
            assert pipe
            pipe.close()


@pytest.mark.parametrize("busy", [False, True])
def test_a_revoked_site_has_no_channel_any_more(door: Door, busy: bool) -> None:
    command = door.start()
    assert command.stdin and command.stdout
    with door.accept() as judge:
        command.stdin.write(b"hello")
        assert exactly(judge, 5) == b"hello"
        if busy:
            judge.settimeout(None)
            talking = threading.Thread(target=talk, args=(judge,))
            talking.start()
            exactly(command.stdout.fileno(), 100_000)
        enrol(door.state, "alice-2")
        if busy:
            with contextlib.suppress(AssertionError):
                while True:
                    exactly(command.stdout.fileno(), 100_000)
            talking.join()
        else:
            assert judge.recv(1) == b""
    assert door.end(command) == (3, b"charity: refused: alice-1 is not enrolled with this key any more\n")


def talk(judge: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            judge.sendall(b"x" * 10_000)


@pytest.mark.parametrize("stuck", [False, True])
def test_silence_ends_it(door: Door, stuck: bool) -> None:
    command = door.start(before="import fedssh.door.relay as relay; relay.QUIET_SECONDS = 0.3")
    with door.accept() as judge:
        if stuck:  # the judge would talk, but the client takes nothing
            judge.settimeout(0.2)
            with pytest.raises(TimeoutError):
                judge.sendall(bytes(8_000_000))
        assert door.end(command) == (4, b"charity: later: nothing came for 0.3 seconds\n")


def test_it_is_for_sites_and_takes_no_words(door: Door) -> None:
    enrolled = [{"site": "alice-1", "role": "auditor", "key": KEY}]
    assert door.end(door.start("channel ../x")) == (2, b"charity: the form is: channel\n")
    (door.state / "outbox" / "sites.json").write_bytes(canonical({"sites": enrolled}))
    told = door.end(door.start(role="auditor"))
    assert told == (3, b"charity: refused: channel is for sites, this key is for reading\n")


def test_other_verbs_do_not_load_it(door: Door) -> None:
    shown = "import atexit, os; os._exit = lambda code: print(*sys.modules, file=sys.stderr)"
    code, said = door.end(door.start("release", before=shown))
    loaded = set(said.decode().split())
    assert code == 0 and "fedssh.door.fetch" in loaded
    assert not loaded & {"fedssh.door.relay", "socket", "fedssh.channel"}
