"""One connection to a machine: what `ssh` complains of is the error that it is; nothing is left of it afterwards."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedssh.errors import AgentError, HostKeyError, SettingsError, UnreachableError
from fedssh.keys import PrivateKey
from fleet import ssh as ssh_module
from fleet.ssh import BusyError, Connection, StepError, Target
from tests.harness.host import Host, stock_host
from tests.harness.waiting import until

SHA = "SHA256:yBm3zX0PZbbhoz9Q1kKVVtR5iGGsUQ6wpn4jqV2R7kA"
CHANGED = f"""\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
{SHA}.
Please contact your system administrator.
Add correct host key in /home/me/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/me/.ssh/known_hosts:1
Host key for 192.0.2.10 has changed and you have requested strict checking.
Host key verification failed."""
DENIED = "it@192.0.2.10: Permission denied"
TOO_MANY = """\
Received disconnect from 192.0.2.10 port 22:2: Too many authentication failures
Disconnected from 192.0.2.10 port 22"""
OPTION = "Bad configuration option: identityfle"
TO = "ssh: connect to host 192.0.2.10 port 22:"
UNKNOWN = """\
No ED25519 host key is known for 192.0.2.10 and you have requested strict checking.
Host key verification failed."""
# Says what it was told to, by what it is asked for; keeps what it was called with.
STAND_IN = """\
#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done >> FOLDER/words
printf '\\1' >> FOLDER/words
case "$*" in *"sudo -n "*) as=sudo ;; *ControlMaster=yes*) as=login ;; *) as=channel ;; esac
cat FOLDER/$as.out
cat FOLDER/$as.err >&2
. FOLDER/$as.then
"""
HOLD = "cat > /dev/null"


class StandIn:
    """A program `ssh` in PATH that prints OpenSSH's own messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ssh").write_text(STAND_IN.replace("FOLDER", str(folder)))
        (folder / "ssh").chmod(0o755)
        for name in ("login", "sudo", "channel"):
            self.says(name)
        self.says("login", "ready\n", then=HOLD)

    def says(self, name: str, output: str = "", complaint: str = "", then: str = "exit 0") -> None:
        (self.folder / f"{name}.out").write_text(output)
        (self.folder / f"{name}.err").write_text(complaint)
        (self.folder / f"{name}.then").write_text(then)

    @property
    def called(self) -> list[list[str]]:
        """The words of each call."""
        return [call.split("\0")[:-1] for call in (self.folder / "words").read_text().split("\1")[:-1]]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go: a short name, as a socket's must be."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return StandIn(tmp_path / "bin")


def target(pinned: bool = True, **changes: object) -> Target:
    given = {"name": "hospital-a", "label": "xrays-hospital-a", "user": "it", "host": "192.0.2.10", "port": 2201}
    return Target(**{**given, "known_hosts": (Path("/pins/known_hosts"),), "pinned": pinned, **changes})  # type: ignore[arg-type]


EXIT_CODES = {HostKeyError: 3, SettingsError: 2, UnreachableError: 4, StepError: 1}
WHERE = "hospital-a (it@192.0.2.10:2201)"
# What ssh says, and with which code it ends; whether the key is pinned; what comes of it.
COMPLAINTS: list[tuple[str, int, bool, type[AgentError], str, str]] = [
    (CHANGED, 255, True, HostKeyError, f"{WHERE} answered with the host key {SHA}, not with the one", "Nothing was"),
    (CHANGED, 255, False, HostKeyError, f"{WHERE} answered with the host key {SHA}, not with the one", "stop here"),
    (UNKNOWN, 255, True, HostKeyError, f"{WHERE} answered with another host key, not with the one", "stop here"),
    (UNKNOWN, 255, False, HostKeyError, f"{WHERE}: no host key is pinned for it", '"ssh-ed25519 …" at hospital-a'),
    (f"{DENIED} (publickey).", 255, True, SettingsError, f"{WHERE} does not let this user in: {DENIED}", "ssh-add"),
    (TOO_MANY, 255, True, SettingsError, f"{WHERE} does not let this user in", "IdentitiesOnly"),
    ("command-line line 0: Bad number", 255, True, SettingsError, "does not take an option", "~/.ssh/config"),
    (f"~/.ssh/config: line 3: {OPTION}", 255, True, SettingsError, OPTION, "~/.ssh/config"),
    (f"{TO} Connection refused", 255, True, UnreachableError, f"{WHERE} cannot be reached: {TO} Connection", ""),
    (f"{TO} Connection timed out", 255, True, UnreachableError, "timed out", ""),
    (f"{TO} No route to host", 255, True, UnreachableError, "No route", ""),
    ("ssh: Could not resolve hostname xray: Name or service not known", 255, True, UnreachableError, "not known", ""),
    ("kex_exchange_identification: Connection closed by remote host", 255, True, UnreachableError, "closed", ""),
    ("", 255, True, UnreachableError, f"{WHERE} cannot be reached: no reason given", ""),
    ("\x1b[2J\u202ebye", 255, True, UnreachableError, "\\u001b[2J\\u202ebye", ""),
    ("mkdir: cannot create directory '/var/lib/fedssh': Permission denied", 1, True, StepError, "mkdir: cannot", ""),
    ("bash: flock: command not found", 127, True, StepError, f"{WHERE}: bash: flock: command not found", ""),
    ("", 3, True, StepError, f"{WHERE}: ended with code 3", ""),
]  # fmt: skip


