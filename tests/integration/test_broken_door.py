"""What a door that somebody broke into can lay into the inbox: it costs a line, and the others are served."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fedssh import bundle
from fedssh.charity import enrol
from fedssh.charity.folders import Folders
from fedssh.charity.inbox import Inbox
from fedssh.charity.intake import Waiting
from fedssh.charity.judge.client import Judge
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.errors import BundleError
from fedssh.files import sha256_file
from fedssh.manifest import Submission
from tests.harness.room import Room


def sparse(size: int) -> Callable[[Path, Path], None]:
    def lay(path: Path, _: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(size)

    return lay


def unix_socket(path: Path, secret: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(secret.parent / "s"))
    os.rename(secret.parent / "s", path)


LAID: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a link": (lambda path, secret: path.symlink_to(secret), "is no plain file"),
    "a link to nothing": (lambda path, secret: path.symlink_to("nothing"), "is no plain file"),
    "a FIFO": (lambda path, secret: os.mkfifo(path), "is no plain file"),
    "a socket": (unix_socket, "is no plain file"),
    "12 GiB of nothing": (sparse(12 << 30), "has 12,884,901,888 bytes, more than 1,090,519,040"),
    "a gigabyte of nothing": (sparse(1 << 30), "has holes"),
    "a little of nothing": (sparse(1 << 20), "has holes"),
}


def test_what_is_no_bundle_is_neither_read_nor_recorded(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builds_on = room.release()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    paths = {name: room.arrive("alice-1") for name in LAID}
    for name, (lay, _) in LAID.items():
        lay(paths[name], secret)
    room.arrive("alice-1").mkdir()
    good = room.submit("alice-2", 0.6, builds_on=builds_on)
    room.work()
    assert [record.fields["site"] for record in room.vault.ledger.judged()] == ["alice-2"]
    assert room.verdict("alice-2", good)["event"] == "accepted"
    assert not [path for path in paths.values() if os.path.lexists(path)]
    assert secret.read_bytes() == b"secret"
    for name, (_, reason) in LAID.items():
        assert f"inbox/alice-1/{paths[name].name} {reason}, which no door leaves there: removed" in caplog.text
    assert not [path for path in room.folders.claimed.rglob("*") if not path.is_dir()]


def test_folders_of_nobody_are_ignored_and_said_once(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    builds_on = room.release()
    (room.folders.inbox / "mallory").mkdir()
    room.arrive("mallory").write_bytes(b"garbage")
    (room.folders.inbox / "eve").symlink_to(room.folders.vault)
    (room.folders.inbox / "NOT A NAME").write_bytes(b"")
    (room.folders.claimed / "older").mkdir()  # an older version took it
    (room.folders.claimed / "older" / f"{1:020}-00000000.bundle").write_bytes(b"garbage")
    coordinator = room.coordinator
    coordinator.recover()
    good = room.submit("alice-1", 0.6, builds_on=builds_on)
    for _ in range(3):
        coordinator.work()
    assert [record.fields["site"] for record in room.vault.ledger.judged()] == ["alice-1"]
    assert room.verdict("alice-1", good)["event"] == "accepted"
    for name in ("mallory", "eve", "NOT A NAME"):
        assert caplog.text.count(f"inbox/{name} belongs to nobody who is enrolled: ignored") == 1


@pytest.mark.parametrize("what", ["file", "link", "FIFO"])
def test_what_stands_where_a_sites_folder_belongs_makes_room(room: Room, tmp_path: Path, what: str) -> None:
    place, elsewhere = room.folders.inbox / "alice-3", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{1:020}-00000000.bundle").write_bytes(b"somebody's")
    lay: dict[str, Callable[[], object]] = {
        "file": lambda: place.write_bytes(b""),
        "link": lambda: place.symlink_to(elsewhere),
        "FIFO": lambda: os.mkfifo(place),
    }
    lay[what]()
    public = tmp_path / "x.pub"
    public.write_text(room.keys["alice-3"].public.line)
    enrol.add(room.vault, "alice-3", public, "site")
    assert place.is_dir() and not place.is_symlink()
    good = room.submit("alice-3", 0.6)
    room.work()
    assert room.verdict("alice-3", good)["event"] == "accepted"
    assert len(list(elsewhere.iterdir())) == 1


def test_a_sites_folder_that_becomes_a_link_is_not_followed(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    builds_on = room.release()
    shutil.rmtree(room.folders.inbox / "alice-1")
    (room.folders.inbox / "alice-1").symlink_to(room.folders.inbox / "alice-2")
    good = room.submit("alice-2", 0.6, builds_on=builds_on)
    coordinator = room.coordinator
    coordinator.work()
    coordinator.work()
    assert [record.fields["site"] for record in room.vault.ledger.judged()] == ["alice-2"]
    assert room.verdict("alice-2", good)["event"] == "accepted"
    assert caplog.text.count("inbox/alice-1 cannot be looked into, so nothing of alice-1 is judged") == 1


def test_sites_take_turns_whatever_the_door_calls_their_bundles(room: Room) -> None:
    builds_on = room.release()
    for accuracy in (0.1, 0.2, 0.3):
        room.submit("alice-1", accuracy, builds_on=builds_on)
    room.submit("alice-2", 0.4, builds_on=builds_on)
    room.work()
    sites = [record.fields["site"] for record in room.vault.ledger.judged()]
    assert sites == ["alice-1", "alice-2", "alice-1", "alice-1"]


def test_what_arrives_while_another_sites_queue_is_judged_has_its_turn(room: Room) -> None:
    builds_on = room.release()

    class Slow:
        def score(self, model: Path) -> dict[str, Any]:
            if len(room.vault.ledger.judged()) == 1:
                room.submit("alice-2", 0.4, builds_on=builds_on)
            return {"accuracy": 0.4, "loss": 0.6}

        def start(self) -> None: ...

    for _ in range(5):
        room.submit("alice-1", 0.4, builds_on=builds_on)
    Coordinator(room.vault, cast(Judge, Slow())).work()
    sites = [record.fields["site"] for record in room.vault.ledger.judged()]
    assert sites == ["alice-1"] * 3 + ["alice-2"] + ["alice-1"], "as many as waited at first"


def test_a_bundle_that_shrinks_or_grows_while_it_is_read_ends_the_reading(room: Room, tmp_path: Path) -> None:
    room.submit("alice-1", 0.6, model=room.model(0.6, spec={"name": "x" * 60_000}))
    path = max((room.folders.inbox / "alice-1").iterdir())
    signer = room.keys["alice-1"].public
    with bundle.read(path) as arrived:
        arrived.verify(signer, Submission)
        os.truncate(path, path.read_bytes().index(b"age-encryption.org/v1\n") + 100)
        with pytest.raises(BundleError, match="became shorter while it was read"):
            arrived.extract(tmp_path / "plain", room.keys["coordinator"])
    assert not (tmp_path / "plain").exists()
    stop = threading.Event()

    def grow() -> None:
        with open(path, "ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 1 << 30:
                file.write(bytes(1 << 20))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert len(sha256_file(path)) == 64
    finally:
        stop.set()
        writer.join()


class Anything:
    """A judge for a process that cannot start one."""

    def score(self, model: Path) -> dict[str, Any]:
        return {"accuracy": 0.9, "loss": 0.1}

    def check(self, model: Path, current: Path, first: Path, plan: dict[str, Any]) -> dict[str, Any]:
        return {"sound": True, "text": ""}

    def start(self) -> None: ...


@pytest.fixture
def unprivileged(room: Room) -> Iterator[Room]:
    """The room in a folder of an ordinary account, as which this test runs if it was root before."""
    folder = Path(tempfile.mkdtemp(prefix="fedssh-"))
    state = folder / "coordinator"
    room.release()
    shutil.copytree(room.folders.state, state)
    root = os.geteuid() == 0
    if root:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    try:
        room.folders, room.vault = Folders(state), Vault(Folders(state))
        yield room
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_what_cannot_be_read_is_skipped_and_said_once(unprivileged: Room, caplog: pytest.LogCaptureFixture) -> None:
    room = unprivileged
    builds_on = room.newest.sequence
    locked = room.arrive("alice-1")
    locked.write_bytes(b"x")
    locked.chmod(0)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(room.folders.inbox / "alice-2")
    (room.folders.inbox / "alice-2").mkdir(mode=0)
    good = room.submit("alice-1", 0.9, builds_on=builds_on)
    coordinator = Coordinator(room.vault, cast(Judge, Anything()))
    for _ in range(2):
        coordinator.work()
    assert room.verdict("alice-1", good)["event"] == "accepted"
    assert caplog.text.count(f"inbox/alice-1/{locked.name} cannot be read") == 1
    assert caplog.text.count("inbox/alice-2 cannot be looked into") == 1
    (room.folders.inbox / "alice-2").chmod(0o700)


def test_a_claimed_bundle_that_the_door_locks_is_let_go(unprivileged: Room, caplog: pytest.LogCaptureFixture) -> None:
    room = unprivileged
    builds_on = room.newest.sequence
    room.submit("alice-1", 0.9, builds_on=builds_on)
    good = room.submit("alice-2", 0.9, builds_on=builds_on)
    [path] = (room.folders.inbox / "alice-1").iterdir()
    taken = Inbox(room.folders).take(Waiting("alice-1", path))
    assert taken is not None
    taken.path.chmod(0)  # through the handle that the door still has
    coordinator = Coordinator(room.vault, cast(Judge, Anything()))
    coordinator.work()
    assert not taken.path.exists()
    assert room.verdict("alice-2", good)["event"] == "accepted"
    assert "cannot be read any more: Permission denied; removed" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
def test_a_file_of_another_account_is_copied(room: Room) -> None:
    builds_on = room.release()
    good = room.submit("alice-1", 0.9, builds_on=builds_on)
    [path] = (room.folders.inbox / "alice-1").iterdir()
    os.chown(path, 65534, 65534)
    content = path.read_bytes()
    with open(path, "r+b") as door:
        taken = Inbox(room.folders).take(Waiting("alice-1", path))
        assert taken is not None
        door.truncate(10)
    assert taken.path.read_bytes() == content
    assert (taken.path.stat().st_uid, path.exists()) == (0, False)
    room.work()
    assert room.verdict("alice-1", good)["event"] == "accepted"
