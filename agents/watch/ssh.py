"""The reader's own ssh as a child process that prints the history, line by line.

    ssh -T -o BatchMode=yes [-p PORT] [-i FILE] [-o OPTION …] -- [USER@]HOST history --export [--follow] --after N

Configuration, agent, jump hosts and known_hosts are those of the reader's ssh. It asks nothing (BatchMode), since the
terminal is in use, and no shell is anywhere on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedssh.chain import MAX_LINE_BYTES
from fedssh.errors import AgentError, HostKeyError, LedgerError, SettingsError, UnreachableError, UntrustedError
from fedssh.forms import printable

GRACE_SECONDS = 2.0
ASK_SECONDS = 30.0  # for ssh to read its configuration, which may run commands and look names up
MOST_LETTERS = 253  # of a host's name, RFC 1035
SAID_LINES = 40  # of ssh's and the door's words, the last are kept
_PLACE = re.compile(
    r"(?:(?P<user>[^\s@:/]+)@)?(?:\[(?P<literal>[\w:.%]+)\]|(?P<host>[^\s@:/\[\]]+))(?::(?P<port>\d{1,5}))?", re.ASCII
)
_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_UNVERIFIED = "Host key verification failed"
_REBUILT = "if the host was rebuilt, compare the new fingerprint with its operator; if not, stop here"
_DENIED = "Permission denied"
_UNUSABLE = re.compile("command-line:? line 0: ")  # so ssh calls what stands after `-o`


class NotUnderstoodError(SettingsError):
    """The door does not know these words: it is of another version."""


@dataclass(frozen=True)
class Place:
    """A door as the reader's ssh knows it.

    Attributes:
        user: Empty is whoever the reader's configuration says.
        port: None is whichever the reader's configuration says.
    """

    user: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.login}:{self.port}" if self.port else self.login

    @property
    def login(self) -> str:
        """`user@host`, as ssh takes it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def known_as(self) -> str:
        """What tells its history from others."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = f"{self.user}@{host}" if self.user else host
        return f"{login}:{self.port}" if self.port else login

    @property
    def typed(self) -> str:
        """The words by which a person reaches it."""
        return f"ssh -p {self.port} {self.login}" if self.port else f"ssh {self.login}"


def read_place(text: str, port: int | None = None) -> Place:
    """`[USER@]HOST[:PORT]`; an IPv6 address with a port stands in brackets.

    Raises:
        SettingsError: Anything else, or what ssh might take for an option.
    """
    found = _PLACE.fullmatch(text)
    if found is None or not text.isprintable():
        raise SettingsError(
            f"{text[:80]!r} is no place", "write [USER@]HOST[:PORT], such as charity@charity.example:2222"
        )
    user, host = found["user"] or "", found["literal"] or found["host"]
    if user.startswith("-") or host.startswith("-"):
        raise SettingsError(f"{text[:80]!r} begins with a dash: ssh might take it for an option")
    if len(host) > MOST_LETTERS:
        raise SettingsError(f"no host's name has {len(host)} letters, {MOST_LETTERS} at most")
    told = int(found["port"]) if found["port"] else None
    if told is not None and port is not None and told != port:
        raise SettingsError(f"the port is {told} in {text!r} and {port} by --port")
    chosen = told if port is None else port
    if chosen is not None and not 1 <= chosen <= 65535:
        raise SettingsError(f"{chosen} is not a port")
    return Place(user, host, chosen)


@dataclass
class Ssh:
    """Runs ssh once for each question.

    Args:
        place: Where the door is.
        identities: Files of keys, as `ssh -i` takes them.
        options: As `ssh -o` takes them.
        known_hosts: A file that alone says which host keys are right; None is the reader's own.
    """

    place: Place
    identities: Sequence[Path] = ()
    options: Sequence[str] = ()
    known_hosts: Path | None = None
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __str__(self) -> str:
        return str(self.place)

    def command(self, *words: str) -> list[str]:
        """What is run, word by word."""
        return ["ssh", "-T", *self._options(), *words]

    def reached(self) -> Place:
        """Where ssh gets to in the end, by its configuration and the options; what was typed if it cannot say that.

        Raises:
            SettingsError: There is no ssh.
            UnreachableError: It does not say so in time.
        """
        command = ["ssh", "-G", *self._options()]
        try:
            asked = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=ASK_SECONDS,
                start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UnreachableError(
                f"{self.place}: `ssh -G`, which reads its configuration, took over {ASK_SECONDS:.0f} s"
            ) from None
        except OSError as error:
            raise _not_started(error) from None
        lines = asked.stdout.decode(errors="replace").splitlines() if not asked.returncode else []
        said = dict(line.split(" ", 1) for line in lines if " " in line)
        user, host, port = said.get("user", ""), said.get("hostname", ""), said.get("port", "")
        return Place(user, host, int(port)) if user and host and port.isdecimal() else self.place

    def _options(self) -> list[str]:
        """What ssh is told, up to whom it logs in as."""
        pinned = []
        if self.known_hosts is not None:
            told = str(self.known_hosts.absolute()).replace("%", "%%")
            pinned = [f'UserKnownHostsFile="{told}"', "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes"]
        # What stands first counts for ssh: that nothing is asked, then the reader's own, then what is usual.
        said = ["BatchMode=yes", *pinned, *self.options, "ConnectTimeout=15", "ServerAliveInterval=15"]
        port = ["-p", str(self.place.port)] if self.place.port else []
        keys = [word for path in self.identities for word in ("-i", str(path))]
        options = [word for one in said for word in ("-o", one)]
        return [*port, *keys, *options, "--", self.place.login]

    def lines(self, after: int, *, follow: bool = False) -> Iterator[bytes]:
        """The lines of the history above a number: those there are, or also those that come, until the door ends it.

        Raises:
            HostKeyError: The host's key is not the one that ssh knows, or ssh knows none.
            UnreachableError: The connection failed or ended, or a line is cut off.
            NotUnderstoodError: The door does not know these words.
            SettingsError: There is no ssh, or the door lets nobody in with these keys.
            UntrustedError: The door refuses to tell, or its history is damaged.
            LedgerError: A line is longer than any is.
        """
        how = ("--export", "--follow") if follow else ("--export",)
        child = self._start("history", *how, "--after", str(after))
        said: deque[str] = deque(maxlen=SAID_LINES)
        hearing = threading.Thread(target=_hear, args=(child, said), daemon=True)
        hearing.start()
        assert child.stdout is not None
        cut_off = False
        try:
            while line := child.stdout.readline(MAX_LINE_BYTES + 1):
                if not line.endswith(b"\n"):
                    if len(line) > MAX_LINE_BYTES:
                        raise LedgerError(f"a line of the history is longer than {MAX_LINE_BYTES:,} bytes")
                    cut_off = True
                    break
                yield line
            child.wait()
            hearing.join(GRACE_SECONDS)  # a connection that others share may keep its own open
        finally:
            _end(child)
            child.stdout.close()
        if child.returncode and not self._stopped:
            raise _problem(self.place, child.returncode, list(said))
        if cut_off and not self._stopped:
            raise UnreachableError(f"{self.place}: the connection ended in the middle of a line")

    def stop(self) -> None:
        """End the child, from any thread; none is started any more."""
        with self._lock:
            self._stopped = True
            child = self._child
        if child:
            _end(child)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise UnreachableError(f"{self.place}: it was stopped")
            try:
                self._child = subprocess.Popen(
                    self.command(*words),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is ours, and ssh has no terminal to ask at
                )
            except OSError as error:
                raise _not_started(error) from None
            return self._child


def _not_started(error: OSError) -> SettingsError:
    if isinstance(error, FileNotFoundError):
        return SettingsError("there is no ssh", "on Debian and Ubuntu: apt install openssh-client")
    return SettingsError(f"ssh cannot be started: {error.strerror}")


def _hear(child: subprocess.Popen[bytes], said: deque[str]) -> None:
    """Keep the last of what ssh and the door say."""
    assert child.stderr is not None
    with child.stderr as words:
        while line := words.readline(4096):
            if text := printable(line.decode(errors="replace").strip()):
                said.append(text)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End ssh, and what it has started to get to the host."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                os.killpg(child.pid, number)
                child.wait(GRACE_SECONDS)


def _problem(place: Place, code: int, said: list[str]) -> AgentError:
    """What ssh's or the door's end means."""
    whole, last = " ".join(said), said[-1] if said else f"ssh ended with code {code}"
    if code == 255 or code < 0:
        if _CHANGED in whole or _UNVERIFIED in whole:
            words = " ".join(line.strip("@ ") for line in said if line.strip("@ "))[:900]
            unknown = (
                f"log in once, as by `{place.typed} status`, and compare the fingerprint; or name --known-hosts FILE"
            )
            return HostKeyError(f"{place}: {words}", _REBUILT if _CHANGED in whole else unknown)
        if _DENIED in whole:
            return SettingsError(
                f"{place}: {last}",
                "the door lets enrolled keys in: name yours with --identity, and load one with a passphrase into "
                "ssh-agent",
            )
        if _UNUSABLE.search(whole):
            return SettingsError(f"{place}: {whole}", "see what `-o` takes in `man ssh_config`")
        return UnreachableError(f"{place}: {last}")
    kinds: dict[int, type[AgentError]] = {2: NotUnderstoodError, 3: UntrustedError, 4: UnreachableError}
    return kinds.get(code, UnreachableError)(f"{place}: {last}")
