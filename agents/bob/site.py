"""A site's own folder, and how a site joins a coordinator by an invitation.

    site_key, site_key.pub   the one key of this site: logs in, signs, opens releases
    site.json                who this site is, where the door is, and the coordinator's public key
    known_hosts              the door's pinned host key
    via.json, via_known_hosts   the way out, where the network prescribes one; see way.py
    spool/                   bundles on their way
    receipts.jsonl           everything that left
    seen.json                the newest release this site has seen
    followed.json            where the history stood then, see followed.py
    genesis.json             the first record of the history, signed: one line, as `history --export` prints it
    peers/NAME.pub           keys of other sites, by people's word; see peers.py
    masks.json               what this site has said in rounds under masks, and its secrets; see masking.py
    status.json              whether the door lets this site in, and what it last said; see standing.py
    lock                     held by the one Bob that works here

An invitation is JSON: {"fedssh":1,"site","role":"site","user","host","port","host_key":"ssh-ed25519 …",
"coordinator":"ssh-rsa …","site_key":"SHA256:…","genesis":"<hash of record 1>"}. It holds no secret, but whoever can
change it on its way can become the coordinator: compare its fingerprints with the operator's. An older
coordinator leaves `genesis` out; then it is not pinned, and record 1 is held against the coordinator's key alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.address import Address, parse_address
from fedssh.chain import read_line
from fedssh.errors import BundleError, HostKeyError, SettingsError, UntrustedError
from fedssh.files import write_whole
from fedssh.forms import canonical, check_site, fingerprint, shown
from fedssh.keys import PrivateKey, PublicKey, load_private, login_line, parse_public

MAX_BYTES = 64 * 1024
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252})")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"fedssh", "site", "role", "user", "host", "port", "host_key", "coordinator", "site_key"}
_NEWER_FIELDS = {"genesis"}


@dataclass(frozen=True)
class Folder:
    """The names in a site's folder."""

    path: Path

    @property
    def key(self) -> Path:
        """This site's private key; only its owner may read it. Its public half lies beside it, in site_key.pub."""
        return self.path / "site_key"

    @property
    def site(self) -> Path:
        """What `read_site` reads: who this site is, where the door is, and whom it believes."""
        return self.path / "site.json"

    @property
    def known_hosts(self) -> Path:
        """The door's host key, pinned before the first contact; as OpenSSH has it."""
        return self.path / "known_hosts"

    @property
    def via(self) -> Path:
        """The way out that was told, see `way`; only its owner may read it."""
        return self.path / "via.json"

    @property
    def via_known_hosts(self) -> Path:
        """A jump host's pinned key."""
        return self.path / "via_known_hosts"

    @property
    def spool(self) -> Path:
        """Sealed bundles without a verdict yet, see `spool`."""
        return self.path / "spool"

    @property
    def receipts(self) -> Path:
        """One line per submission or report that has left, see `receipts`; only ever appended to."""
        return self.path / "receipts.jsonl"

    @property
    def seen(self) -> Path:
        """The newest release that was followed: no older one, and no other history, is taken after it."""
        return self.path / "seen.json"

    @property
    def followed(self) -> Path:
        """How far the history was followed and judged, see `followed`; may be removed at any time."""
        return self.path / "followed.json"

    @property
    def genesis(self) -> Path:
        """The first record of the history, one signed line; absent until it was fetched."""
        return self.path / "genesis.json"

    @property
    def status(self) -> Path:
        """What the door last said, see `standing`; the same lies in Alice's exchange."""
        return self.path / "status.json"

    @property
    def peers(self) -> Path:
        """The keys of other sites, by people's word, see `peers`."""
        return self.path / "peers"

    @property
    def masks(self) -> Path:
        """How far this site is in rounds under masks, see `masking`; only its owner may read it."""
        return self.path / "masks.json"

    @property
    def lock(self) -> Path:
        """Held by the one Bob that works in this folder."""
        return self.path / "lock"


