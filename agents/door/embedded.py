"""The door without sshd: asyncssh in front of the same forced command, for a laptop or a test.

Each channel runs the forced command as a process of its own, its pipes tied to the channel. The server itself
knows two things about a client: that it holds a key of sites.json, and the words it asks with.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import logging
import os
import threading
from typing import Any

import asyncssh

from fedssh.commands import tell
from fedssh.door.admission import (
    LOGIN_SECONDS,
    MAX_CHANNELS,
    MAX_STRANGERS,
    STRANGERS_OF_ONE,
    TICK_SECONDS,
    UNUSED_SECONDS,
    DoorSettings,
    Enrolled,
    check_free,
    forced_command,
    read_sites,
    version,
)
from fedssh.errors import SettingsError
from fedssh.files import locked
from fedssh.history.views import fingerprint
from fedssh.host_key import make_host_key

USER = "charity"
LAST_WORDS_SECONDS = 0.5  # what a revoked site's open channels have to end by themselves
LAST_STEPS_SECONDS = 5  # what a command has to tidy up when its client has gone
WINDOW_BYTES = 2 << 20
PACKET_BYTES = 128 << 10
PIPE_BYTES = 1 << 20


def serve_embedded(settings: DoorSettings, logger: logging.Logger, stop: threading.Event) -> None:
    """Serve until `stop`.

    Raises:
        SettingsError: The address is taken, or another door serves this folder.
    """
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.folder.chmod(0o700)
    (settings.state / "inbox").mkdir(parents=True, exist_ok=True)
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what strangers send is no news
    with locked(settings.folder / "lock", f"another door serves {settings.state}"):
        host_key = make_host_key(settings.host_key)
        tell(logger, "host-key", f"host key {fingerprint(host_key)}", fingerprint=fingerprint(host_key))
        asyncio.run(EmbeddedDoor(settings, logger).run(stop))


class EmbeddedDoor:
    """Who may log in, and the connections being served."""

    def __init__(self, settings: DoorSettings, logger: logging.Logger) -> None:
        self.settings = settings
        self.logger = logger
        self.user = settings.user or USER
        self.connections: set[Connection] = set()
        self.by_key: dict[bytes, Enrolled] = {}
        self.starting: set[asyncio.Task[None]] = set()
        self._seen: object = "nothing yet"

    async def run(self, stop: threading.Event) -> None:
        """Listen and follow sites.json until `stop`."""
        host, port = self.settings.address()
        if port:
            check_free(host, port)
        self.follow_sites()
        try:
            server = await asyncssh.create_server(
                lambda: Connection(self),
                host,
                port,
                config=None,
                server_host_keys=[str(self.settings.host_key)],
                # The same algorithms as in sshd_config, see openssh.py.
                kex_algs=["curve25519-sha256", "curve25519-sha256@libssh.org"],
                encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"],
                mac_algs=["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"],
                signature_algs=["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519", *_ECDSA],
                compression_algs=["none"],
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_host=None,
                allow_pty=False,
                allow_scp=False,
                sftp_factory=None,
                x11_forwarding=False,
                agent_forwarding=False,
                line_editor=False,
                encoding=None,
                window=WINDOW_BYTES,
                max_pktsize=PACKET_BYTES,
                login_timeout=LOGIN_SECONDS,
                keepalive_interval=15,
                keepalive_count_max=3,
                server_version="fedssh",
            )
        except OSError as error:
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        port = server.get_port()
        text = f"listening on {host}:{port}, clients log in as {self.user}"
        tell(self.logger, "listening", text, host=host, port=port, user=self.user)
        async with server:
            while not stop.is_set():
                await asyncio.sleep(TICK_SECONDS)
                self.follow_sites()
                self.end_unused()
            server.close()
            for connection in list(self.connections):
                connection.end()
        while self.starting:  # asyncio may wait for ever for a process that is cancelled while it starts
            await asyncio.wait(self.starting)
        tell(self.logger, "stopped", "stopped")

    def follow_sites(self) -> None:
        """When sites.json changed, learn who may log in and end the connections of whoever is gone."""
        seen = version(self.settings.sites)
        if seen == self._seen:
            return
        sites = read_sites(self.settings.sites)
        self._seen = seen
        self.by_key = {base64.b64decode(one.key.split()[1]): one for one in sites or []}
        for connection in self.connections:
            if connection.enrolled and connection.enrolled not in self.by_key.values():
                asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, connection.end)
        if sites is None:
            text = f"waiting for {self.settings.sites}: nobody can log in before `charity init`"
            tell(self.logger, "no-sites", text)
        else:
            names = [one.site for one in sites]
            tell(self.logger, "sites", f"{', '.join(names) or 'nobody'} may log in", sites=names)

    def make_room(self, arrived: Connection) -> None:
        """When there are too many strangers, of one address or of all, send the oldest away: it is likely a silent one.

        A login takes a fraction of a second, so whoever means to log in is among the newest.
        """
        strangers = sorted((one for one in self.connections if one.enrolled is None), key=lambda one: one.since)
        same = [one for one in strangers if one.source == arrived.source]
        if len(same) > STRANGERS_OF_ONE:
            same[0].end()
        elif len(strangers) > MAX_STRANGERS:
            strangers[0].end()

    def end_unused(self) -> None:
        """End connections that have had no channel for long."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            if connection.enrolled and not connection.channels and now - connection.since > UNUSED_SECONDS:
                connection.end()


