r"""The SSH client: one connection to one door, a channel per verb. The only place for paramiko and python-socks.

    ship     sends a bundle as `scp -O FILE host:` would; done when the door has it whole and durable
    ask      runs a verb and returns its exit status and its (bounded) output
    line     runs a verb and returns the first line it prints, without waiting for the rest
    stream   runs a verb and writes what it prints into a file
    talk     runs a verb and lets bytes go both ways

The door's host key is pinned in an OpenSSH known_hosts file before the first contact; there is no question to
answer with yes. One site key logs in: no agent, no other keys, no password.

The way there may lead through a proxy (SOCKS5, HTTP CONNECT) or a jump host. Either only carries the bytes of this one
connection: what is pinned is the door's key, whatever lies in between. What lies in between also acknowledges bytes for
a door that is long gone, so there the door itself is asked for signs of life.

The scp protocol, source side, over the channel's stdin and stdout:

    ->  "C0600 <size> <name>\n"   ->  <size> bytes   ->  "\0"
    <-  "\0" ready   <-  "\0" the name is fine   <-  "\0" it is stored     or "\1"/"\2", a message, "\n"

It is written here rather than taken from the scp package, because that one waits two round trips before it
sends, cuts blocks at sizes that do not fit SSH packets (a quarter of the speed), waits for the remote process
to end, and turns every refusal into one exception without its kind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import paramiko

from fedssh.address import Address, Way
from fedssh.errors import AgentError, BundleError, SettingsError, UnreachableError, UntrustedError
from fedssh.known_hosts import check_host_key, pinned_keys

STALL_SECONDS = 60.0
KEEPALIVE_SECONDS = 15
MAX_ANSWER_BYTES = 1 << 20
_BLOCK = 1 << 18
_MAX_HEAD_BYTES = 1 << 14
_CONNECT_FAILED = 2  # RFC 4254, section 5.1
# AES-GCM does encryption and integrity in one pass of AES-NI; the others are for hosts that lack it.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it logs what it raises; we say it once, in our words


class BusyError(UnreachableError):
    """The door answered, but with `later`: the connection is good, try the same again on it after a while."""


class RefusedError(SettingsError):
    """The door does not serve this site: it is not enrolled there, or not any more, or not yet again.

    Attributes:
        in_words: Whether the door said so to a site that it had let in; a refused log-in gives no reason.
    """

    def __init__(self, message: str, hint: str, in_words: bool) -> None:
        super().__init__(message, hint)
        self.in_words = in_words


@dataclass(frozen=True)
class Answer:
    """What a verb printed and how it ended; the status is an exit code of the error tree."""

    status: int
    output: bytes
    complaint: str

    @property
    def nothing_yet(self) -> bool:
        """Ask again later."""
        return self.status == UnreachableError.exit_code

    @property
    def busy(self) -> bool:
        """Whether the door could not even look, which says nothing of what is there."""
        return self.nothing_yet and self.complaint.removeprefix("charity: ").startswith("later:")

    def error(self, address: Address, verb: str) -> AgentError:
        """An answer that is neither output nor `nothing_yet`, as the error it means for the caller.

        `refused:` and a usage error are for a person to look at; anything else may pass.
        """
        said = self.complaint or f"no word, exit status {self.status}"
        message = f"{address} answered `{verb}` with: {said}"
        if self.status == SettingsError.exit_code:
            return SettingsError(message, "does the coordinator run another version of fedssh?")
        if self.status == UntrustedError.exit_code:
            return RefusedError(message, "ask the coordinator's operator whether this site is still enrolled", True)
        return BusyError(message)


class Connection:
    """An SSH connection to a door, authenticated with the site key.

    Args:
        address: The door.
        key: The site key's file.
        known_hosts: The file that pins the door's host key.
        timeout: How long connecting, logging in and starting a verb may each take, in seconds.
        way: What leads there; None where the network does.
        silence: How long a door at the end of a way may show no sign of life, in seconds.

    Raises:
        HostKeyError: A host key is not the pinned one. Never retry.
        RefusedError: The door does not let this key in.
        UnreachableError: No door answers there, or what leads there does not. Retry later.
    """

    def __init__(
        self,
        address: Address,
        key: Path,
        known_hosts: Path,
        timeout: float = 10.0,
        way: Way | None = None,
        silence: float = STALL_SECONDS,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._over = threading.Event()
        pinned = pinned_keys(known_hosts, address.known_as)
        login = paramiko.RSAKey.from_private_key_file(str(key))
        line = _dial(address, timeout, way)
        self._transport = _transport(line, pinned, timeout)
        who = f"{address}{f' through {way.via}' if way else ''}"
        try:
            _negotiate(self._transport, who, timeout)
            check_host_key(address, self._transport.get_remote_server_key().asbytes(), [blob for _, blob in pinned])
            if not _log_in(self._transport, who, address.user, login):
                raise RefusedError(
                    f"{address} does not let {address.user} in with the key {login.fingerprint}",
                    "the site is not enrolled there, or was revoked; ask the coordinator's operator",
                    in_words=False,
                )
        except BaseException:
            self._transport.close()
            raise
        if isinstance(line, _Line):
            line.keep_alive(self._transport, silence, self._over)
        else:
            self._transport.set_keepalive(KEEPALIVE_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return bool(self._transport.is_active())

    def close(self) -> None:
        """End the connection; verbs that wait in other threads end with an UnreachableError."""
        self._over.set()
        self._transport.close()

    def ship(
        self,
        bundle: Path,
        progress: Callable[[int, int], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Send one file; when this returns, the door has stored it whole and durable.

        Args:
            bundle: The file. Streamed.
            progress: Called with the bytes sent so far and their total.
            meanwhile: Called once when all bytes are on their way, before the door's last word.

        Raises:
            BundleError: The door will never take this file (`refused: …`).
            UnreachableError: The network failed, or the door cannot take it now (`later: …`).
        """
        with open(bundle, "rb", buffering=0) as file, self._open("scp -t .") as channel:
            source = _Source(self.address, channel)
            source.send(file, os.fstat(file.fileno()).st_size, bundle.name, progress)
            if meanwhile:
                meanwhile()
            source.finish()

    def begin(self, *words: str | int) -> Call:
        """Start a verb without waiting for its end."""
        stack = contextlib.ExitStack()
        channel = stack.enter_context(self._open(shlex.join(str(word) for word in words)))
        return Call(self.address, channel, stack)

    def ask(self, *words: str | int, timeout: float = STALL_SECONDS, max_bytes: int = MAX_ANSWER_BYTES) -> Answer:
        """Run a verb and return what it printed.

        Args:
            words: The verb and its arguments.
            timeout: How long the door may stay silent, in seconds; longer than what the verb is told to wait.
            max_bytes: The largest output to accept.

        Raises:
            BundleError: The output is larger than `max_bytes`.
            UnreachableError: The network failed or the door stayed silent.
        """
        return self.begin(*words).answer(timeout, max_bytes)

    def line(self, *words: str | int, max_bytes: int, timeout: float = STALL_SECONDS) -> Answer:
        """Run a verb and return the first line that it prints, with its end; the rest is not listened to.

        Raises:
            BundleError: The line is longer than `max_bytes`.
            UnreachableError: The network failed or the door stayed silent.
        """
        call = self.begin(*words)
        try:
            return call.first_line(timeout, max_bytes)
        finally:
            call.close()

    def stream(self, *words: str | int, into: Path, max_bytes: int, timeout: float = STALL_SECONDS) -> Answer:
        """Run a verb and write what it prints into a new file, which is there afterwards only if the status is 0.

        Raises:
            BundleError: There is more than `max_bytes`.
            OSError: The disk is full or read-only.
            UnreachableError: The network failed or the door stayed silent.
        """
        call = self.begin(*words)
        done = False
        try:
            with open(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                answer = call.copy(file, timeout, max_bytes)
            done = answer.status == 0
        finally:
            call.close()
            if not done:
                into.unlink(missing_ok=True)
        return answer

    def talk(self, *words: str | int) -> Talk:
        """Start a verb that is talked with, both ways at the same time."""
        call = self.begin(*words)
        return Talk(self.address, shlex.join(str(word) for word in words), call)

    @contextlib.contextmanager
    def _open(self, command: str) -> Iterator[paramiko.Channel]:
        with _network(self.address, "does not start a channel"), self._deadline():
            channel = self._transport.open_session(timeout=self._timeout)
            channel.settimeout(STALL_SECONDS)
            channel.exec_command(command)
        try:
            yield channel
        finally:
            with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
                channel.close()

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Paramiko waits without limit for the answer to `exec`: when it does not come, end the connection."""
        timer = threading.Timer(self._timeout, self._transport.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def greet(address: Address, kind: str, timeout: float = 10.0, way: Way | None = None) -> tuple[str, str]:
    """What a door says of itself before anybody logs in: its version, and its host key as one line.

    Args:
        address: The door.
        kind: Of which type its key should be; one that has none of it shows another.
        timeout: How long connecting and greeting may each take, in seconds.
        way: What leads there.

    Raises:
        HostKeyError: The key of a jump host on the way is not the pinned one.
        UnreachableError: No door answers there, or what leads there does not.
    """
    transport = _transport(_dial(address, timeout, way), [(kind, b"")], timeout)
    try:
        _negotiate(transport, f"{address}{f' through {way.via}' if way else ''}", timeout)
        key = transport.get_remote_server_key()
        return _one_line(transport.remote_version.encode(errors="replace")), f"{key.get_name()} {key.get_base64()}"
    finally:
        transport.close()


class Call:
    """A verb that runs at the door; made by `Connection.begin`."""

    def __init__(self, address: Address, channel: paramiko.Channel, resources: contextlib.ExitStack) -> None:
        self._address = address
        self._channel = channel
        self._resources = resources

    def close(self) -> None:
        """Stop listening; the door ends the verb."""
        self._resources.close()

    def answer(self, timeout: float = STALL_SECONDS, max_bytes: int = MAX_ANSWER_BYTES) -> Answer:
        """Wait for the end; see `Connection.ask`."""
        output = _Memory()
        try:
            answer = self.copy(output, timeout, max_bytes)
        finally:
            self.close()
        return Answer(answer.status, b"".join(output.blocks), answer.complaint)

    def copy(self, file: IO[bytes] | _Memory, timeout: float, max_bytes: int) -> Answer:
        """Write what the verb prints into `file`; the answer's own output is empty."""
        for block in self._blocks(timeout, max_bytes):
            file.write(block)
        return self._end()

    def first_line(self, timeout: float, max_bytes: int) -> Answer:
        """Wait for one line, or for the end without one; see `Connection.line`."""
        found = b""
        for block in self._blocks(timeout, max_bytes + _BLOCK):
            head, end, _ = block.partition(b"\n")
            found += head + end
            if end or len(found) > max_bytes:
                break
        else:
            return self._end()
        if len(found) > max_bytes:
            raise BundleError(f"{self._address} sends a line of more than the {max_bytes:,} bytes expected at most")
        return Answer(0, found, "")

    def _blocks(self, timeout: float, max_bytes: int) -> Iterator[bytes]:
        left = max_bytes
        self._channel.settimeout(timeout)
        while True:
            with _network(self._address, "ended the connection", timeout):
                block = self._channel.recv(_BLOCK)
            if not block:
                return
            left -= len(block)
            if left < 0:
                raise BundleError(f"{self._address} sends more than the {max_bytes:,} bytes expected at most")
            yield block

    def _end(self) -> Answer:
        with _network(self._address, "ended the connection", STALL_SECONDS):
            if not self._channel.status_event.wait(STALL_SECONDS):
                raise TimeoutError
            if self._channel.exit_status < 0:
                raise EOFError
            complaint = self._channel.recv_stderr(4096) if self._channel.recv_stderr_ready() else b""
        return Answer(self._channel.exit_status, b"", _one_line(complaint))


class Talk:
    """A verb that bytes go to and come from; made by `Connection.talk`. One thread may send while another receives."""

    def __init__(self, address: Address, verb: str, call: Call) -> None:
        self._address, self._verb, self._call = address, verb, call
        self._channel = call._channel

    def send(self, data: memoryview | bytes) -> None:
        """Send all of it; waits while the other side takes nothing.

        Raises:
            UnreachableError: The network failed, or the verb has ended.
        """
        with _network(self._address, "cut the channel", self._channel.gettimeout()):
            self._channel.sendall(data)

    def receive(self, most: int, timeout: float) -> bytes:
        """What has come, as soon as something has; nothing when the verb has ended.

        Args:
            timeout: How long nothing may come, in seconds.

        Raises:
            UnreachableError: The network failed, or nothing came.
        """
        with _network(self._address, "cut the channel", timeout):
            self._channel.settimeout(timeout)
            return bytes(self._channel.recv(most))

    def finish(self) -> None:
        """Say that nothing more will be sent; the door passes on what was."""
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def ending(self) -> Answer:
        """How the verb ended.

        Raises:
            UnreachableError: It did not, the network did.
        """
        return self._call._end()

    def failure(self, answer: Answer) -> AgentError:
        """An end that should not have been, as the error that it means."""
        return answer.error(self._address, self._verb)

    def close(self) -> None:
        """Stop listening, also in another thread; the door ends the verb."""
        self._call.close()


class _Memory:
    """Collects what is written to it."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.blocks.append(data)


class _Source:
    """The sending side of scp."""

    def __init__(self, address: Address, channel: paramiko.Channel) -> None:
        self._address = address
        self._channel = channel
        self._acknowledged = 0

    def send(self, file: IO[bytes], size: int, name: str, progress: Callable[[int, int], None] | None) -> None:
        # paramiko puts at most this much into one packet; any other block is cut, and its rest copied.
        block = self._channel.out_max_packet_size - 64
        sent = 0
        self._write(f"C0600 {size} {name}\n".encode())
        while sent < size:
            data = file.read(min(block, size - sent))
            if not data:
                raise BundleError(f"{name} became shorter while it was sent")
            self._write(data)
            sent += len(data)
            if progress:
                progress(sent, size)
        self._write(b"\0")

    def finish(self) -> None:
        """Wait until the door has stored everything."""
        while self._acknowledged < 3:
            self._listen()
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.shutdown_write()

    def _write(self, data: bytes) -> None:
        if self._channel.recv_ready():
            self._listen()
        try:
            with _network(self._address, "cut the connection while it received a bundle", STALL_SECONDS):
                self._channel.sendall(data)
        except UnreachableError:
            self._listen_for_reason()
            raise

    def _listen(self) -> None:
        with _network(self._address, "cut the connection while it received a bundle", STALL_SECONDS):
            data = self._channel.recv(1024)
        said = data.lstrip(b"\0")
        self._acknowledged += len(data) - len(said)
        if not data:
            raise self._last_words()
        if said:
            with _network(self._address, "cut the connection while it refused a bundle", STALL_SECONDS):
                while b"\n" not in said and len(said) < 4096 and (more := self._channel.recv(1024)):
                    said += more
            raise self._refusal(_one_line(said[1:]))

    def _listen_for_reason(self) -> None:
        while self._channel.recv_ready() or self._channel.status_event.is_set():
            self._listen()

    def _last_words(self) -> AgentError:
        """Once bytes flow, a door says on standard error why it stops, because scp does not listen then."""
        self._channel.status_event.wait(1.0)
        said = self._channel.recv_stderr(4096) if self._channel.recv_stderr_ready() else b""
        if not said:
            return UnreachableError(f"{self._address} cut the connection while it received a bundle")
        return self._refusal(_one_line(said).removeprefix("charity: "))

    def _refusal(self, said: str) -> AgentError:
        message = f"{self._address} does not take the bundle: {said}"
        if said.startswith("refused:"):
            return BundleError(message)
        return BusyError(message)


class _Socket(Protocol):
    """What paramiko needs of a socket."""

    def send(self, data: bytes, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def close(self) -> None: ...


def _dial(address: Address, timeout: float, way: Way | None) -> _Socket:
    if way is None:
        return _connect(address, timeout, str(address))
    return (_jump if way.via.kind == "ssh" else _through_proxy)(address, timeout, way)


def _connect(address: Address, timeout: float, who: str) -> socket.socket:
    with _network(who, "cannot be reached", timeout, address.host):
        connection = socket.create_connection((address.host, address.port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the verbs are small; do not collect them
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: give up on bytes, keepalives too, that nobody acknowledges
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_SECONDS * 1000))
    return connection


class _Line:
    """A connection through somebody else, who also acknowledges bytes for a peer that is gone.

    Args:
        socket: Its end at this site.
        end: Closes what carries it.
    """

    def __init__(self, socket: _Socket, end: Callable[[], None]) -> None:
        self._socket = socket
        self._heard = time.monotonic()
        self._closed = False  # paramiko asks for it
        self._end = end
        self.send = socket.send
        self.settimeout = socket.settimeout

    def recv(self, size: int) -> bytes:
        data = self._socket.recv(size)
        self._heard = time.monotonic()
        return data

    def close(self) -> None:
        self._closed = True
        self._end()

    def keep_alive(self, transport: paramiko.Transport, silence: float, over: threading.Event) -> None:
        """Have the peer answer now and then, and end the connection when nothing comes for `silence` seconds."""
        every = min(KEEPALIVE_SECONDS, silence / 4)
        transport.packetizer.set_keepalive(every, lambda: _ask_for_life(transport))

        def watch() -> None:
            while not over.wait(every) and transport.is_active():
                if time.monotonic() - self._heard > silence:
                    transport.close()

        threading.Thread(target=watch, daemon=True).start()


def _ask_for_life(transport: paramiko.Transport) -> None:
    """Every SSH server answers a request that it does not know, with a no; paramiko's own asks for no answer."""
    question = paramiko.Message()
    question.add_byte(bytes([paramiko.common.MSG_GLOBAL_REQUEST]))
    question.add_string("keepalive@openssh.com")
    question.add_boolean(True)
    transport._send_user_message(question)


def _through_proxy(address: Address, timeout: float, way: Way) -> _Socket:
    from python_socks import ProxyError, ProxyType  # only where there is a proxy
    from python_socks.sync import Proxy

    via, who = way.via, f"the proxy {way.via}"
    connection = _connect(via.at, timeout, who)
    talk: Any = _Talk(connection, timeout, heads=via.kind == "http")  # stands where another proxy may
    kind = ProxyType.HTTP if via.kind == "http" else ProxyType.SOCKS5
    proxy = Proxy(kind, via.at.host, via.at.port, via.at.user, via.password, forward=talk)
    try:
        with _network(who, "ended the connection", timeout):
            proxy.connect(address.host, address.port, timeout)
    except ProxyError as error:
        raise UnreachableError(
            _refusal(address, who, error.error_code, _one_line(str(error).encode(errors="replace")))
        ) from None
    except ValueError:  # what it answered cannot be decoded, or the door's name not be written for it
        raise UnreachableError(f"{who} does not speak {via.kind}, or not of {address}") from None
    return _Line(connection, connection.close)


# What a proxy says when it has tried to reach the door, and it was not there: the codes of RFC 1928 and RFC 9110.
_DOOR_FAILED = {3, 4, 5, 6, 502, 503, 504}


def _refusal(address: Address, who: str, code: int | None, said: str) -> str:
    """Why there is no connection, so that it is clear whom to ask: who runs the proxy, or who runs the door."""
    said = said.lower()
    if code in _DOOR_FAILED:
        return f"{address} cannot be reached from {who}: {said}"
    if code == 407:
        return f"{who} does not let this site in: {said}"
    if code is not None:
        return f"{who} does not let this site through to {address}: {said}"
    return f"{who} does not let this site in: {said}" if "authentication" in said else f"{who} failed: {said}"


class _Talk:
    """What is said with a proxy before it lets bytes through: it ends in time, and nothing behind its end is read.

    Args:
        connection: To the proxy.
        seconds: Within which all must have been said.
        heads: Whether the proxy answers with a head of HTTP, which ends with an empty line, and is asked for at once.
    """

    def __init__(self, connection: socket.socket, seconds: float, heads: bool) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds
        self._heads = heads
        self.close = connection.close

    def connect(self, dest_host: str, dest_port: int, timeout: float) -> _Talk:
        """What python-socks asks of a proxy before the proxy."""
        return self

    def sendall(self, data: bytes) -> None:
        self._in_time().sendall(data)

    def recv(self, size: int) -> bytes:
        if not self._heads:
            return self._in_time().recv(size)
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_HEAD_BYTES and (byte := self._in_time().recv(1)):
            head += byte
        return head

    def _in_time(self) -> socket.socket:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection


def _jump(address: Address, timeout: float, way: Way) -> _Socket:
    at, who = way.via.at, f"the jump host {way.via}"
    pinned, login = pinned_keys(way.known_hosts, at.known_as), _login_key(way.key)
    transport = _transport(_connect(at, timeout, who), pinned, timeout)
    try:
        _negotiate(transport, who, timeout)
        offered = transport.get_remote_server_key().asbytes()
        check_host_key(at, offered, [blob for _, blob in pinned], "the jump host")
        if not _log_in(transport, who, at.user, login):
            raise UnreachableError(f"{who} does not let this site in with the key {login.fingerprint}")
        channel = _forwarded(transport, address, who, timeout)
    except BaseException:
        transport.close()
        raise
    transport.set_keepalive(KEEPALIVE_SECONDS)
    return _Line(channel, transport.close)


def _forwarded(transport: paramiko.Transport, address: Address, who: str, timeout: float) -> paramiko.Channel:
    ends = (address.host, address.port), ("127.0.0.1", 0)
    with _network(f"{address} behind {who}", "cannot be reached", timeout):
        try:
            return transport.open_channel("direct-tcpip", *ends, timeout=timeout)
        except paramiko.ChannelException as error:
            if error.code == _CONNECT_FAILED:
                raise UnreachableError(f"{address} cannot be reached from {who}: {error.text.lower()}") from None
            raise UnreachableError(f"{who} does not let this site through to {address}: {error.text.lower()}") from None


def _login_key(path: Path) -> paramiko.PKey:
    """A private key of any kind.

    Raises:
        SettingsError: There is none, or it needs a passphrase.
    """
    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist", "--via-key names the key that the jump host lets in") from None
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError, TypeError) as error:
        raise SettingsError(f"{path} is not a private key without a passphrase: {error}") from None