@dataclass(frozen=True)
class Site:
    """Who this site is and whom it works with.

    Attributes:
        genesis: Hash of the first record of the history that this site was invited to; None where it was not told.
    """

    name: str
    user: str
    host: str
    port: int
    host_key: str
    coordinator: PublicKey
    genesis: str | None = None

    @property
    def address(self) -> str:
        """As a person would give it to ssh."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def door(self) -> Address:
        """The same for a connection."""
        return Address(self.user, self.host, self.port)

    def to_bytes(self) -> bytes:
        """The contents of site.json."""
        fields = dataclasses.asdict(self) | {"coordinator": self.coordinator.line}
        return canonical({name: value for name, value in fields.items() if value is not None}) + b"\n"


def load_site(folder: Folder) -> Site:
    """Who this site is.

    Raises:
        SettingsError: It has not joined yet, or site.json is damaged.
    """
    try:
        fields = json.loads(folder.site.read_bytes())
        return _site(fields)
    except FileNotFoundError:
        hint = "run `bob join INVITATION` with the coordinator's invitation"
        raise SettingsError(f"{folder.path} has not joined a coordinator", hint) from None
    except (ValueError, KeyError, TypeError, RecursionError, BundleError) as error:
        raise SettingsError(f"{folder.site} is damaged: {error}", "run `bob join INVITATION` again") from None


def load_key(folder: Folder) -> PrivateKey:
    """The site key.

    Raises:
        SettingsError: There is none yet, or it is not fit for use.
    """
    if not folder.key.exists():
        raise SettingsError(f"{folder.key} does not exist", "`bob keygen` makes it")
    return load_private(folder.key)


def read_invitation(text: str, key: PublicKey) -> Site:
    """Read an invitation and check that it is for the holder of this key.

    Raises:
        SettingsError: Not an invitation, for another site key, or not for a site.
    """
    hint = "`charity nodes add` prints an invitation; paste all of it"
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.keys() - _NEWER_FIELDS != _FIELDS:
            raise ValueError("its fields are not those of an invitation")
        if fields["fedssh"] != 1:
            raise ValueError(f"it has format {str(fields['fedssh'])[:20]}, this program reads format 1")
        site = _site(fields | {"name": fields["site"]})
    except (ValueError, TypeError, KeyError, RecursionError, BundleError) as error:
        raise SettingsError(f"this is not an invitation: {error}", hint) from None
    if fields["role"] != "site":
        raise SettingsError(
            f"the invitation is for the role {shown(fields['role'])}", "only sites join; others use plain ssh"
        )
    if fields["site_key"] != key.fingerprint:
        raise SettingsError(
            f"the invitation is for the site key {shown(fields['site_key'])}, this site has {key.fingerprint}",
            "send the coordinator the .pub file of this site's key",
        )
    return site


def seen_at(site: Site, address: str | None) -> Site:
    """The same with the door at another address, as this site's network maps it: what is pinned is its key.

    Args:
        address: `[user@]host:port`; the user is the invitation's unless given. None changes nothing.

    Raises:
        SettingsError: It is no address.
    """
    if address is None:
        return site
    user, host, port = parse_address(address)
    user = user if "@" in address else site.user
    try:
        _check_place(user, host, port)
    except ValueError as error:
        raise SettingsError(f"--address: {error}") from None
    return dataclasses.replace(site, user=user, host=host, port=port)


def join(folder: Folder, site: Site, again: bool = False) -> Site:
    """Write down whom this site works with: known_hosts first, then site.json.

    Joining twice by the same invitation changes nothing. An invitation that names no genesis leaves the pinned one.
    Returns what is written down.

    Args:
        again: Allow another host key or another coordinator than before.

    Raises:
        HostKeyError: The invitation names another host key than the one pinned here.
        UntrustedError: The invitation names another coordinator, or another genesis of the same one.
        SettingsError: Bundles sealed for the former coordinator wait in the spool.
    """
    if folder.site.exists():
        before = load_site(folder)
        _check_change(folder, before, site, again)
        if site.genesis is None and site.coordinator == before.coordinator:
            site = dataclasses.replace(site, genesis=before.genesis)
    write_whole(folder.known_hosts, f"{site.door.known_as} {site.host_key}\n".encode(), mode=0o644)
    write_whole(folder.site, site.to_bytes(), mode=0o644)
    return site


def _check_change(folder: Folder, before: Site, after: Site, again: bool) -> None:
    hint = "if the operator confirms the new fingerprint, use --again; if not, stop here"
    if after.host_key != before.host_key and not again:
        raise HostKeyError(
            f"the invitation names host key {fingerprint(after.host_key)}, "
            f"this site has pinned {fingerprint(before.host_key)}",
            hint,
        )
    if after.coordinator == before.coordinator:
        _check_genesis(folder, before, after)
        return
    if not again:
        raise UntrustedError(
            f"the invitation names the coordinator key {after.coordinator.fingerprint}, "
            f"this site works with {before.coordinator.fingerprint}",
            hint,
        )
    if waiting := len(list(folder.spool.glob("*.bundle"))):
        raise SettingsError(
            f"{waiting} {'bundle' if waiting == 1 else 'bundles'} sealed for the former coordinator in {folder.spool}",
            "ship them with `bob watch --drain`, or remove them",
        )
    folder.genesis.unlink(missing_ok=True)
    folder.followed.unlink(missing_ok=True)
    if folder.seen.exists():  # another coordinator has another history
        folder.seen.replace(
            folder.seen.with_name(f"seen-{before.coordinator.fingerprint[7:15].replace('/', '_')}.json")
        )


def _check_genesis(folder: Folder, before: Site, after: Site) -> None:
    known = before.genesis
    if known is None and (line := read_genesis(folder)):
        known = read_line(line, before.coordinator).hash
    if known and after.genesis and known != after.genesis:
        raise UntrustedError(
            f"the invitation names the genesis {after.genesis}, this site follows {known}",
            "ask the operator; if it is another federation of theirs, join it with another --state",
        )


def read_genesis(folder: Folder) -> bytes | None:
    """The first record of the history that this site follows, one line; None before the first release."""
    try:
        return folder.genesis.read_bytes()
    except FileNotFoundError:
        return None


def _check_place(user: object, host: object, port: object) -> None:
    if not isinstance(user, str) or not _USER.fullmatch(user):
        raise ValueError(f"{str(user)[:60]!r} is not a user name")
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise ValueError(f"{str(host)[:60]!r} is not a host name")
    if type(port) is not int or not 1 <= port <= 65535:
        raise ValueError(f"{str(port)[:20]} is not a port")


def _site(fields: dict[str, Any]) -> Site:
    user, host, port = fields["user"], fields["host"], fields["port"]
    _check_place(user, host, port)
    try:
        coordinator = parse_public(str(fields["coordinator"]), "the coordinator's key")
        host_key = login_line(str(fields["host_key"]), "the host key")
    except SettingsError as error:
        raise ValueError(str(error)) from None
    genesis = fields.get("genesis")
    if genesis is not None and not (isinstance(genesis, str) and _HASH.fullmatch(genesis)):
        raise ValueError(f"{shown(genesis)} is not the hash of a record")
    return Site(check_site(fields["name"]), user, host, port, host_key, coordinator, genesis)
