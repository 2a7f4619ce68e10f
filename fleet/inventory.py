"""What is wanted, as fleet.toml says it: one coordinator, sites, auditors, and the machine of each. Reads, asks nobody.

    federation = "chest-xrays"
    image = "build"                           # or a table [images] with a reference and its digest for each room
    [linode]                                  # only where a host says linode:
    image = "linode/debian13"
    ssh_key = "~/.ssh/id_ed25519.pub"
    admin_from = ["198.51.100.4/32"]
    [coordinator]
    host = "linode:us-east/g6-standard-1"     # or "root@203.0.113.7", "user@host:port"
    data = "xrays.npz"
    policy = "gather"                         # any term of `charity init`
    [sites.hospital-a]
    host = "root@192.0.2.10"
    data_on_host = "/srv/xrays"               # data that never leaves its machine; or data = "a.npz": copied
    [auditors]
    me = "~/.ssh/id_ed25519.pub"
    [backup]
    recipients = ["age1…", "ssh-ed25519 …"]

A site that somebody else deploys has `key = "hospital-b.pub"` here and no host; in their own inventory it has a host
and `invitation = "hospital-b.json"`, and there is no [coordinator].
"""

from __future__ import annotations

import base64
import ipaddress
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedssh.errors import BundleError, SettingsError
from fedssh.forms import Form, check_site, checked, named, nearest, number, one_of, printable, text, whole, yes_or_no
from fedssh.rules.terms import FORMS, TASKS, Terms, agree, least_spec

ROOMS = {"coordinator": ("charity", "door"), "site": ("alice", "bob")}
DOOR_PORT = 2222
_TERMS = {name: form for name, form in FORMS.items() if name != "name"}
_INIT = {
    "architecture": text, "size": text, "task": one_of(*TASKS), "classes": text, "max_value": whole(1),
    "seed": whole(0), "genesis_epochs": whole(0), "patient": text, "columns": text, "holdout": number(0),
    "frozen": text, "target": text, "features": text, "leave_out": text,
}  # fmt: skip
_ALICE = {"classes": text, "max_value": whole(1), "seed": whole(0), "patient": text, "columns": text}
_LINODE = re.compile(r"linode:([a-z0-9-]+)/([a-z0-9-]+)")
_GIVEN = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)@(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::([0-9]{1,5}))?")
_DIGEST = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")
_MEMORY = re.compile(r"[1-9][0-9]*[mg]")
_LABEL = re.compile(r"(?!.*--)[a-z][a-z0-9-]{2,31}")  # of a firewall, which is the shorter one
# None of them starts a program at home, as ProxyCommand, LocalCommand and KnownHostsCommand would.
_SSH_OPTIONS = (
    "AddressFamily", "BindAddress", "BindInterface", "CertificateFile", "Ciphers", "Compression", "ConnectionAttempts",
    "HostKeyAlgorithms", "IdentitiesOnly", "IdentityAgent", "IdentityFile", "KexAlgorithms", "MACs", "ProxyJump",
    "PubkeyAcceptedAlgorithms", "TCPKeepAlive",
)  # fmt: skip
_JUMP = r"(?:[A-Za-z_][A-Za-z0-9_.-]*@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)(?::[0-9]{1,5})?"
_JUMPS = re.compile(rf"{_JUMP}(?:,{_JUMP})*")


