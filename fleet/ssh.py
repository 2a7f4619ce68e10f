"""One connection to a machine, through stock `ssh`: the user's configuration, agent and hardware keys work.

All that runs there is a file of on_host/, given as words of `sh -c`; standard input is free for data. The connection
holds the machine's lock: the first channel runs hold.sh, and when this process ends, however, its input ends, and with
it lock, connection and forwarded ports.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from fedssh.commands import printable
from fedssh.errors import AgentError, HostKeyError, SettingsError, UnreachableError, UntrustedError

BEAT_SECONDS = 15
STEP_SECONDS = 900.0
OPEN_SECONDS = 60.0
MOST_BYTES = 16 << 20  # that a step may answer with; what is larger goes into a file
BUSY = 75
_PREFIX = "fedssh-deploy-"
_OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "PasswordAuthentication=no", "ConnectTimeout=10",
    "ServerAliveInterval=15", "ServerAliveCountMax=4", "ForwardAgent=no", "ForwardX11=no", "ControlPersist=no",
    "UpdateHostKeys=no", "ExitOnForwardFailure=yes", "LogLevel=ERROR",
)  # fmt: skip
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


class BusyError(AgentError):
    """Somebody else deploys to this machine at the moment."""


class StepError(AgentError):
    """A step on a machine failed; the text is its own last word."""


@dataclass(frozen=True)
class Target:
    """Where to log in, and whose key is believed there.

    Attributes:
        name: In the inventory.
        label: The name under which keys are pinned.
        known_hosts: Files with pinned keys. `label` stands in them where `pinned` is true, else the host's name.
        options: Further options of `ssh`, from the inventory.
    """

    name: str
    label: str
    user: str
    host: str
    port: int
    known_hosts: tuple[Path, ...]
    pinned: bool
    options: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The beginning of an `ssh` command line."""
        files = " ".join(shlex.quote(str(path).replace("%", "%%")) for path in self.known_hosts)
        options = [*_OPTIONS, f"UserKnownHostsFile={files}"]
        if self.pinned:
            options += ["GlobalKnownHostsFile=/dev/null", f"HostKeyAlias={self.label}"]
        return ["ssh", "-p", str(self.port), *(f"-o{one}" for one in (*options, *self.options))]

    @property
    def login(self) -> str:
        """User and host as `ssh` takes them."""
        return f"{self.user}@{self.host}"


@dataclass(frozen=True)
class Done:
    """How a script ended."""

    code: int
    output: bytes
    complaint: str

    @property
    def text(self) -> str:
        """What it printed."""
        return self.output.decode(errors="replace").strip()


def script(name: str, who: str, what: str, *before: str) -> str:
    """A file of on_host/ with what comes before it."""
    folder = resources.files("fleet") / "on_host"
    parts = [(folder / f"{one}.sh").read_text() for one in ("common", *before, name)]
    return f"WHO={shlex.quote(who)} WHAT={shlex.quote(what)}\n" + "".join(parts)


def who() -> str:
    """Who deploys, for lock and log."""
    return printable(f"{getpass.getuser()}@{socket.gethostname()}")


