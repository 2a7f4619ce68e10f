"""The other sites, as people have named them to this one: whom it masks with, whatever the coordinator says.

    state/peers/NAME.pub     one OpenSSH line: that site's public key, given by people there

Under `seal=masks` no single update is plain outside its site, as long as the sites of a round are real. Who they are,
the coordinator must not be asked: she could invent all but one. So a round with anybody else in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedssh.bob.site import Folder
from fedssh.errors import SettingsError
from fedssh.files import write_whole
from fedssh.forms import check_site
from fedssh.keys import PublicKey, load_public, parse_public


def add(folder: Folder, name: str, key: Path, *, again: bool = False) -> PublicKey:
    """Write down a site's key.

    Args:
        key: A file with its public key, as `bob keygen` makes it there.
        again: Allow another key than the one that stands there.

    Raises:
        SettingsError: It is no such key, is this site's own or another peer's, or another one stands there.
        BundleError: It is no name of a site.
    """
    check_site(name)
    found = load_public(key)
    if folder.key.exists() and load_public(folder.key.with_name("site_key.pub")) == found:
        raise SettingsError(f"{key} is this site's own key", "ask the people of the other site for theirs")
    known = pinned(folder)
    if holder := next((other for other, one in known.items() if one == found and other != name), None):
        raise SettingsError(f"{key} is the key of {holder}, who is a peer already", "each site has a key of its own")
    if known.get(name, found) != found and not again:
        raise SettingsError(
            f"{name} is a peer with the key {known[name].fingerprint}, this one is {found.fingerprint}",
            "if the people there confirm the new one, use --again",
        )
    folder.peers.mkdir(exist_ok=True)
    write_whole(folder.peers / f"{name}.pub", f"{found.line} {name}\n".encode(), mode=0o644)
    return found


def remove(folder: Folder, name: str) -> None:
    """Forget a site's key.

    Raises:
        SettingsError: There is none.
    """
    try:
        (folder.peers / f"{check_site(name)}.pub").unlink()
    except FileNotFoundError:
        raise SettingsError(f"{name} is no peer of this site", "`bob peers list` shows who is") from None


def pinned(folder: Folder) -> Mapping[str, PublicKey]:
    """The keys by name.

    Raises:
        SettingsError: A file in there is no key.
    """
    paths = sorted(folder.peers.glob("*.pub")) if folder.peers.is_dir() else []
    return {check_site(path.stem): parse_public(path.read_text(), str(path)) for path in paths}
