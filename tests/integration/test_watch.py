"""`fedssh watch` through stock ssh against both doors, and once by a terminal: tmux.

docs/how-to/watch.md shows what the last test captured.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedssh.charity import enrol
from fedssh.keys import PrivateKey
from fedssh.watch.follow import Follower
from fedssh.watch.ssh import Ssh, read_place
from fedssh.watch.trust import Trust
from scripts.demo.federation import free_port
from tests.harness.room import Room, Rooms
from tests.harness.sites import processes_of
from tests.harness.waiting import until

KINDS = [pytest.param("sshd", marks=pytest.mark.sshd), "embedded"]


@dataclass
class Place:
    """A coordinator without Keras, her real door, and a reader's home."""

    room: Room
    kind: str
    home: Path
    port: int = field(default_factory=free_port)
    door: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        embedded = ["--embedded"] if self.kind == "embedded" else []
        state = ["--state", str(self.room.folders.state), "--listen", f"127.0.0.1:{self.port}"]
        with open(self.home / "door.log", "ab") as log:
            words = [sys.executable, "-m", "fedssh.charity.cli", "door", *state, *embedded]
            self.door = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self.answers, 20, (self.home / "door.log").read_text)
        public = (self.room.folders.state / "door" / "host_key.pub").read_text()
        (self.home / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
            return client.recv(4) == b"SSH-"
        return False

    def close(self) -> None:
        if self.door:
            self.door.terminate()
            self.door.wait(20)
            self.door = None

    @property
    def user(self) -> str:
        return getpass.getuser() if self.kind == "sshd" else "charity"

    @property
    def words(self) -> list[str]:
        """What a reader types; the reader's own configuration is not looked at."""
        key, known = self.room.keys["stranger"].path, self.home / "known_hosts"
        return [
            sys.executable, "-m", "fedssh.cli", "watch", f"{self.user}@127.0.0.1:{self.port}", "-i", str(key),
            "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "--known-hosts", str(known),
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TMUX")}
        return own | {"XDG_STATE_HOME": str(self.home / "state"), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.words, "--once", *words]
        return subprocess.run(
            command, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, room: Room, tmp_path: Path) -> Iterator[Place]:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh (on Debian and Ubuntu: apt install openssh-client)")
    place = make_place(room, request.param, tmp_path)
    yield place
    place.close()


def make_place(room: Room, kind: str, folder: Path) -> Place:
    home = folder / "reader"
    home.mkdir()
    public = home / "auditor.pub"
    public.write_text(f"{room.keys['stranger'].public.line} auditor\n")
    enrol.add(room.vault, "auditor", public, "auditor")
    room.submit("alice-1", 0.6)
    room.work()
    place = Place(room, kind, home)
    place.open()
    return place


def test_once_prints_what_the_door_shows_and_remembers_it(place: Place) -> None:
    told = place.once()
    assert (told.returncode, told.stderr) == (0, "")
    coordinator = place.room.keys["coordinator"].public.fingerprint
    assert told.stdout.startswith("test, open · free, without end · policy best · gate on, margin 0.01\n")
    assert f"signed by {coordinator}, seen first now: compare it with the coordinator's" in told.stdout
    assert "accuracy 0.6000 beats 0.5000" in told.stdout and told.stdout.replace("\n", "").isprintable()
    again = place.once("--json")
    value = json.loads(again.stdout)
    newest = place.room.last()
    assert value["status"]["head"] == newest.hash and value["records"] == newest.sequence
    assert "as since " in value["checked"]
    [memory] = (place.home / "state/fedssh/watch").iterdir()
    assert memory.name == f"{place.user}@127.0.0.1:{place.port}.json"
    assert json.loads(memory.read_text())["sequence"] == newest.sequence


def test_what_was_seen_cannot_be_taken_back(place: Place) -> None:
    room = place.room
    assert place.once().returncode == 0
    published = room.folders.outbox / "ledger.jsonl"
    lines = published.read_bytes().splitlines(keepends=True)
    published.write_bytes(b"".join(lines[:-1]))
    told = place.once()
    assert told.returncode == 3 and told.stdout == ""
    assert f"error: the history does not reach record {len(lines)}, which was seen before" in told.stderr
    published.write_bytes(b"".join(lines).replace(b"0.6000", b"0.9000", 1))
    told = place.once()
    assert told.returncode == 3 and told.stdout == "" and "fedssh: error: record" in told.stderr
    published.write_bytes(b"".join(lines))


def test_a_signer_is_pinned_by_the_file_that_the_coordinator_publishes(place: Place) -> None:
    signers = place.room.folders.outbox / "allowed_signers"
    told = place.once("--signers", str(signers))
    assert told.returncode == 0 and f"as {signers} says" in told.stdout
    strange = place.home / "signers"
    strange.write_text(f"charity {place.room.keys['stranger'].public.line}\n")
    told = place.once("--signers", str(strange))
    assert told.returncode == 3 and "names the coordinator's key" in told.stderr


def test_a_changed_host_key_ends_it_as_ssh_says_it(place: Place, keys: dict[str, PrivateKey]) -> None:
    known = place.home / "known_hosts"
    other = place.home / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    known.write_text(f"[127.0.0.1]:{place.port} {other.with_suffix('.pub').read_text()}")
    told = place.once()
    assert told.returncode == 3 and "REMOTE HOST IDENTIFICATION HAS CHANGED" in told.stderr
    assert "hint: if the host was rebuilt" in told.stderr and "@@@" not in told.stderr
    known.write_text("")
    told = place.once()
    assert told.returncode == 3 and "Host key verification failed" in told.stderr
    assert f"ssh -p {place.port} " in told.stderr and not (place.home / "state").exists()


def test_who_is_not_let_in_or_finds_nobody_is_told_so(place: Place) -> None:
    words = [str(place.room.keys["alice-3"].path) if word == str(place.room.keys["stranger"].path) else word
             for word in place.words]  # fmt: skip
    told = subprocess.run([*words, "--once"], env=place.environ, capture_output=True, text=True, check=False)
    assert told.returncode == 2 and "Permission denied" in told.stderr and "enrolled" in told.stderr
    place.close()
    told = place.once()
    assert told.returncode == 4 and "Connection refused" in told.stderr


def test_what_is_decided_comes_by_itself(place: Place) -> None:
    room, known = place.room, place.home / "known_hosts"
    user = getpass.getuser() if place.kind == "sshd" else "charity"
    source = Ssh(
        read_place(f"{user}@127.0.0.1", place.port),
        [room.keys["stranger"].path],
        ["IdentitiesOnly=yes", "IdentityAgent=none"],
        known,
    )
    follower = Follower(source, Trust(room.keys["coordinator"].public, None, "the test"), place.home / "memory.json")
    thread = threading.Thread(target=follower.run, daemon=True)
    thread.start()
    try:
        for accuracy in (0.7, 0.8, 0.9):
            until(lambda: follower.standing.connection == "connected", 20, lambda: str(follower.standing))
            room.submit("alice-2", accuracy)
            room.work()
            until(lambda: follower.standing.records == room.last().sequence, 20, lambda: str(follower.standing))
        value = follower.value()
        assert value is not None and [point["value"] for point in value["curve"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
        assert follower.standing.connection == "connected"  # and not asked again and again
    finally:
        follower.stop()
        thread.join(10)
        follower.close()
    assert follower.error is None and not thread.is_alive()
    assert not [line for line in processes_of(place.home) if line.startswith("ssh ")]
    assert json.loads((place.home / "memory.json").read_text())["sequence"] == room.last().sequence


# By a terminal


@dataclass
class Terminal:
    """A terminal of tmux's, of one window."""

    server: Path

    def run(self, *words: str, **said: object) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(self.server), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, **said)  # type: ignore[call-overload]
        return str(done.stdout)

    def begin(self, command: list[str], environ: dict[str, str], size: tuple[int, int]) -> None:
        kept = ("XDG_STATE_HOME", "LC_ALL", "PYTHONPATH")
        told = [word for name in kept if name in environ for word in ("-e", f"{name}={environ[name]}")]
        quoted = " ".join(f"'{word}'" for word in command)
        self.run(
            "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), *told,
            f"{quoted}; echo ended with $?; exec sleep 60", env=environ,
        )  # fmt: skip

    def shown(self) -> str:
        return self.run("capture-pane", "-p")

    def keys(self, *names: str) -> None:
        self.run("send-keys", *names)

    def end(self) -> None:
        self.run("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux (on Debian and Ubuntu: apt install tmux)")
    terminal = Terminal(tmp_path / "tmux")
    yield terminal
    terminal.end()


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_on_a_terminal_what_the_coordinator_decides_appears(
    new_room: Rooms, tmp_path: Path, terminal: Terminal, size: tuple[int, int]
) -> None:
    room = new_room()
    place = make_place(room, "embedded", tmp_path)
    try:
        terminal.begin(place.words, place.environ, size)

        def appears(text: str) -> None:
            until(lambda: text in terminal.shown(), 30, terminal.shown)

        appears("127.0.0.1:" + str(place.port) + ": connected")
        assert "compare it" in terminal.shown() and "accuracy 0.6000 beats 0.5000" in terminal.shown()
        room.submit("alice-2", 0.7, session=2)
        room.work()
        appears("0.7000 on the holdout, 3 models")
        room.submit("alice-1", 0.4, session=2)
        room.work()
        appears("below the")
        if os.environ.get("SHOW_SCREENS"):
            Path(os.environ["SHOW_SCREENS"]).write_text(terminal.shown())
        terminal.keys("/", "alice-2", "Enter")
        until(lambda: "refused     alice-1" not in terminal.shown(), 10, terminal.shown)
        terminal.keys("Escape")
        appears("refused     alice-1")
        terminal.keys("?")
        appears("divided among the sites")
        terminal.keys("Escape")
        place.close()
        appears("next try in")
        place.open()
        appears(": connected")
        terminal.keys("q")
        appears("ended with 0")
        assert not [line for line in processes_of(tmp_path) if line.startswith("ssh ")]
    finally:
        place.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), ("C-c", 130)])
