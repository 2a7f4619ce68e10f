"""The door, as it is reached from here: whether it answers, and whether it is ours. Nobody logs in."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fedssh.address import Address
from fedssh.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from fedssh.doctor.machine import run
from fedssh.doctor.papers import Door, door_of
from fedssh.doctor.subject import Subject
from fedssh.errors import HostKeyError, SettingsError, UnreachableError
from fedssh.forms import fingerprint
from fedssh.known_hosts import pinned_keys

if TYPE_CHECKING:
    from fedssh.address import Way

_STOP = "if the host was rebuilt, compare the new fingerprint with its operator; if not, stop here"
_BANNER_BYTES = 255  # RFC 4253, section 4.2
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not by us


def door(subject: Subject) -> Iterator[Finding]:
    """Port and host key of the door that this machine works with."""
    known = door_of(subject)
    if known is None:
        why = "no site.json in --state and no --invitation, so there is no door to look for"
        yield Finding("port", SKIPPED, why)
        yield Finding("host key", SKIPPED, why)
        return
    address, pinned = known.address, known.host_key
    try:
        way = _way(subject)
        through = f" through {way.via}" if way else ""
        start = time.monotonic()
        banner, shown = _greet(address, pinned, subject.timeout, way)
    except UnreachableError as error:
        remedy = "ask for TCP to that address, or say the way out with --via; else is the door running?"
        yield Finding("port", FAILED, str(error), remedy)
        yield Finding("host key", SKIPPED, "no door answers")
        return
    except HostKeyError as error:
        yield Finding("port", SKIPPED, "not asked through a jump host that may not be ours")
        yield Finding("host key", FAILED, str(error), error.hint or _STOP, untrusted=True)
        return
    milliseconds = 1000 * (time.monotonic() - start)
    yield Finding("port", OK, f"{address}{through} answers in {milliseconds:.0f} ms: {banner}")
    yield _unlike(subject, known) or _compared(address, shown, pinned, known.source)


def _unlike(subject: Subject, known: Door) -> Finding | None:
    """What Bob compares is known_hosts, which `bob join` writes with site.json."""
    if subject.invitation:
        return None
    path = subject.state / "known_hosts"
    pinned = pinned_keys(path, known.address.known_as) if path.exists() else []
    if known.host_key in [f"{kind} {base64.b64encode(key).decode()}" for kind, key in pinned]:
        return None
    found = f"{path} does not have the host key of {known.source} for {known.address}"
    return Finding("host key", FAILED, found, "join once more by the coordinator's invitation", untrusted=True)


def _compared(address: Address, shown: str | None, pinned: str, source: str) -> Finding:
    if shown is None:
        why = "neither paramiko nor ssh-keyscan is here to see it: install the extra bob, or OpenSSH's client"
        return Finding("host key", SKIPPED, f"{source} has {fingerprint(pinned)}; {why}")
    if shown == pinned:
        return Finding("host key", OK, f"{fingerprint(shown)}, as {source} has it")
    found = f"{address} answered with host key {fingerprint(shown)}, {source} has {fingerprint(pinned)}"
    return Finding("host key", FAILED, found, _STOP, untrusted=True)


def _way(subject: Subject) -> Way | None:
    """The way out that was said, or that `bob join` kept."""
    if not _can_speak():
        if subject.via or (subject.state / "via.json").exists():
            raise SettingsError("a way out is said, and paramiko is not installed", "install the extra bob")
        return None
    from fedssh.bob.site import Folder
    from fedssh.bob.way import way_out

    return way_out(Folder(subject.state), subject)


def _can_speak() -> bool:
    return importlib.util.find_spec("paramiko") is not None


def _greet(address: Address, pinned: str, timeout: float, way: Way | None) -> tuple[str, str | None]:
    """What a door says of itself: its version, and its host key where that can be seen."""
    if _can_speak():
        from fedssh.transport import greet

        return greet(address, pinned.partition(" ")[0], timeout, way)
    return _banner(address, timeout), _scanned(address)


def _banner(address: Address, timeout: float) -> str:
    try:
        with socket.create_connection((address.host, address.port), timeout) as connection:
            first = connection.recv(_BANNER_BYTES)
    except OSError as error:
        raise UnreachableError(f"{address} cannot be reached ({str(error).lower()})") from None
    if not first.startswith(b"SSH-"):
        raise UnreachableError(f"{address} does not speak SSH")
    return first.split(b"\r")[0].split(b"\n")[0].decode("ascii", "replace")


def _scanned(address: Address) -> str | None:
    """The host key that stock ssh-keyscan sees."""
    code, said = run(["ssh-keyscan", "-T", "4", "-t", "ed25519", "-p", str(address.port), address.host])
    words = [line.split()[1:3] for line in said.splitlines() if line.count(" ") == 2 and not line.startswith("#")]
    return " ".join(words[0]) if code == 0 and words else None


def own_port(subject: Subject) -> Iterator[Finding]:
    """At the coordinator: whether her door listens, or can."""
    host, _, port = subject.listen.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        yield Finding("port", FAILED, f"--listen is {subject.listen!r}, expected HOST:PORT", "such as 0.0.0.0:2222")
        return
    host = host.strip("[]")
    public = subject.state / "door" / "host_key.pub"
    own = _own_key(public)
    try:
        _bind(host, int(port))
    except PermissionError:
        found = f"this account may not listen on port {port}"
        yield Finding("port", FAILED, found, "take a port from 1024, or let the firewall lead to one")
    except OSError as error:
        yield from _held(subject, Address("", _ANYWHERE.get(host, host), int(port)), own, error)
        return
    else:
        yield Finding("port", OK, f"{subject.listen} is free: no door listens there yet")
    if own is None:
        yield Finding("host key", WARNING, f"{public} is not there", "`charity init` makes it")
    else:
        yield Finding("host key", OK, f"{fingerprint(own)} in {public}")


def _held(subject: Subject, at: Address, own: str | None, error: OSError) -> Iterator[Finding]:
    try:
        banner, shown = _greet(at, own or "", subject.timeout, None)
    except UnreachableError:
        why = (error.strerror or str(error)).lower()
        found = f"{subject.listen} cannot be listened on ({why}), and no door answers"
        yield Finding("port", FAILED, found, "stop what holds the port, or give --listen another one")
        return
    yield Finding("port", OK, f"{subject.listen} is held by what says {banner}")
    if own is None:
        yield Finding("host key", SKIPPED, "this coordinator has none to compare with")
        return
    finding = _compared(at, shown, own, str(subject.state / "door/host_key.pub"))
    yield dataclasses.replace(finding, remedy=finding.remedy and "another program or door holds the port: stop it")


def _own_key(path: Path) -> str | None:
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(words[:2]) if len(words) >= 2 else None


def _bind(host: str, port: int) -> None:
    """Whether a port can be had: taken and given back, without listening."""
    family, kind, protocol, _, place = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