_ECDSA = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")


class Connection(asyncssh.SSHServer):
    """One client: logs in with a key of sites.json, then opens channels of one kind.

    Attributes:
        source: Its address, or the IPv6 network of 64 bits that it comes from.
        since: When it began, logged in, or closed its last channel, by the loop's clock.
    """

    def __init__(self, door: EmbeddedDoor) -> None:
        self.door = door
        self.source = ""
        self.since = 0.0
        self.enrolled: Enrolled | None = None
        self.channels = 0
        self._offered: Enrolled | None = None
        self._connection: Any = None

    def connection_made(self, conn: Any) -> None:
        """Count it."""
        self._connection = conn
        self.since = asyncio.get_running_loop().time()
        self.source = source_of(conn.get_extra_info("peername"))
        self.door.connections.add(self)
        self.door.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.door.connections.discard(self)

    def begin_auth(self, username: str) -> bool:
        """Everybody has to prove who they are."""
        self._offered = None
        return True

    def public_key_auth_supported(self) -> bool:
        """Keys are the only way."""
        return True

    def validate_public_key(self, username: str, key: Any) -> bool:
        """Whether this key may log in. asyncssh checks the signature right after, before it reads another message."""
        self._offered = self.door.by_key.get(key.public_data) if username == self.door.user else None
        return self._offered is not None

    def auth_completed(self) -> None:
        """The key whose signature was right is the one offered last."""
        self.enrolled = self._offered
        if self.enrolled is None or self.enrolled not in self.door.by_key.values():
            self.end()
            return
        self.since = asyncio.get_running_loop().time()
        address = self._connection.get_extra_info("peername")[0]
        text = f"{self.enrolled.site} connected from {address}"
        tell(self.door.logger, "login", text, site=self.enrolled.site, address=address)

    def session_requested(self) -> Any:
        """A channel, while there are not too many."""
        if self.enrolled is None or self.channels >= MAX_CHANNELS:
            return False
        return Channel(self, self.enrolled)

    def end(self) -> None:
        """Close the connection and with it every channel."""
        self._connection.abort()