def test_a_signal_leaves_a_clean_terminal_and_no_ssh(
    new_room: Rooms, tmp_path: Path, terminal: Terminal, number: signal.Signals | str, code: int
) -> None:
    place = make_place(new_room(), "embedded", tmp_path)
    try:
        terminal.begin(place.words, place.environ, (80, 24))
        until(lambda: ": connected" in terminal.shown(), 30, terminal.shown)
        if isinstance(number, str):
            terminal.keys(number)
        else:
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    line = (folder / "cmdline").read_bytes()
                    if b"fedssh.cli\0watch" in line and os.fsencode(tmp_path) in line and b"; echo" not in line:
                        os.kill(int(folder.name), number)
        until(lambda: f"ended with {code}" in terminal.shown(), 20, terminal.shown)
        assert "SITE" not in terminal.shown()
        assert not [line for line in processes_of(tmp_path) if line.startswith("ssh ")]
    finally:
        place.close()


# The quickstart's, of its own run

RUN = """
import sys, time
from pathlib import Path
from scripts.demo.bar import Work
from scripts.demo.live import Live
from scripts.demo.processes import STOPS, interruptible
from scripts.demo.screen import Screen

ledger, log, stop = map(Path, sys.argv[1:])
def interrupt():
    raise KeyboardInterrupt
with interruptible(KeyboardInterrupt, STOPS):
    try:
        with Screen(["alice-1"], live=Live(Path(sys.executable), ledger, log), interrupt=interrupt) as screen:
            screen.say("before it")
            screen.begin(Work(["alice-1"], 3, 10, {}))
            for number in range(10**6):
                if stop.exists():
                    break
                screen.say(f"line {number} [red]")
                screen.tick()
                time.sleep(0.2)
        print("the summary")
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(
    ("how", "end"),
    [("done", "the summary"), ("q", "what follows are lines"), ("C-c", "interrupted"), ("TERM", "interrupted")],
)
def test_a_run_has_the_terminal_back_however_its_screen_ends(
    room: Room, tmp_path: Path, root: Path, terminal: Terminal, how: str, end: str
) -> None:
    room.submit("alice-1", 0.6)
    room.work()
    stop, log = tmp_path / "stop", tmp_path / "logs" / "quickstart.log"
    program = tmp_path / "run.py"
    program.write_text(RUN)
    words = [sys.executable, str(program), str(room.folders.outbox / "ledger.jsonl"), str(log), str(stop)]
    terminal.begin(words, os.environ | {"PYTHONPATH": str(root)}, (100, 30))
    until(lambda: "accuracy 0.6000 beats 0.5000" in terminal.shown(), 30, terminal.shown)
    until(lambda: "[red]" in terminal.shown() and "0 of 30 epochs" in terminal.shown(), 10, terminal.shown)
    assert "as coordinator_key.pub says" in terminal.shown()
    if how == "done":
        stop.touch()
    elif how == "TERM":
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().split(b"\0")
                if line[1:2] == [os.fsencode(program)]:
                    os.kill(int(folder.name), signal.SIGTERM)
    else:
        terminal.keys(how)
    until(lambda: end in terminal.shown(), 20, terminal.shown)
    if how == "q":  # the run goes on
        until(lambda: terminal.shown().count("[red]") > 3, 20, terminal.shown)
        stop.touch()
        until(lambda: "the summary" in terminal.shown(), 20, terminal.shown)
    until(lambda: "ended with 0" in terminal.shown(), 20, terminal.shown)
    assert "SITE" not in terminal.shown() and "before it" in terminal.shown()
    assert "line 0 [red]" in log.read_text()
    assert not [line for line in processes_of(tmp_path) if "scripts.demo.shown" in line]