def _negotiate(transport: paramiko.Transport, who: str, timeout: float) -> None:
    with _network(who, "does not speak SSH"):
        transport.start_client(timeout=timeout)
        if not transport.initial_kex_done:  # start_client returns quietly when its time is up
            raise TimeoutError
    # What follows is encrypted, but the peer is not yet known to be the door: nothing is sent before the check.


def _log_in(transport: paramiko.Transport, who: str, user: str, login: paramiko.PKey) -> bool:
    """Log in with a key; False where it is not let in."""
    try:
        with _network(who, "ended the connection during log-in"):
            return not transport.auth_publickey(user, login)
    except _DeniedError:
        return False


def _transport(connection: _Socket, pinned: list[tuple[str, bytes]], timeout: float) -> paramiko.Transport:
    transport = paramiko.Transport(connection)
    transport.daemon = True
    transport._preferred_ciphers = _CIPHERS
    transport._preferred_macs = _MACS
    transport._preferred_compression = ("none",)  # ciphertext does not compress
    transport._preferred_keys = _host_key_order([kind for kind, _ in pinned], transport._preferred_keys)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout
    return transport


def _host_key_order(pinned: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The pinned types first, so that a host with several keys shows the one we compare.

    The others stay at the end: they can never match, but a host that lost its key then shows which one it has
    now, and the person sees both fingerprints instead of `no matching host key type`.
    """
    first = [name for kind in pinned for name in known if name == kind or (kind == "ssh-rsa" and "rsa" in name)]
    return tuple(dict.fromkeys([*first, *known]))


class _DeniedError(Exception):
    """The door answered the log-in with no."""


@contextlib.contextmanager
def _network(address: object, what: str, seconds: float | None = None, name: str = "") -> Iterator[None]:
    """Turn every way in which a network fails into one error that says which host, what, and after how long."""
    start = time.monotonic()
    try:
        yield
    except TimeoutError:
        waited = seconds if seconds is not None else time.monotonic() - start
        raise UnreachableError(f"{address} did not answer in {waited:.0f} s") from None
    except paramiko.AuthenticationException as error:
        if not any(word in str(error) for word in ("timeout", "shut down", "EOF")):
            raise _DeniedError from None
        raise UnreachableError(f"{address} {what}: {error}") from None
    except socket.gaierror as error:
        raise UnreachableError(f"{address} {what}: the name {name} is not known ({error.strerror})") from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        after = f"after {time.monotonic() - start:.1f} s"
        raise UnreachableError(f"{address} {what} ({', '.join(filter(None, (_reason(error), after)))})") from None


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or str(error)).lower()


def _one_line(text: bytes) -> str:
    """What a peer said, fit for one line of a terminal."""
    said = " ".join(text[:400].decode(errors="replace").split())
    return "".join(character for character in said if character.isprintable())
