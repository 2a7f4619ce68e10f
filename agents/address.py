"""Where a door is, and the way out to it that a site's network prescribes.

    charity@charity.example:2222        a door; the user is charity and the port 22 unless given
    socks5://user:password@host:1080    a SOCKS5 proxy, which looks the door's name up
    http://user:password@host:3128      a proxy that takes CONNECT
    ssh://user@host:22                  a jump host, which is logged in to first
    @FILE                               the first line of a file, so that no password stands on a command line
    direct                              no way round, whatever was kept

A password has what a URL cannot hold as %XX. It is never shown: a way is printed as kind, host and port.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError
from fedssh.forms import Form

COORDINATOR = "charity"
_PORTS = {"socks5": None, "http": None, "ssh": 22}
_MAX_BYTES = 4096
_URLS = "expected socks5://host:port, http://host:port, ssh://user@host:port, @FILE or direct"


@dataclass(frozen=True)
class Address:
    """Where a door is, and as whom to log in there."""

    user: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def known_as(self) -> str:
        """The host's name in known_hosts: `host`, or `[host]:port` where the port is not 22."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def parse_address(address: str) -> tuple[str, str, int]:
    """`user@host:port` -> user, host, port; an IPv6 address stands in brackets.

    Raises:
        SettingsError: Anything else.
    """
    user, _, place = address.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "22"
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or any(letter.isspace() for letter in address):
        raise SettingsError(
            f"{address!r} is not an address", "write user@host:port, such as charity@charity.example:2222"
        )
    return user or COORDINATOR, host, int(port)


@dataclass(frozen=True)
class Via:
    """A way out.

    Attributes:
        kind: `socks5`, `http`, `ssh` or `direct`.
        at: Where the proxy or jump host is; its user may be empty.
        file: Where the URL was read, if not on a command line.
    """

    kind: str
    at: Address = field(default=Address("", "", 0))
    password: str = field(default="", repr=False)
    file: Path | None = None

    def __str__(self) -> str:
        if self.kind == "direct":
            return self.kind
        return f"{self.kind}://{self.at.user + '@' if self.kind == 'ssh' else ''}{self.at}"

    @property
    def told(self) -> str:
        """The words that give it once more: with its password, or with the file that has it."""
        if self.file or self.kind == "direct":
            return f"@{self.file}" if self.file else self.kind
        from urllib.parse import quote

        login = ":".join(quote(part, safe="") for part in (self.at.user, self.password) if part)
        return f"{self.kind}://{login}{'@' if login else ''}{self.at}"


DIRECT = Via("direct")


@dataclass(frozen=True)
class Way:
    """How to get to a door.

    Attributes:
        via: The proxy or jump host.
        key: What logs in at a jump host, a private key's file.
        known_hosts: The file that pins a jump host's key.
    """

    via: Via
    key: Path
    known_hosts: Path


def read_via(text: str) -> Via:
    """A way out, as a flag, a variable or a site's folder says it.

    Raises:
        ValueError: Says what it may be, and nothing of what it is: there may be a password in it.
    """
    if text == str(DIRECT):
        return DIRECT
    return _read_file(Path(text[1:])) if text.startswith("@") else _read_url(text)


def _read_file(path: Path) -> Via:
    path = path.expanduser().absolute()
    try:
        with path.open("rb") as file:
            line = file.readline(_MAX_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{path} cannot be read: {reason}") from None
    if line.startswith("@"):
        raise ValueError(f"{path} names another file, expected a URL in its first line")
    return replace(read_via(line), file=path)


def _read_url(text: str) -> Via:
    from urllib.parse import unquote, urlsplit  # which no --help needs

    try:
        parts = urlsplit(text)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        host, port = parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port
    except (ValueError, KeyError):
        host = port = None
    if not host or not port or parts.scheme not in _PORTS or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{_URLS}; in a password write / # ? @ : and % as %2F %23 %3F %40 %3A and %25")
    if parts.scheme == "ssh" and (password or not user):
        raise ValueError("expected ssh://user@host:port without a password: the jump host lets a key in, see --via-key")
    _check_login(parts.scheme, user, password)
    return Via(parts.scheme, Address(user, host, port), password)


def _check_login(kind: str, user: str, password: str) -> None:
    """What a proxy cannot be told fails here, and not in a library that repeats it."""
    if bool(user) != bool(password) and kind != "ssh":
        raise ValueError("expected both a user and a password, or neither")
    if not (user + password).isascii() or not (user + password).isprintable() or max(len(user), len(password)) > 255:
        raise ValueError("expected a user and a password of at most 255 printable ASCII letters")
    if kind == "http" and ":" in user:
        raise ValueError("expected a user without a colon")


def _via(value: Any) -> Via:
    if not isinstance(value, str):
        raise ValueError(_URLS)
    return read_via(value)


VIA = Form(_via)
