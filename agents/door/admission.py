"""The door: the only part of the coordinator that the network reaches. It holds no secret but its host key.

What both doors share: the settings, who may come in, and the command each client is held to. The door reads
`outbox`, writes `inbox` and its own `door` folder, and never touches anything else.

    openssh.py    stock sshd; for a real coordinator
    embedded.py   asyncssh; for a laptop or a test without sshd
    command.py    the forced command that both run
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedssh.errors import AgentError, SettingsError
from fedssh.history.views import fingerprint
from fedssh.rules.vocabulary import ROLES
from fedssh.settings import setting

ROOT = Path(__file__).resolve().parents[2]
TICK_SECONDS = 0.1  # how often the door looks whether sites.json changed
MAX_CHANNELS = 10  # on one connection

# Connections that have not logged in yet. One costs sshd up to two processes and 1.6 MB, and the door's container has
# 128 MB and 256 processes. One address can take fewer places than there are before the first is refused, so it keeps
# nobody else out. It can take many, because all sites may stand behind one, and connect at once when a door comes back.
MAX_STRANGERS = 60
FEW_STRANGERS = 40  # up to here nobody is refused, but for the limit of an address
STRANGERS_OF_ONE = 35  # an IPv4 address, or an IPv6 network of 64 bits
LOGIN_SECONDS = 10  # a login takes about eight round trips
UNUSED_SECONDS = 900  # what a connection without a channel may stay

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_KEY = re.compile(r"(ssh-rsa|ssh-ed25519|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{60,2000}={0,2}")
_KEY_ENDS = 40


@dataclass(frozen=True)
class DoorSettings:
    """What a person may decide about the door."""

    state: Path = setting(Path("coordinator"), "The coordinator's folder.", "DIR")
    listen: str = setting("0.0.0.0:2222", "Address and port to listen on.", "HOST:PORT")
    embedded: bool = setting(False, "Serve with asyncssh instead of OpenSSH's sshd.")
    user: str | None = setting(
        None, "User name that clients log in with: free with --embedded, else the account of sshd.", "NAME"
    )
    max_bytes: int = setting(1 << 30, "Largest bundle to accept, in bytes.", "N", at_least=1)
    quota_bytes: int = setting(4 << 30, "How much of one site may wait in the inbox, in bytes.", "N", at_least=1)
    quota_bundles: int = setting(100, "How many bundles of one site may wait in the inbox.", "N", at_least=1)
    max_channels: int = setting(20, "How many channels of one site are served at once.", "N", at_least=2)

    @property
    def folder(self) -> Path:
        """The door's own folder."""
        return self.state / "door"

    @property
    def host_key(self) -> Path:
        """The host key's private half."""
        return self.folder / "host_key"

    @property
    def sites(self) -> Path:
        """Who may log in, as the vault says."""
        return self.state / "outbox" / "sites.json"

    def address(self) -> tuple[str, int]:
        """Host and port to listen on.

        Raises:
            SettingsError: `listen` is not HOST:PORT.
        """
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise SettingsError(f"--listen is {self.listen!r}, expected HOST:PORT", "such as 0.0.0.0:2222 or [::]:2222")
        return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Enrolled:
    """A site or auditor whose key may log in; `key` is `ssh-rsa AAAA…` without a comment."""

    site: str
    role: str
    key: str

    @property
    def key_ends(self) -> str:
        """The end of the key, by which the forced command knows that this enrolment still stands."""
        return self.key[-_KEY_ENDS:]

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of the key."""
        return fingerprint(self.key)


def read_sites(path: Path) -> list[Enrolled] | None:
    """Who may log in; None while the vault has not said so yet.

    An entry that is not exactly a name, a role and a key is left out: it could otherwise become more than one
    line of authorized_keys.

    Raises:
        AgentError: The file is there and malformed. The vault writes it whole, so this is no passing state.
    """
    try:
        entries = [
            Enrolled(str(entry["site"]), str(entry["role"]), " ".join(str(entry["key"]).split()[:2]))
            for entry in json.loads(path.read_bytes())["sites"]
        ]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise AgentError(f"{path} is not what the vault writes: {error}") from None
    return [one for one in entries if _SITE.fullmatch(one.site) and one.role in ROLES and _is_key(one.key)]


def _is_key(line: str) -> bool:
    return bool(_KEY.fullmatch(line)) and len(line.split()[1]) % 4 == 0  # or else its base64 cannot be read


def version(path: Path) -> tuple[int, int, int] | None:
    """Something that changes whenever the file is replaced; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def forced_command(settings: DoorSettings, one: Enrolled) -> list[str]:
    """The program and arguments that serve one client.

    `-I -S` keep the client's environment and the installed packages out. `-c` imports the command as a module,
    whose compiled form Python keeps; a script named here would be compiled anew for every channel.
    """
    start = f"import sys; sys.path.append({str(ROOT)!r}); from fedssh.door.command import main; main()"
    flags = {
        "--state": str(settings.state.resolve()),
        "--site": one.site,
        "--role": one.role,
        "--key-ends": one.key_ends,
        "--max-bytes": str(settings.max_bytes),
        "--quota-bytes": str(settings.quota_bytes),
        "--quota-bundles": str(settings.quota_bundles),
        "--max-channels": str(settings.max_channels),
    }
    return [sys.executable, "-I", "-S", "-c", start, *(word for pair in flags.items() for word in pair)]


def authorized_keys(settings: DoorSettings, sites: Iterable[Enrolled]) -> str:
    """One line per site and auditor: `restrict`, the command it is held to, and its key.

    Raises:
        SettingsError: The state folder's name cannot stand in such a line.
    """
    lines = ["# Generated by `charity door` from outbox/sites.json; changes here are lost.\n"]
    for one in sites:
        command = "exec " + shlex.join(forced_command(settings, one))
        if not command.isprintable() or "\\" in command:
            raise SettingsError(f"{str(settings.state)!r} cannot stand in authorized_keys", "use a plain folder name")
        quoted = command.replace('"', '\\"')
        lines.append(f'restrict,command="{quoted}" {one.key} {one.site}\n')
    return "".join(lines)


def check_free(host: str, port: int) -> None:
    """Check that nobody listens on an address yet.

    Raises:
        SettingsError: Somebody does, or the address is not this machine's.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(
            f"cannot listen on {host}:{port}: {reason.lower()}", "choose another with --listen"
        ) from None