@dataclass(frozen=True)
class Given:
    """A machine that is there already."""

    user: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.user}@{self.at(self.port) if self.port != 22 else self.bracketed}"

    @property
    def bracketed(self) -> str:
        """The host as it stands before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def at(self, port: int) -> str:
        """Host and port."""
        return f"{self.bracketed}:{port}"


@dataclass(frozen=True)
class Cloud:
    """A machine that is made where there is none."""

    region: str
    kind: str

    def __str__(self) -> str:
        return f"linode:{self.region}/{self.kind}"


@dataclass(frozen=True)
class Host:
    """What stands on one machine.

    Attributes:
        name: `coordinator`, or the site's.
        role: `coordinator` or `site`.
        place: Its machine; None where somebody else deploys it.
        data: A file or folder at home that is copied there.
        data_on_host: A file or folder that lies there.
        host_key: `ssh-ed25519 …` of a given machine; else the user's known_hosts must have it.
        settings: For `charity init`, or Alice's.
        address: Coordinator: `host:port` under which sites reach the door, where that is not the machine's own.
        port: Coordinator: where the door listens on the machine.
        gpu: Site: Alice trains on NVIDIA GPUs.
        key: Site elsewhere: the public key that is enrolled.
        invitation: Site whose coordinator is elsewhere: what was sent back.
        via: Site: Bob's way out, as `bob join --via` has it.
        memory: Site: what Alice may use.
    """

    name: str
    role: str
    place: Given | Cloud | None = None
    data: Path | None = None
    data_on_host: str | None = None
    host_key: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    port: int = DOOR_PORT
    gpu: bool = False
    key: Path | None = None
    invitation: Path | None = None
    via: str | None = None
    memory: str = "1g"

    @property
    def rooms(self) -> tuple[str, str]:
        """The services that run there."""
        return ("charity", "door") if self.role == "coordinator" else ("alice", "bob")

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the images that it needs."""
        return tuple("alice-gpu" if room == "alice" and self.gpu else room for room in self.rooms)


@dataclass(frozen=True)
class Linode:
    """What machines of the cloud have in common."""

    ssh_key: Path
    admin_from: tuple[str, ...]
    image: str = "linode/debian13"


@dataclass(frozen=True)
class Inventory:
    """A whole fleet.toml; paths in it are from the folder that it lies in."""

    path: Path
    federation: str
    hosts: tuple[Host, ...]
    images: Mapping[str, str] | None = None  # None: built from this checkout
    linode: Linode | None = None
    auditors: Mapping[str, Path] = field(default_factory=dict)
    recipients: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()  # further options of `ssh`, such as a ProxyJump; none that starts a program

    @property
    def coordinator(self) -> Host | None:
        """The coordinator, where this inventory has one."""
        return next((host for host in self.hosts if host.role == "coordinator"), None)

    @property
    def sites(self) -> tuple[Host, ...]:
        """The sites, also those that others deploy."""
        return tuple(host for host in self.hosts if host.role == "site")

    @property
    def tag(self) -> str:
        """By which the cloud finds what belongs to this federation."""
        return f"fedssh-{self.federation}"

    def label(self, host: Host) -> str:
        """The machine's name in the cloud, of which there can be only one."""
        return f"{self.federation}-{host.name}"

    def chosen(self, only: str | None) -> tuple[Host, ...]:
        """The hosts with a machine, or the one of that name.

        Raises:
            SettingsError: There is none of that name.
        """
        found = [host for host in self.hosts if host.place is not None]
        if only is None:
            return tuple(found)
        names = [host.name for host in found]
        if only not in names:
            raise SettingsError(f"{self.path.name} has no host {only!r}{nearest(only, names)}")
        return tuple(host for host in found if host.name == only)


def read(path: Path) -> Inventory:
    """Read an inventory.

    Raises:
        SettingsError: It is not there, or something in it is not what it may be; says where.
    """
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist", "docs/how-to/virtual-machines.md has one to begin with") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(printable(f"{path} cannot be read: {error}")) from None
    try:
        return _Reader(path.resolve()).inventory(table)
    except (ValueError, BundleError, RecursionError) as error:
        raise SettingsError(printable(f"{path.name}: {error}")) from None