@pytest.mark.parametrize(("complaint", "code", "pinned", "kind", "said", "hint"), COMPLAINTS)
def test_what_ssh_complains_of_is_the_error_that_it_is(
    ssh: StandIn, temporary: Path, complaint: str, code: int, pinned: bool, kind: type[AgentError], said: str, hint: str
) -> None:
    ssh.says("login", "", complaint, f"exit {code}")
    with pytest.raises(AgentError) as caught:
        Connection(target(pinned), "up", lock=True)
    assert type(caught.value) is kind and caught.value.exit_code == EXIT_CODES[kind]
    assert said in str(caught.value) and str(caught.value).isprintable()
    assert hint in (caught.value.hint or "")
    assert list(temporary.iterdir()) == []


NOT_ROOT = [
    ("sudo: a password is required", 1),
    ("sudo: a terminal is required to read the password; either use the -S option", 1),
    ("bash: line 1: sudo: command not found", 127),
    ("it is not in the sudoers file.", 1),
]


@pytest.mark.parametrize(("complaint", "code"), NOT_ROOT)
def test_who_may_not_become_root(ssh: StandIn, temporary: Path, complaint: str, code: int) -> None:
    ssh.says("login", "not root\n", then="exit 1")
    ssh.says("sudo", "", complaint, f"exit {code}")
    with pytest.raises(SettingsError, match=r"hospital-a .*: it may not become root there: ") as caught:
        Connection(target(), "up", lock=True)
    assert complaint in str(caught.value) and "`sudo -n`" in (caught.value.hint or "")
    assert list(temporary.iterdir()) == []


def test_a_line_that_breaks_at_the_second_login_is_no_want_of_rights(ssh: StandIn, temporary: Path) -> None:
    ssh.says("login", "not root\n", then="exit 1")
    ssh.says("sudo", "", "ssh: connect to host 192.0.2.10 port 22: Connection refused", "exit 255")
    with pytest.raises(UnreachableError, match="Connection refused"):
        Connection(target(), "up", lock=True)


def test_whom_sudo_lets_become_root(ssh: StandIn, temporary: Path) -> None:
    ssh.says("login", "not root\n", then="exit 1")
    ssh.says("sudo", "ready\n", then=HOLD)
    connection = Connection(target(), "up", lock=True)
    ssh.says("sudo", "done\n")
    assert connection.run("nodes").text == "done"
    assert [call[-1].startswith("sudo -n ") for call in ssh.called] == [False, True, True]
    ssh.says("sudo", "", then=HOLD)
    connection.close()


def test_a_machine_on_which_somebody_works(ssh: StandIn, temporary: Path) -> None:
    ssh.says("login", "busy her@laptop, up, since 2026-09-01T00:00:00Z \x1b[2J\n", then="exit 75")
    with pytest.raises(BusyError) as caught:
        Connection(target(), "up", lock=True)
    assert str(caught.value).startswith("hospital-a: her@laptop, up, since 2026-09-01T00:00:00Z")
    assert str(caught.value).isprintable() and "the lock goes when that command ends" in (caught.value.hint or "")
    assert list(temporary.iterdir()) == []