def source_of(peer: tuple[Any, ...] | None) -> str:
    """What counts as one address, as in sshd_config: an IPv4 address, or an IPv6 network of 64 bits."""
    if not peer:
        return ""  # it has gone already
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Channel(asyncssh.SSHServerSession[bytes]):
    """One channel: passes the client's bytes to the forced command. asyncssh calls these methods."""

    def __init__(self, connection: Connection, enrolled: Enrolled) -> None:
        self._connection = connection
        self._enrolled = enrolled
        self._words = ""
        self._ssh: Any = None
        self._command: Command | None = None
        self._early: list[bytes | None] = []  # what came before the command ran; None is the end

    def connection_made(self, chan: Any) -> None:
        """The channel is open."""
        self._ssh = chan
        self._connection.channels += 1

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:
        """There is no terminal."""
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        """There is no sftp."""
        return False

    def shell_requested(self) -> bool:
        """As with sshd, whoever asks for a shell gets the forced command, which says what there is instead."""
        return True

    def exec_requested(self, command: str | bytes) -> bool:
        """The client's words."""
        words = command.decode(errors="replace") if isinstance(command, bytes) else command
        self._words = words.replace("\0", "?")
        return True

    def session_started(self) -> None:
        """Start the forced command."""
        start = asyncio.ensure_future(self._run())
        starting = self._connection.door.starting
        starting.add(start)
        start.add_done_callback(starting.discard)

    async def _run(self) -> None:
        if self._ssh.is_closing():
            return
        environment = {"SSH_ORIGINAL_COMMAND": self._words, "PATH": os.environ.get("PATH", os.defpath)}
        argv = forced_command(self._connection.door.settings, self._enrolled)
        loop = asyncio.get_running_loop()
        try:
            _, command = await loop.subprocess_exec(
                lambda: Command(self._ssh), *argv, env=environment, cwd="/", start_new_session=True
            )
        except OSError as error:
            tell(self._connection.door.logger, "no-process", f"cannot start a process: {error.strerror}", logging.ERROR)
            self._ssh.exit(1)
            return
        self._command = command
        for data in self._early:
            command.eof() if data is None else command.feed(data)
        if self._ssh.is_closing():
            command.client_gone()

    def data_received(self, data: bytes, datatype: Any) -> None:
        """The client said something."""
        self._command.feed(data) if self._command else self._early.append(data)

    def eof_received(self) -> bool:
        """The client has said everything; it still listens."""
        self._command.eof() if self._command else self._early.append(None)
        return True

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        if self._command:
            self._command.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._command:
            self._command.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._connection.channels -= 1
        self._connection.since = asyncio.get_running_loop().time()
        if self._command:
            self._command.client_gone()


class Command(asyncio.SubprocessProtocol):
    """The forced command of one channel: passes its bytes to the client. asyncio calls these methods."""

    def __init__(self, ssh: Any) -> None:
        self._ssh = ssh
        self._process: Any = None

    def connection_made(self, transport: Any) -> None:
        """The process runs; its input may run a megabyte ahead of it, so that it rarely waits."""
        self._process = transport
        transport.get_pipe_transport(0).set_write_buffer_limits(high=PIPE_BYTES)

    def feed(self, data: bytes) -> None:
        """To the command's standard input."""
        pipe = self._process.get_pipe_transport(0)
        if not pipe.is_closing():
            pipe.write(data)

    def eof(self) -> None:
        """Standard input ends."""
        pipe = self._process.get_pipe_transport(0)
        if pipe.can_write_eof() and not pipe.is_closing():
            pipe.write_eof()

    def pause_writing(self) -> None:
        """The command reads too slowly."""
        self._ssh.pause_reading()

    def resume_writing(self) -> None:
        """The command reads again."""
        with contextlib.suppress(OSError):  # the channel is closed
            self._ssh.resume_reading()

    def pause_reading(self) -> None:
        """The client reads too slowly."""
        self._process.get_pipe_transport(1).pause_reading()

    def resume_reading(self) -> None:
        """The client reads again."""
        self._process.get_pipe_transport(1).resume_reading()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """The command said something."""
        with contextlib.suppress(OSError):  # the channel is closed
            self._ssh.write(data, None if fd == 1 else asyncssh.EXTENDED_DATA_STDERR)

    def connection_lost(self, exc: Exception | None) -> None:
        """The command has ended and all it said is passed on."""
        code = self._process.get_returncode()
        self._process.close()  # or asyncio takes it for one that was forgotten
        with contextlib.suppress(OSError):
            self._ssh.exit(code if code is not None and code >= 0 else 1)

    def client_gone(self) -> None:
        """Close the pipes, as sshd does: the command notices, tidies up and ends; if not, it is ended."""
        for fd in (0, 1, 2):
            pipe = self._process.get_pipe_transport(fd)
            if not pipe.is_closing():
                pipe.abort() if fd == 0 else pipe.close()  # what the client sent last is of no use any more
        asyncio.get_running_loop().call_later(LAST_STEPS_SECONDS, self._end)

    def _end(self) -> None:
        if self._process.get_returncode() is None:
            self._process.kill()
