"""Joining a coordinator: what an invitation must be, and what a second one may change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedssh.bob import cli, site
from fedssh.bob.standing import Standing
from fedssh.errors import AgentError, HostKeyError, SettingsError, UntrustedError
from fedssh.keys import PrivateKey, load_private
from fedssh.known_hosts import pinned_keys
from fedssh.ledger import Ledger

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJrbxkNQNRmUTXXfZOJJoSAWVlOoVXCYRsCpVsWRXxUJ"


@pytest.fixture
def folder(tmp_path: Path) -> site.Folder:
    return site.Folder(tmp_path / "site")


@pytest.fixture
def invitation(keys: dict[str, PrivateKey]) -> dict[str, Any]:
    return {
        "fedssh": 1, "site": "alice-1", "role": "site", "user": "charity", "host": "charity.example", "port": 2222,
        "host_key": HOST_KEY, "coordinator": keys["coordinator"].public.line,
        "site_key": keys["alice-1"].public.fingerprint,
    }  # fmt: skip


def read(invitation: dict[str, Any], keys: dict[str, PrivateKey]) -> site.Site:
    return site.read_invitation(json.dumps(invitation), keys["alice-1"].public)


def test_joining_pins_the_door_and_the_coordinator(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))
    site.join(folder, read(invitation, keys))  # once more changes nothing
    assert folder.known_hosts.read_text() == f"[charity.example]:2222 {HOST_KEY}\n"
    assert len(pinned_keys(folder.known_hosts, "[charity.example]:2222")) == 1
    found = site.load_site(folder)
    assert (found.name, found.address) == ("alice-1", "charity@charity.example:2222")
    assert found.coordinator == keys["coordinator"].public


def test_port_22_stands_in_known_hosts_as_ssh_writes_it(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation | {"port": 22}, keys))
    assert folder.known_hosts.read_text() == f"charity.example {HOST_KEY}\n"


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"fedssh": 2}, "has format 2"),
    "site": ({"site": "../x"}, "site name"),
    "user": ({"user": "-oProxyCommand=x"}, "is not a user name"),
    "host": ({"host": "a b"}, "is not a host name"),
    "option": ({"host": "-x"}, "is not a host name"),
    "port": ({"port": 0}, "is not a port"),
    "port as text": ({"port": "22"}, "is not a port"),
    "host key": ({"host_key": "ssh-ed25519 AAAA\nevil ssh-rsa"}, "the host key"),
    "coordinator": ({"coordinator": HOST_KEY}, "expected ssh-rsa"),
    "genesis": ({"genesis": "C" * 64}, "is not the hash of a record"),
    "genesis as number": ({"genesis": 1}, "is not the hash of a record"),
    "extra": ({"extra": 1}, "its fields are not those"),
    "auditor": ({"role": "auditor"}, "for the role 'auditor'"),
    "another site's": ({"site_key": "SHA256:x"}, "is for the site key 'SHA256:x', this site has SHA256:"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_an_invitation_for_this_site_is_refused(
    case: str, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    changes, words = BROKEN[case]
    with pytest.raises(SettingsError, match=words):
        read(invitation | changes, keys)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_other_text_is_not_an_invitation(text: str, keys: dict[str, PrivateKey]) -> None:
    with pytest.raises(SettingsError, match="this is not an invitation"):
        site.read_invitation(text, keys["alice-1"].public)


def test_another_host_key_or_coordinator_needs_a_person(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))
    moved = read(invitation | {"host_key": OTHER_KEY}, keys)
    with pytest.raises(HostKeyError, match=r"names host key SHA256:.*, this site has pinned SHA256:"):
        site.join(folder, moved)
    assert HOST_KEY in folder.known_hosts.read_text()
    site.join(folder, moved, again=True)
    assert OTHER_KEY in folder.known_hosts.read_text()
    usurped = read(invitation | {"host_key": OTHER_KEY, "coordinator": keys["stranger"].public.line}, keys)
    with pytest.raises(UntrustedError, match="names the coordinator key"):
        site.join(folder, usurped)
    folder.seen.write_text('{"sequence":7,"head":"x"}')
    site.join(folder, usurped, again=True)
    assert not folder.seen.exists() and list(folder.path.glob("seen-*.json"))


def test_bundles_for_the_former_coordinator_are_not_forgotten(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    folder.spool.mkdir(parents=True)
    site.join(folder, read(invitation, keys))
    (folder.spool / "a.bundle").touch()
    with pytest.raises(SettingsError, match="1 bundle sealed for the former coordinator"):
        site.join(folder, read(invitation | {"coordinator": keys["stranger"].public.line}, keys), again=True)


def test_the_genesis_of_the_invitation_is_pinned(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey]
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))  # by an older coordinator, who names none
    assert site.load_site(folder).genesis is None
    named = invitation | {"genesis": "a" * 64}
    site.join(folder, read(named, keys))
    assert site.load_site(folder).genesis == "a" * 64
    assert site.join(folder, read(invitation, keys)).genesis == "a" * 64  # not forgotten
    for again in (False, True):
        with pytest.raises(UntrustedError, match=f"names the genesis {'b' * 64}, this site follows {'a' * 64}"):
            site.join(folder, read(invitation | {"genesis": "b" * 64}, keys), again)
    another = keys["stranger"].public.line
    site.join(folder, read(invitation | {"coordinator": another, "genesis": "b" * 64}, keys), again=True)
    assert site.load_site(folder).genesis == "b" * 64
    site.join(folder, read(invitation, keys), again=True)  # the pin belongs to its coordinator
    assert site.load_site(folder).genesis is None


def test_the_genesis_that_was_followed_is_held_against_the_invitation(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))
    ledger = Ledger.create(tmp_path / "ledger.db")
    first = ledger.append("genesis", {"coordinator": keys["coordinator"].public.line}, keys["coordinator"])
    ledger.close()
    folder.genesis.write_bytes(first.line())
    with pytest.raises(UntrustedError, match=f"this site follows {first.hash}"):
        site.join(folder, read(invitation | {"genesis": "b" * 64}, keys))
    folder.key.symlink_to(keys["alice-1"].path)
    status = ("status", "--state", folder.path, "--exchange", tmp_path)
    assert f"{first.hash}, not pinned: compare it with the operator's" in bob(*status)
    site.join(folder, read(invitation | {"genesis": first.hash}, keys))
    assert f"{first.hash}, pinned by the invitation" in bob(*status)
    another = {"coordinator": keys["stranger"].public.line}
    site.join(folder, read(invitation | another, keys), again=True)
    assert not folder.genesis.exists() and "not pinned, none followed yet" in bob(*status)


def test_status_says_since_when_the_door_refuses(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))
    folder.key.symlink_to(keys["alice-1"].path)
    standing = Standing(folder.status, tmp_path / "incoming")
    standing.refuse("alice-1 is not enrolled with this key any more", in_words=True)
    said = bob("status", "--state", folder.path, "--exchange", tmp_path)
    assert "refused      since 20" in said and ": alice-1 is not enrolled with this key any more" in said
    found = json.loads(bob("status", "--state", folder.path, "--exchange", tmp_path, "--json"))
    assert found["reason"] == "alice-1 is not enrolled with this key any more" and found["refused_since"]
    standing.let_in()
    assert "refused" not in bob("status", "--state", folder.path, "--exchange", tmp_path)


@pytest.mark.parametrize("note", [b"{}", b"[" * 50_000, b'{"manifest":{"sequence":"\x1b[2J"}}', b"\xff"])
def test_status_does_not_believe_what_lies_in_the_exchange(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey], tmp_path: Path, note: bytes
) -> None:
    folder.path.mkdir()
    site.join(folder, read(invitation, keys))
    folder.key.symlink_to(keys["alice-1"].path)
    folder.seen.write_text('{"sequence":7,"head":"x"}')
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "00000007.json").write_bytes(note)
    assert "release      7\n" in bob("status", "--state", folder.path, "--exchange", tmp_path)
    (tmp_path / "incoming" / "00000007.json").unlink()
    os.mkfifo(tmp_path / "incoming" / "00000007.json")
    assert "release      7\n" in bob("status", "--state", folder.path, "--exchange", tmp_path)


def bob(*words: str | Path, input: str | None = None) -> str:
    """What a command prints."""
    done = CliRunner().invoke(cli.group, [str(word) for word in words], input=input, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_keygen_and_join_by_command(
    folder: site.Folder, invitation: dict[str, Any], keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    said = bob("keygen", "--state", folder.path)
    key = load_private(folder.key)
    assert key.public.fingerprint in said and key.public.line in said
    with pytest.raises(SettingsError, match="keys are never overwritten"):
        bob("keygen", "--state", folder.path)
    with pytest.raises(SettingsError, match="has not joined a coordinator"):
        bob("status", "--state", folder.path)
    text = json.dumps(invitation | {"site_key": key.public.fingerprint})
    said = bob("join", "--state", folder.path, "--offline", "-", input=text)
    assert "not named by this invitation" in said and "such as the phone" in said
    named = json.dumps(json.loads(text) | {"genesis": "a" * 64})
    assert f"genesis          {'a' * 64}\n" in bob("join", "--state", folder.path, "--offline", "-", input=named)
    assert keys["coordinator"].public.fingerprint in said and "charity@charity.example:2222" in said
    status = json.loads(bob("status", "--state", folder.path, "--exchange", tmp_path, "--json"))
    assert (status["site"], status["running"], status["totals"]["sent"]) == ("alice-1", False, 0)
    assert "bob watch is not running" in bob("status", "--state", folder.path, "--exchange", tmp_path)
    assert "verdict" in bob("receipts", "--state", folder.path)


def test_no_key_no_join(folder: site.Folder, invitation: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match="site_key does not exist") as caught:
        bob("join", "--state", folder.path, "--offline", "-", input=json.dumps(invitation))
    assert caught.value.hint == "`bob keygen` makes it"
