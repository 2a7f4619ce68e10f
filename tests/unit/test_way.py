"""Addresses, ways out, and what is kept of them: every form, and no password anywhere it does not belong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedssh.address import DIRECT, VIA, Address, Via, Way, read_via
from fedssh.bob import site, way
from fedssh.bob.settings import JoinSettings, WatchSettings
from fedssh.errors import SettingsError
from fedssh.settings import describe, load

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
def folder(tmp_path: Path) -> site.Folder:
    (tmp_path / "site").mkdir()
    return site.Folder(tmp_path / "site")


@pytest.mark.parametrize(
    ("text", "way", "shown"),
    [
        ("socks5://proxy:1080", Via("socks5", Address("", "proxy", 1080)), "socks5://proxy:1080"),
        ("http://me:a%2Fb%40@proxy:3128/", Via("http", Address("me", "proxy", 3128), "a/b@"), "http://proxy:3128"),
        ("SOCKS5://me:x@[::1]:1", Via("socks5", Address("me", "::1", 1), "x"), "socks5://[::1]:1"),
        ("ssh://me@jump", Via("ssh", Address("me", "jump", 22)), "ssh://me@jump:22"),
        ("ssh://me@[fe80::1]:2222", Via("ssh", Address("me", "fe80::1", 2222)), "ssh://me@[fe80::1]:2222"),
        ("direct", DIRECT, "direct"),
    ],
)
def test_a_way_is_read_shown_and_told_again(text: str, way: Via, shown: str) -> None:
    assert read_via(text) == way
    assert str(way) == shown
    assert read_via(way.told) == way
    assert not way.password or way.password not in repr(way) + str(way)


@pytest.mark.parametrize(
    "text",
    [
        "", "proxy:1080", "socks5://proxy", "socks4://proxy:1", "ftp://s3cret@proxy:21", "socks5://me:s3/cret@proxy:1080",
        "socks5://me:s3#cret@proxy:1080", "http://proxy:0", "http://proxy:65536", "http://proxy:s3cret", "http://:80",
        "http://proxy:80/s3cret", "http://proxy:80?s3cret", "http://me@proxy:80", "http://:s3cret@proxy:80",
        "socks5://me:s3cr%C3%A9t@proxy:80", "socks5://me:s3cret%0a@proxy:80", "http://a%3Ab:s3cret@proxy:80",
        "ssh://jump:22", "ssh://me:s3cret@jump:22", f"socks5://me:{'s3cret' * 60}@proxy:80", "http://[s3cret@proxy:80",
    ],
)  # fmt: skip
def test_what_is_no_way_is_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^BOB_VIA: expected ") as caught:
        load(WatchSettings, "bob", {}, {"BOB_VIA": text})
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)


def test_a_way_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "way").write_text("socks5://me:s3cret@proxy:1080\nwhat follows is not read\n")
    found = read_via(f"@{tmp_path}/way")
    assert (found.password, found.told) == ("s3cret", f"@{tmp_path}/way")
    (tmp_path / "way").write_text(f"@{tmp_path}/way\n")
    (tmp_path / "binary").write_bytes(b"\xff\n")
    wrong = {"way": "names another file", "none": "No such file", "binary": "no text", ".": "Is a dir"}
    for name, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            read_via(f"@{tmp_path}/{name}")
    with pytest.raises(ValueError, match="expected socks5"):
        VIA(7)


def test_settings_are_printed_without_the_password() -> None:
    settings = load(WatchSettings, "bob", {"via": "http://me:s3cret@proxy:3128"}, {})
    assert "via=http://proxy:3128," in describe(settings) and "s3cret" not in describe(settings) + repr(settings)


def told(**words: Any) -> JoinSettings:
    return load(JoinSettings, "bob", {name: str(word) for name, word in words.items()}, {})


def test_what_was_told_is_kept_and_what_is_told_beats_it(folder: site.Folder, tmp_path: Path) -> None:
    assert way.way_out(folder, told()) is None
    way.keep_way(folder, told(via="ssh://me@jump", via_key=tmp_path / "key"), KEY, again=False)
    assert folder.via_known_hosts.read_text() == f"jump {KEY}\n"
    assert [folder.via.stat().st_mode & 0o777, folder.via_known_hosts.stat().st_mode & 0o777] == [0o600, 0o600]
    kept = way.way_out(folder, told())
    assert kept == Way(read_via("ssh://me@jump"), tmp_path / "key", folder.via_known_hosts)
    other = way.way_out(folder, told(via="ssh://me@other", via_key="k", via_known_hosts="hosts"))
    assert other == Way(read_via("ssh://me@other"), Path("k"), Path("hosts"))
    assert way.way_out(folder, told(via="direct")) is None
    way.keep_way(folder, told(), None, again=False)  # joining again without a word
    assert way.way_out(folder, told()) == kept
    way.keep_way(folder, told(via="http://me:s3cret@proxy:1"), None, again=False)
    assert way.kept_via(folder) == "http://proxy:1"
    way.keep_way(folder, told(via="direct"), None, again=False)
    assert not folder.via.exists() and way.kept_via(folder) is None


def test_a_jump_host_is_pinned_or_not_used(folder: site.Folder) -> None:
    with pytest.raises(SettingsError, match="the host key of ssh://me@jump:22 is not pinned"):
        way.keep_way(folder, told(via="ssh://me@jump"), None, again=False)
    with pytest.raises(SettingsError, match="without a jump host"):
        way.keep_way(folder, told(via="http://proxy:1"), KEY, again=False)
    with pytest.raises(SettingsError, match="both pin"):
        way.keep_way(folder, told(via="ssh://me@jump", via_known_hosts="hosts"), KEY, again=False)
    with pytest.raises(SettingsError, match="--via-host-key is not one OpenSSH public key"):
        way.keep_way(folder, told(via="ssh://me@jump"), "SHA256:x", again=False)
    assert not folder.via.exists()


@pytest.mark.parametrize(
    "damaged",
    [
        b"", b"[]", b'{"via":"http://me:s3cret@proxy:1"}', b'{"via":"http://me:s3cret@","key":null,"known_hosts":null}',
        b'{"via":["s3cret"],"key":1,"known_hosts":null}', b"\xffs3cret",
    ],
)  # fmt: skip
def test_a_damaged_way_is_not_repeated(folder: site.Folder, damaged: bytes) -> None:
    folder.via.write_bytes(damaged)
    with pytest.raises(SettingsError, match=r"via\.json") as caught:
        way.way_out(folder, told())
    assert "s3cret" not in str(caught.value) and "bob join" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (None, "me@charity.example:2222"), ("gate.example:443", "me@gate.example:443"), ("gate", "me@gate:22"),
        ("you@10.0.0.1:22", "you@10.0.0.1:22"), ("[2001:db8::1]:443", "me@2001:db8::1:443"),
    ],
)  # fmt: skip
def test_the_door_may_be_seen_at_another_address(address: str | None, found: str, keys: dict[str, Any]) -> None:
    invited = site.Site("alice-1", "me", "charity.example", 2222, KEY, keys["coordinator"].public)
    seen = site.seen_at(invited, address)
    assert seen.address == found
    back = dataclasses.replace(seen, user=invited.user, host=invited.host, port=invited.port)
    assert back == invited  # what is pinned stays


@pytest.mark.parametrize("address", ["", "a b:1", "host:0", "host:x", "-o@host:1", "me@-host:1", "me@ho/st:1"])
def test_what_is_no_address(address: str, keys: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        site.seen_at(site.Site("alice-1", "me", "h", 22, KEY, keys["coordinator"].public), address)


def test_joining_without_trying_the_connection_needs_no_ssh_library() -> None:
    """As in a container that sets sites up: its image has what the coordinator needs, and no more."""
    program = "import sys; sys.modules['paramiko'] = None; import fedssh.bob.way, fedssh.bob.site, fedssh.bob.cli"
    subprocess.run([sys.executable, "-c", program], check=True)