class _Reader:
    """Knows where the inventory lies."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def inventory(self, table: dict[str, Any]) -> Inventory:
        known = ("federation", "image", "images", "linode", "coordinator", "sites", "auditors", "backup", "ssh")
        _only("", table, known)
        federation = _name("federation", table.get("federation"))
        hosts = [self._coordinator(table["coordinator"])] if "coordinator" in table else []
        hosts += [self._site(name, site) for name, site in _table("sites", table.get("sites", {})).items()]
        if not hosts:
            raise ValueError("there is neither a [coordinator] nor a site in it")
        linode = self._linode(table["linode"]) if "linode" in table else None
        if linode is None and (cloud := next((one for one in hosts if isinstance(one.place, Cloud)), None)):
            raise ValueError(f"{cloud.name} is on Linode, and there is no [linode] with ssh_key and admin_from")
        _check_machines(federation, hosts)
        for host in hosts:
            if host.role == "site":
                self._check_enrolment(host, "coordinator" in table)
        auditors = self._auditors(_table("auditors", table.get("auditors", {})), [host.name for host in hosts])
        return Inventory(
            path=self._path,
            federation=federation,
            hosts=tuple(hosts),
            images=_images(table),
            linode=linode,
            auditors=auditors,
            recipients=_recipients(_table("backup", table.get("backup", {}))),
            ssh=tuple(_ssh_option(one) for one in _texts("ssh", table.get("ssh", []))),
        )

    def _coordinator(self, table: Any) -> Host:
        own = ("host", "data", "data_on_host", "host_key", "address", "port")
        _only("coordinator", _table("coordinator", table), (*own, *_TERMS, *_INIT))
        settings = _settings("coordinator", table, {**_TERMS, **_INIT})
        _check_terms(settings)
        host = self._host("coordinator", "coordinator", table, settings=settings)
        if host.place is None:
            raise ValueError("coordinator.host is missing")
        if (host.data is None) == (host.data_on_host is None):
            raise ValueError("coordinator: give data (copied there) or data_on_host (lies there), one of them")
        return host

    def _site(self, name: str, table: Any) -> Host:
        where = f"sites.{name}"
        if _site_name("sites", name) == "coordinator":
            raise ValueError(f"{where}: no site can be called coordinator")
        own = ("host", "data", "data_on_host", "host_key", "gpu", "key", "invitation", "via", "memory")
        _only(where, _table(where, table), (*own, *_ALICE))
        settings = _settings(where, table, _ALICE)
        host = self._host(name, "site", table, settings=settings)
        if host.place is not None and (host.data is None) == (host.data_on_host is None):
            raise ValueError(f"{where}: give data (copied there) or data_on_host (lies there), one of them")
        return host

    def _host(self, name: str, role: str, table: dict[str, Any], settings: Mapping[str, Any]) -> Host:
        where = name if role == "coordinator" else f"sites.{name}"

        def of(key: str, take: Callable[[str, Any], Any], default: Any = None) -> Any:
            return take(f"{where}.{key}", table[key]) if key in table else default

        return Host(
            name=name,
            role=role,
            place=of("host", _place),
            data=of("data", self._data),
            data_on_host=of("data_on_host", _absolute),
            host_key=of("host_key", _host_key),
            settings=settings,
            address=of("address", _address),
            port=of("port", lambda key, value: checked(key, value, whole(1, 65535)), DOOR_PORT),
            gpu=of("gpu", lambda key, value: checked(key, value, yes_or_no), False),
            key=of("key", self._public_key),
            invitation=of("invitation", self._at),
            via=of("via", _text),
            memory=of("memory", _memory, "1g"),
        )

    def _check_enrolment(self, site: Host, coordinator: bool) -> None:
        where = f"sites.{site.name}"
        if site.place is None and site.key is None:
            raise ValueError(f"{where}: give its host, or its key where somebody else deploys it")
        if site.place is not None and site.key is not None:
            raise ValueError(f"{where}: a site with a host makes its key there; key is for sites that others deploy")
        if site.place is None and not coordinator:
            raise ValueError(f"{where}: a site without a host needs a [coordinator] that enrols it")
        if site.invitation is not None and coordinator:
            raise ValueError(f"{where}: an invitation is for a site whose coordinator is in another inventory")

    def _linode(self, table: Any) -> Linode:
        _only("linode", _table("linode", table), ("image", "ssh_key", "admin_from"))
        for name in ("ssh_key", "admin_from"):
            if name not in table:
                raise ValueError(f"linode.{name} is missing")
        networks = tuple(_network("linode.admin_from", one) for one in _texts("linode.admin_from", table["admin_from"]))
        if not networks:
            raise ValueError("linode.admin_from is empty: nobody could log in to set a machine up")
        key = self._public_key("linode.ssh_key", table["ssh_key"])
        return Linode(key, networks, _text("linode.image", table.get("image", Linode.image)))

    def _auditors(self, table: dict[str, Any], taken: list[str]) -> dict[str, Path]:
        found = {}
        for name, path in table.items():
            if _site_name("auditors", name) in (*taken, "coordinator"):
                raise ValueError(f"auditors.{name}: that name is taken")
            found[name] = self._public_key(f"auditors.{name}", path)
        return found

    def _at(self, where: str, name: Any) -> Path:
        try:
            return self._path.parent / Path(_text(where, name)).expanduser()
        except RuntimeError as error:  # ~somebody
            raise ValueError(f"{where}: {error}") from None

    def _public_key(self, where: str, name: Any) -> Path:
        path = self._at(where, name)
        try:
            words = path.read_text(errors="replace").split()[:2]
        except OSError as error:
            raise ValueError(f"{where}: {path} cannot be read: {error.strerror}") from None
        if not _is_public(words):
            raise ValueError(f"{where}: {path} is no public key, which begins as `ssh-rsa AAAA…`")
        return path

    def _data(self, where: str, name: Any) -> Path:
        path = self._at(where, name)
        try:
            kind = path.stat().st_mode
        except OSError as error:
            raise ValueError(f"{where}: {path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ValueError(f"{where}: {path} is neither a file nor a folder")
        return path


def _only(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise ValueError(f"{where + '.' if where else ''}{name} is not known{nearest(name, sorted(known))}")


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a table, [{where}]")
    return value


def _text(where: str, value: Any) -> str:
    found: str = checked(where, value, text)
    if not found or not found.isprintable():
        raise ValueError(f"{where} is {found[:60]!r}, expected a text of one line without control characters")
    return found


def _settings(where: str, table: Mapping[str, Any], forms: Mapping[str, Form[Any]]) -> dict[str, Any]:
    found = {name: checked(f"{where}.{name}", table[name], form) for name, form in forms.items() if name in table}
    return {name: _text(f"{where}.{name}", value) if isinstance(value, str) else value for name, value in found.items()}


def _check_terms(settings: Mapping[str, Any]) -> None:
    """Whether `charity init` would begin with these: better said here than on a machine that bills."""
    try:
        agree({**asdict(Terms()), **settings}, least_spec(settings.get("metric")), "")
    except SettingsError as error:
        raise ValueError(f"coordinator: {error}") from None


def _check_machines(federation: str, hosts: list[Host]) -> None:
    given = [(one.place.host.lower(), one.place.port) for one in hosts if isinstance(one.place, Given)]
    if len(set(given)) < len(given):
        raise ValueError("two hosts have the same machine; each needs one of its own")
    for one in hosts:
        label = f"{federation}-{one.name}"
        if isinstance(one.place, Cloud) and not _LABEL.fullmatch(label):
            raise ValueError(
                f"{one.name}: its machine would be called {label!r}; Linode wants at most 32 characters, a letter "
                "first, and no two dashes together: take a shorter name for it or the federation"
            )


def _texts(where: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list of texts")
    return [_text(where, one) for one in value]


def _name(where: str, value: Any) -> str:
    if value is None:
        raise ValueError(f"{where} is missing")
    return _site_name(where, checked(where, value, named))


def _site_name(where: str, name: str) -> str:
    try:
        return check_site(name)
    except BundleError:
        raise ValueError(
            f"{where}: {name[:60]!r} is no name: 1 to 32 lower-case letters, digits and inner dashes"
        ) from None


def _place(where: str, value: Any) -> Given | Cloud:
    found = _text(where, value)
    if cloud := _LINODE.fullmatch(found):
        return Cloud(cloud[1], cloud[2])
    if given := _GIVEN.fullmatch(found):
        port = int(given[3] or 22)
        host = given[2].strip("[]")
        if 1 <= port <= 65535 and (host == given[2] or _is_ipv6(host)):
            return Given(given[1], host, port)
    raise ValueError(f"{where}: {found!r} is neither linode:REGION/TYPE nor USER@HOST[:PORT]")


def _address(where: str, value: Any) -> str:
    found = _text(where, value)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9][A-Za-z0-9._-]*):([0-9]{1,5})", found)
    if not match or not 1 <= int(match[2]) <= 65535 or (match[1] and not _is_ipv6(match[1])):
        raise ValueError(f"{where}: {found!r} is not HOST:PORT")
    return found


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _absolute(where: str, value: Any) -> str:
    found = _text(where, value)
    if not found.strip("/") or not found.startswith("/") or ":" in found or ".." in found.split("/"):
        raise ValueError(f"{where}: {found!r} is not an absolute path of data on the machine, without a colon")
    return found.rstrip("/")


def _host_key(where: str, value: Any) -> str:
    found = _text(where, value)
    words = found.split()
    if re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", found):
        raise ValueError(f"{where}: give the key itself, as `ssh-keyscan` prints it, not its fingerprint")
    if not _is_public(words[:2]):
        raise ValueError(f"{where}: {found[:60]!r} is not a public key such as `ssh-ed25519 AAAA…`")
    return " ".join(words[:2])


def _is_public(words: list[str]) -> bool:
    """Whether two words are the beginning of a public key's line: the second one says its kind, too."""
    if len(words) != 2 or not re.fullmatch(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+", words[0]):
        return False
    kind = words[0].encode()
    try:
        return base64.b64decode(words[1], validate=True).startswith(len(kind).to_bytes(4, "big") + kind)
    except ValueError:
        return False


def _ssh_option(text: str) -> str:
    """An option of `ssh` that starts no program here: an inventory may come from somebody else."""
    name, _, value = text.partition("=")
    if name not in _SSH_OPTIONS:
        near = nearest(name, _SSH_OPTIONS)
        raise ValueError(f"ssh: {text[:60]!r} sets none of what an inventory may{near}; ~/.ssh/config may set all")
    if name == "ProxyJump" and not _JUMPS.fullmatch(value):
        raise ValueError(f"ssh: {value!r} is not USER@HOST:PORT, or several of them with commas")
    return text


def _memory(where: str, value: Any) -> str:
    found = _text(where, value)
    if not _MEMORY.fullmatch(found):
        raise ValueError(f"{where}: {found!r} is not a size such as 1g or 1500m")
    return found


def _network(where: str, value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _images(table: Mapping[str, Any]) -> Mapping[str, str] | None:
    checked("image", table.get("image", "build"), one_of("build"))
    if "images" not in table:
        return None
    if "image" in table:
        raise ValueError("give image or [images], not both")
    found = _table("images", table["images"])
    _only("images", found, ("charity", "door", "alice", "alice-gpu", "bob"))
    for name, reference in found.items():
        if not _DIGEST.fullmatch(_text(f"images.{name}", reference)):
            raise ValueError(f"images.{name}: {reference!r} does not end in @sha256:DIGEST")
    return found


def _recipients(table: dict[str, Any]) -> tuple[str, ...]:
    _only("backup", table, ("recipients",))
    found = _texts("backup.recipients", table.get("recipients", []))
    for one in found:
        if not re.fullmatch(r"age1[a-z0-9]{58}", one) and not re.fullmatch(r"ssh-(ed25519|rsa) \S+( .*)?", one):
            raise ValueError(f"backup.recipients: {one[:60]!r} is neither age1… nor a line ssh-ed25519 … or ssh-rsa …")
    return tuple(" ".join(one.split()[:2]) for one in found)