def test_no_ssh_at_home(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="the command ssh is missing here"):
        Connection(target(), "up", lock=True)
    assert list(temporary.iterdir()) == []


def test_a_machine_that_says_more_than_it_was_asked_does_not_fill_the_memory(ssh: StandIn, temporary: Path) -> None:
    ssh.says("login", "", then="exec cat /dev/zero")
    with pytest.raises(AgentError):
        Connection(target(), "up", lock=True)


# The words


def test_our_options_come_before_the_inventorys_and_ssh_takes_the_first(ssh: StandIn, temporary: Path) -> None:
    Connection(target(options=("IdentityFile=/x", "StrictHostKeyChecking=no")), "up", lock=False).close()
    words = ssh.called[0]
    assert words.index("-oStrictHostKeyChecking=yes") < words.index("-oStrictHostKeyChecking=no")
    assert {"-oBatchMode=yes", "-oForwardAgent=no", "-oHostKeyAlias=xrays-hospital-a", "-oIdentityFile=/x"} <= set(
        words
    )
    assert "-oGlobalKnownHostsFile=/dev/null" in words and words[words.index("-p") + 1] == "2201"
    assert words[-3:-1] == ["it@192.0.2.10", "--"]


def test_without_a_pin_the_users_own_known_hosts_count(ssh: StandIn, temporary: Path) -> None:
    Connection(target(pinned=False), "up", lock=False).close()
    assert not [word for word in ssh.called[0] if "HostKeyAlias" in word or "GlobalKnownHosts" in word]


NASTY = [
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "$(touch x)",
    "`touch x`",
    "a;b|c&d",
    "*",
    "~",
    "\\",
    "-x",
    "",
    "x\ny",
    "#",
    "é",
]