class Connection:
    """A connection that stands until `close`, or until this process ends.

    Args:
        target: The machine.
        what: The verb, for the log.
        lock: Take the machine's lock.

    Raises:
        HostKeyError: The machine's key is not the pinned one. Nothing was sent to it.
        UnreachableError: It does not answer.
        BusyError: Another deployment works there.
        SettingsError: It does not let this user in, or not with the rights that are needed.
    """

    def __init__(self, target: Target, what: str, lock: bool) -> None:
        self.target = target
        self.what = what
        self._who = who()
        self._sudo = False
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closed = threading.Event()
        self._folder = _new_folder()
        self._socket = self._folder / "s"
        try:
            self._master = self._open("lock" if lock else "look")
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._beat = threading.Thread(target=self._keep, daemon=True)
        self._beat.start()

    def run(
        self,
        name: str,
        *words: str,
        before: Sequence[str] = (),
        give: bytes | Path | IO[bytes] | None = None,
        into: IO[bytes] | None = None,
        seconds: float = STEP_SECONDS,
    ) -> Done:
        """Run a file of on_host/ there.

        Args:
            name: The file, without its ending.
            words: Its arguments.
            before: Files that it needs before it.
            give: Its standard input.
            into: Where its output goes, instead of into the answer.
            seconds: How long it may take.

        Raises:
            StepError: It ended with another code than 0; says its last line.
            UnreachableError: The connection broke.
        """
        text = script(name, self._who, f"{self.what} {name}", *before)
        if into is None and name not in ("look", "hold"):
            # A step that a killed deployment left running ends before the next one begins.
            command = ["flock", "--close", "--wait", "600", "/run/fedssh.step", "sh", "-c", text, "sh", *words]
        else:
            command = ["sh", "-c", text, "sh", *words]
        done = self._channel(command, give, into, seconds)
        if done.code:
            raise StepError(f"{self.target.name}: {done.complaint or f'{name} ended with code {done.code}'}")
        return done

    def forward(self, port: int) -> int:
        """Lead a port of 127.0.0.1 on the machine to one of 127.0.0.1 here, until the connection ends; returns it.

        Raises:
            StepError: The machine's sshd does not forward ports.
        """
        words = [*self._words(), "-O", "forward", "-R", f"127.0.0.1:0:127.0.0.1:{port}", self.target.login]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=60)
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"{self.target.name}: it does not answer whether it forwards ports") from None
        if done.returncode or not done.stdout.strip().isdecimal():
            said = printable(done.stderr.strip()) or "no reason given"
            hint = "AllowTcpForwarding yes there, or --ship tar"
            raise StepError(f"{self.target.name}: its sshd forwards no ports ({said})", hint)
        return int(done.stdout)

    def close(self) -> None:
        """End the connection, and with it lock, forwarded ports and whatever still runs over it."""
        self._closed.set()
        for child in list(self._children):
            child.kill()
        _end(self._master)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _words(self) -> list[str]:
        # Where the master is gone, `ssh` would log in anew, without the lock.
        first, *rest = self.target.words()
        return [first, "-oProxyCommand=exit 1", *rest, "-oControlMaster=no", "-S", str(self._socket)]

    def _open(self, how: str) -> subprocess.Popen[bytes]:
        try:
            return self._hold(how)
        except _NotRootError:
            self._sudo = True
            return self._hold(how)

    def _hold(self, how: str) -> subprocess.Popen[bytes]:
        text = script("hold", self._who, self.what)
        asked = f"[ $(id -u) = 0 ] || {{ echo not root; exit 1; }}\n{text}"
        master = [*self.target.words(), "-oControlMaster=yes", "-S", str(self._socket), self.target.login]
        command = self._as_root(["sh", "-c", asked, "sh", how])
        with (self._folder / "stderr").open("w+b") as said:
            try:
                process = subprocess.Popen(
                    [*master, "--", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                    start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError:
                raise SettingsError("the command ssh is missing here", "install OpenSSH's client") from None
            assert process.stdout
            patience = threading.Timer(OPEN_SECONDS, process.kill)  # a login that hangs answers nothing at all
            patience.start()
            line = process.stdout.readline(1000).decode(errors="replace").strip()
            patience.cancel()
            if line == "ready":
                return process
            _end(process)
            said.seek(0)
            complaint = said.read().decode(errors="replace").strip()
        if line.startswith("busy"):
            raise BusyError(
                f"{self.target.name}: {printable(line[5:]) or 'somebody'} works on it at the moment",
                "wait for it; the lock goes when that command ends, or a minute after its line is cut",
            )
        if line == "not root" and not self._sudo:
            raise _NotRootError
        raise _why(self.target, process.returncode, complaint, self._sudo)

    def _as_root(self, command: list[str]) -> str:
        return shlex.join(["sudo", "-n", *command] if self._sudo else command)

    def _channel(
        self, command: list[str], give: bytes | Path | IO[bytes] | None, into: IO[bytes] | None, seconds: float
    ) -> Done:
        if self._closed.is_set():
            raise UnreachableError(f"{self.target.name}: stopped")
        words = [*self._words(), self.target.login, "--", self._as_root(command)]
        with contextlib.ExitStack() as stack:
            said = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                words, stdin=_source(give, stack), stdout=into or subprocess.PIPE, stderr=said, start_new_session=True
            )
            stack.callback(self._let_go, process)
            self._children.add(process)
            late = threading.Event()
            patience = threading.Timer(seconds, _end_late, (process, late))
            patience.daemon = True
            patience.start()
            stack.callback(patience.cancel)
            if isinstance(give, bytes):
                threading.Thread(target=_pour, args=(process, give), daemon=True).start()
            output = process.stdout.read(MOST_BYTES + 1) if process.stdout else b""
            if len(output) > MOST_BYTES:
                raise UntrustedError(f"{self.target.name}: a step answers with more than {MOST_BYTES:,} bytes")
            process.wait()
            said.seek(0)
            complaint = _last_line(said.read(MOST_BYTES))
        if late.is_set():
            raise UnreachableError(f"{self.target.name}: a step did not end in {seconds:.0f} s")
        if process.returncode == 255:
            raise UnreachableError(f"{self.target.name}: the connection broke ({complaint or 'no reason given'})")
        if process.returncode < 0:
            raise UnreachableError(f"{self.target.name}: stopped")
        return Done(process.returncode, output, complaint)

    def _let_go(self, process: subprocess.Popen[bytes]) -> None:
        """A step is over, or is to be."""
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._children.discard(process)

    def _keep(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            try:
                assert self._master.stdin
                self._master.stdin.write(b"\n")
                self._master.stdin.flush()
            except OSError:
                return


def _source(give: bytes | Path | IO[bytes] | None, stack: contextlib.ExitStack) -> IO[bytes] | int:
    """What a step gets as its standard input."""
    if isinstance(give, Path):
        return stack.enter_context(give.open("rb"))
    if isinstance(give, bytes):
        return subprocess.PIPE
    return subprocess.DEVNULL if give is None else give


def _end_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _pour(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Give a step its input; it may end before it has read all of it."""
    assert process.stdin
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write(data)
        process.stdin.close()


class _NotRootError(Exception):
    """The user who logged in is not root; perhaps sudo lets them."""


def _why(target: Target, code: int, complaint: str, sudo: bool) -> AgentError:
    """What `ssh` complained of, as the error that it is."""
    said = _last_line(complaint.encode())
    where = f"{target.name} ({target.login}:{target.port})"
    if "host key" in complaint.lower() and ("verification failed" in complaint or "is known for" in complaint):
        return _wrong_key(target, where, complaint)
    if code == 255 and "Permission denied" in complaint:
        return SettingsError(f"{where} does not let this user in: {said}", "is the key loaded (`ssh-add -l`)?")
    if code == 255 and "Too many authentication failures" in complaint:
        hint = 'ssh = ["IdentityFile=…", "IdentitiesOnly=yes"] at the top of the inventory, or so in ~/.ssh/config'
        return SettingsError(f"{where} does not let this user in: {said}", hint)
    if code == 255 and ("command-line" in complaint or "onfiguration option" in complaint):
        return SettingsError(
            f"{where}: ssh does not take an option: {said}", "see ~/.ssh/config and ssh in the inventory"
        )
    if code == 255:
        return UnreachableError(f"{where} cannot be reached: {said or 'no reason given'}")
    if code < 0:
        return UnreachableError(f"{where} lets this user in, and then says nothing for {OPEN_SECONDS:.0f} s")
    if sudo or "sudo" in complaint:
        hint = "deploy as root, or let that user run `sudo -n` there"
        return SettingsError(f"{where}: {target.user} may not become root there: {said or 'no sudo'}", hint)
    return StepError(f"{where}: {said or f'ended with code {code}'}")


def _wrong_key(target: Target, where: str, complaint: str) -> HostKeyError:
    offered = _FINGERPRINT.search(complaint)
    if "CHANGED" in complaint or target.pinned:
        return HostKeyError(
            f"{where} answered with {f'the host key {offered[0]}' if offered else 'another host key'}, "
            "not with the one that is pinned",
            "if the machine was rebuilt, compare the new key with its owner; if not, stop here. Nothing was sent",
        )
    return HostKeyError(
        f"{where}: no host key is pinned for it",
        f'get it from its owner and write host_key = "ssh-ed25519 …" at {target.name}, or into known_hosts',
    )


def _new_folder() -> Path:
    """A folder for a connection's socket; those of deployments that were killed are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1][:400]) if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    end = time.monotonic() + 2
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()