def test_arguments_reach_a_script_as_they_are(ssh: StandIn, temporary: Path) -> None:
    connection = Connection(target(), "up", lock=True)
    connection.run("join", *NASTY)
    command = shlex.split(ssh.called[-1][-1])
    assert command[-len(NASTY) :] == NASTY
    found = subprocess.run(
        ["sh", "-c", shlex.join(["sh", "-c", 'for one; do printf "%s\\0" "$one"; done', *command[-len(NASTY) - 1 :]])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split("\0")[:-1] == NASTY
    connection.close()


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", 'a "quoted" one', "50% off", "%h", "back\\slash", "$HOME"]
)
def test_a_file_of_pins_in_any_folder_is_the_one_that_ssh_reads(tmp_path: Path, name: str) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh")
    pins = tmp_path / name / "known_hosts"
    command = [*target(known_hosts=(pins,)).words(), "-F", "none", "-G", "it@192.0.2.10"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    (found,) = [line.partition(" ")[2] for line in said.splitlines() if line.startswith("userknownhostsfile ")]
    assert found.replace("%%", "%") == str(pins)  # newer clients print it before they read %% as %


# How it ends


def test_what_a_script_complains_of(ssh: StandIn, temporary: Path) -> None:
    connection = Connection(target(), "up", lock=True)
    ssh.says("channel", "out\n", "first\nlast word \x1b[1m\n\n", "exit 9")
    with pytest.raises(StepError) as caught:
        connection.run("start")
    assert str(caught.value) == "hospital-a: last word \\u001b[1m"
    ssh.says("channel", then="exit 9")
    with pytest.raises(StepError, match="hospital-a: start ended with code 9"):
        connection.run("start")
    ssh.says("channel", "", "client_loop: send disconnect: Broken pipe", "exit 255")
    with pytest.raises(UnreachableError, match=r"hospital-a: the connection broke \(client_loop: send disconnect"):
        connection.run("start")
    connection.close()


def test_a_step_that_does_not_end(ssh: StandIn, temporary: Path) -> None:
    connection = Connection(target(), "up", lock=True)
    ssh.says("channel", then="echo $$ > FOLDER/pid; exec sleep 60".replace("FOLDER", str(ssh.folder)))
    with pytest.raises(UnreachableError, match="hospital-a: a step did not end in 0 s"):
        connection.run("start", seconds=0.4)
    assert gone(int((ssh.folder / "pid").read_text()))
    connection.close()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_closing_ends_the_connection_and_what_runs_over_it(ssh: StandIn, temporary: Path) -> None:
    pids = "echo $$ > FOLDER/NAME.pid; exec ".replace("FOLDER", str(ssh.folder))
    ssh.says("login", "ready\n", then=pids.replace("NAME", "login") + HOLD)
    connection = Connection(target(), "up", lock=True)
    ssh.says("channel", then=pids.replace("NAME", "channel") + "sleep 60")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            connection.run("start")
        except UnreachableError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: (ssh.folder / "channel.pid").exists() and (ssh.folder / "channel.pid").read_text().strip() != "")
    connection.close()
    thread.join(10)
    assert [str(error) for error in ended] == ["hospital-a: stopped"]
    assert gone(int((ssh.folder / "channel.pid").read_text())) and gone(int((ssh.folder / "login.pid").read_text()))
    assert list(temporary.iterdir()) == []
    with pytest.raises(UnreachableError, match="hospital-a: stopped"):
        connection.run("look")


def test_a_port_that_is_not_forwarded(ssh: StandIn, temporary: Path) -> None:
    connection = Connection(target(), "up", lock=True)
    ssh.says("channel", "", "mux_client_forward: forwarding request failed: administratively prohibited", "exit 255")
    with pytest.raises(StepError, match=r"forwards no ports \(mux_client_forward.*prohibited\)") as caught:
        connection.forward(5000)
    assert "--ship tar" in (caught.value.hint or "")
    connection.close()


# The real thing, on loopback

# A machine that keeps its state in another folder, and on which everybody is root.
MACHINE = """\
#!/bin/sh
exec sh -c "$(printf '%s' "$SSH_ORIGINAL_COMMAND" | sed 's|/var/lib/fedssh|FOLDER/var|g
s|/opt/fedssh|FOLDER/opt|g
s|/run/fedssh.step|FOLDER/step|g
s|\\[ $(id -u) = 0 \\]|true|')"
"""


@pytest.fixture
def machine(tmp_path: Path, keys: dict[str, PrivateKey], temporary: Path) -> Iterator[Host]:
    folder = tmp_path / "machine"
    with stock_host(folder, keys["alice-1"], f'command="{folder}/machine"') as host:
        (folder / "machine").write_text(MACHINE.replace("FOLDER", str(folder)))
        (folder / "machine").chmod(0o755)
        (folder / "opt" / "releases").mkdir(parents=True)
        yield host


def at(host: Host, **changes: object) -> Target:
    options = (f"IdentityFile={host.key}", "IdentitiesOnly=yes", "IdentityAgent=none")
    (host.folder / "pins").write_text(f"xrays-hospital-a {(host.folder / 'host.pub').read_text()}")
    given = {"user": getpass.getuser(), "host": "127.0.0.1", "port": host.port, "options": options}
    return target(**{**given, "known_hosts": (host.folder / "pins",), **changes})  # type: ignore[arg-type]


@pytest.fixture
def connect(machine: Host) -> Iterator[Callable[..., Connection]]:
    some: list[Connection] = []

    def one(lock: bool = True, **changes: object) -> Connection:
        some.append(Connection(at(machine, **changes), "up", lock))
        return some[-1]

    yield one
    for connection in some:
        connection.close()


HOLDER = """
import sys
from pathlib import PosixPath
from fleet.ssh import Connection, Target
connection = Connection(eval(sys.argv[1]), "up", True)
print(1, flush=True)
sys.stdin.read()
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.sshd
class TestReal:
    def test_a_script_runs_there(self, machine: Host, connect: Callable[..., Connection]) -> None:
        connection = connect()
        one, two = b"one\n", bytes(range(256)) * 4096
        (machine.folder / "two.yaml").write_bytes(two)
        assert connection.run("install", sha256(one), give=one).text == "1"
        assert connection.run("install", sha256(two), give=machine.folder / "two.yaml").text == "2"
        with (machine.folder / "two.yaml").open("rb") as file:
            assert connection.run("install", sha256(two), give=file).text == "2"  # which is no new one
        releases = machine.folder / "opt/releases"
        assert (releases / "1/compose.yaml").read_bytes() == one
        assert (releases / "2/compose.yaml").read_bytes() == two
        assert "up install: installed release 2" in (machine.folder / "var/deploy.log").read_text()

    def test_output_goes_where_it_should(self, machine: Host, connect: Callable[..., Connection]) -> None:
        (machine.folder / "var/site").mkdir(parents=True)
        key = bytes(range(256)) * 1000
        (machine.folder / "var/site/site_key.pub").write_bytes(key)
        with tempfile.TemporaryFile() as sink:
            done = connect().run("keygen", into=sink)
            sink.seek(0)
            assert sink.read() == key and done.output == b""

    def test_arguments_arrive(self, machine: Host, connect: Callable[..., Connection]) -> None:
        connection = connect()
        for name in (" ".join(one for one in NASTY if "\n" not in one), "x\ny"):
            with pytest.raises(StepError) as caught:
                connection.run("check_data", f"/no/{name}")
            assert str(caught.value).endswith(f"/no/{name} is not on this machine".splitlines()[-1])
        assert not (machine.folder / "x").exists()

    def test_a_port_leads_home(self, connect: Callable[..., Connection]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = connect().forward(listener.getsockname()[1])
            with socket.create_connection(("127.0.0.1", port), 10) as far, listener.accept()[0] as near:
                far.sendall(b"there")
                assert near.recv(10) == b"there"

    def test_a_second_one_waits_for_the_lock(self, connect: Callable[..., Connection]) -> None:
        first = connect()
        with pytest.raises(BusyError, match=r"hospital-a: .+@.+, up, since 20.+Z works on it"):
            connect()
        assert ", up, since 20" in connect(lock=False).run("look").text
        first.close()
        until(lambda: " since " not in connect(lock=False).run("look").text)
        connect()

    def test_the_lock_is_free_when_its_holder_is_killed(
        self, machine: Host, connect: Callable[..., Connection]
    ) -> None:
        words = [sys.executable, "-c", HOLDER, repr(at(machine))]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout and holder.stdout.readline() == b"1\n"
            with pytest.raises(BusyError):
                connect()
            holder.send_signal(signal.SIGKILL)
        until(lambda: can(connect), 10)

    def test_a_wrong_host_key(self, machine: Host, connect: Callable[..., Connection]) -> None:
        old = (machine.folder / "host.pub").read_text()
        pins = machine.folder / "others"
        pins.write_text(f"other {old}")
        with pytest.raises(HostKeyError, match="answered with another host key, not with the one that is pinned"):
            connect(known_hosts=(pins,))
        with pytest.raises(HostKeyError, match="no host key is pinned for it"):
            connect(known_hosts=(pins,), pinned=False)
        pins.write_text(f"xrays-hospital-a {old}")
        machine.make_host_key()
        with pytest.raises(HostKeyError, match="answered with the host key SHA256:"):
            connect(known_hosts=(pins,))

    def test_an_unknown_user_and_nobody(self, machine: Host, connect: Callable[..., Connection]) -> None:
        with pytest.raises(SettingsError, match="does not let this user in"):
            connect(user="nobody-of-that-name")
        with pytest.raises(SettingsError, match="ssh does not take an option"):
            connect(options=("ProxyJump=",))
        machine.stop()
        with pytest.raises(UnreachableError, match="Connection refused"):
            connect()

    def test_pins_in_a_folder_of_any_name(self, machine: Host, connect: Callable[..., Connection]) -> None:
        for name in ("50% %h", 'it\'s "x"'):
            (machine.folder / name).mkdir()
            pins = machine.folder / name / "known_hosts"
            pins.write_text(f"xrays-hospital-a {(machine.folder / 'host.pub').read_text()}")
            connect(known_hosts=(pins,), lock=False)

    def test_a_line_that_breaks(self, machine: Host, connect: Callable[..., Connection], temporary: Path) -> None:
        connection = connect()
        connection._master.kill()
        with pytest.raises(UnreachableError, match="hospital-a: the connection broke"):
            connection.run("look")  # which does not log in once more, without the lock
        connection.close()
        assert list(temporary.iterdir()) == []


def can(connect: Callable[..., Connection]) -> bool:
    try:
        connect()
    except BusyError:
        return False
    return True


def test_what_a_killed_deployment_left_in_the_temporary_folder_goes(temporary: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, ours = (temporary / f"{ssh_module._PREFIX}{number}-x" for number in (ended.pid, os.getpid()))
    for folder in (left, ours):
        folder.mkdir()
    made = ssh_module._new_folder()
    assert not left.exists() and ours.exists() and made.parent == temporary
