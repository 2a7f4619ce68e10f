"""What somebody with Alice's rights can do to Bob through the exchange: no more than waste her own site's time."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedssh import bundle, files
from fedssh.bob.shared import SharedFolder
from fedssh.errors import UntrustedError
from fedssh.keys import PrivateKey
from fedssh.manifest import new_id
from tests.harness.bob import RUN, World

SECONDS = 30  # within which whatever does not wait has ended


@pytest.fixture
def world(tmp_path: Path, keys: dict[str, PrivateKey]) -> World:
    world = World(tmp_path, keys)
    world.start()
    return world


class Outside:
    """A folder that is Bob's alone, with a key and a file; whatever touches it is noticed."""

    def __init__(self, folder: Path, key: PrivateKey) -> None:
        self.folder = folder
        folder.mkdir()
        self.secret = folder / "site_key"
        files.write_whole(self.secret, key.pem)
        files.write_whole(folder / "00000001.json", b"{}", 0o600)
        self.before = self.look()

    def look(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for path in (self.folder, *sorted(self.folder.iterdir())):
            of = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found.append((path.name, of.st_mode, of.st_uid, of.st_size, of.st_mtime_ns, content))
        return found

    def is_untouched(self) -> bool:
        return self.look() == self.before


@pytest.fixture
def outside(tmp_path: Path, keys: dict[str, PrivateKey]) -> Outside:
    return Outside(tmp_path / "outside", keys["alice-1"])


def in_time(work: Callable[[], object]) -> None:
    """Do this, and fail rather than wait for a pipe that nobody writes to."""
    trouble: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            trouble.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for what never comes"
    if trouble:
        raise trouble[0]


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


def make_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


# What stands where a file should: each takes the path and what is outside.
THINGS: dict[str, tuple[Callable[[Path, Outside], object], str]] = {
    "a link to the key": (lambda p, o: p.symlink_to(o.secret), "it is a link"),
    "a link to nothing": (lambda p, o: p.symlink_to(o.folder / "nothing"), "it is a link"),
    "a link to endless zeros": (lambda p, o: p.symlink_to("/dev/zero"), "it is a link"),
    "a link to itself": (lambda p, o: p.symlink_to(p), "it is a link"),
    "a second name of the key": (lambda p, o: os.link(o.secret, p), "has another name as well"),
    "a pipe": (lambda p, o: os.mkfifo(p), "it is a FIFO"),
    "a socket": (lambda p, o: bind(p), "is not a file that can be read"),
    "a huge hole": (lambda p, o: make_hole(p), "expected at most"),
    "nothing in it": (lambda p, o: p.touch(), ""),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_plain_file_is_set_aside_at_once(world: World, outside: Outside, thing: str, suffix: str) -> None:
    make, words = THINGS[thing]
    bad = world.exchange / "outgoing" / world.publish(1)
    good = world.publish(2)
    bad.with_suffix(suffix).unlink()
    make(bad.with_suffix(suffix), outside)
    in_time(world.ship_all)
    assert world.verdicts() == {good: "accepted"} and world.names("outgoing") == []
    assert words in (world.exchange / "rejected" / f"{bad.name}.reason").read_text()
    for kept in (world.exchange / "rejected").iterdir():
        assert stat.S_ISREG(kept.lstat().st_mode) and kept.stat().st_nlink == 1
    assert outside.is_untouched()


CLAIMS: dict[str, bytes] = {
    "empty object": b"{}",
    "deep lists": b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a number of many digits": b'{"kind":' + b"9" * 60_000 + b"}",
    "not text": b"\xff\xfe" * 9,
    "a name twice": b'{"kind":"claim","kind":"claim"}',
    "kind of another type": b'{"kind":["claim"]}',
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_is_none_is_set_aside(world: World, claim: str) -> None:
    bad, good = world.publish(1), world.publish(2)
    (world.exchange / "outgoing" / f"{bad}.json").write_bytes(CLAIMS[claim])
    world.ship_all()
    assert world.verdicts() == {good: "accepted"} and world.names("outgoing") == []
    (text,) = [text for event, text in world.said if event == "rejected"]
    assert text.isprintable() and len(text) < 300


@pytest.mark.parametrize(
    "name", ["x" * 250, "a\nb\x1b[31m", "ü" * 100, os.fsdecode(b"\xff\xfe"), "..", " ", "00000000.safetensors"]
)
def test_a_name_that_is_none_is_set_aside(world: World, name: str) -> None:
    outgoing = world.exchange / "outgoing"
    (outgoing / f"{name}.json").write_bytes(b"{}")
    (outgoing / f"{name[:90]}.safetensors").symlink_to("/dev/zero")
    good = world.publish()
    world.ship_all()
    assert world.verdicts() == {good: "accepted"} and not list(outgoing.glob("*.json"))
    (text,) = [text for event, text in world.said if event == "rejected"]
    assert text.isprintable()


def test_folders_where_files_should_be_are_left_alone(world: World, outside: Outside) -> None:
    outgoing, bad = world.exchange / "outgoing", world.publish(1)
    (outgoing / f"{bad}.safetensors").unlink()
    (outgoing / f"{bad}.safetensors").mkdir()
    (outgoing / f"{bad}.safetensors" / "more").symlink_to(outside.folder)
    (outgoing / f"{new_id()}.json").mkdir()
    for suffix in (".json", ".reason"):
        (world.exchange / "rejected" / f"{bad}{suffix}").mkdir(parents=True)
    good = world.publish(2)
    in_time(world.ship_all)
    in_time(world.ship_all)
    assert world.verdicts() == {good: "accepted"} and world.outgoing.waiting() == []
    assert outside.is_untouched()


@pytest.mark.parametrize("name", ["outgoing", "incoming", "rejected"])
def test_a_folder_that_is_a_link_is_not_gone_through(world: World, outside: Outside, name: str) -> None:
    bad = world.exchange / "outgoing" / f"{world.publish()}.json"
    bad.write_bytes(b"{}")
    with contextlib.suppress(FileNotFoundError):
        (world.exchange / name).rename(world.exchange / "aside")
    (world.exchange / name).symlink_to(outside.folder)

    def work() -> None:
        world.start()
        world.ship_all()
        world.fetch()

    with pytest.raises(UntrustedError, match=f"{name} is a link or a file, expected a folder") as caught:
        in_time(work)
    assert caught.value.hint
    assert outside.is_untouched()


def models_in(world: World) -> set[str]:
    """The SHA-256 of each model that was sealed."""
    found = set()
    for entry in world.spool.entries():
        with bundle.read(world.spool.bundle(entry.id)) as sealed:
            found.add(str(sealed.model_sha256))
    return found


def test_a_model_that_is_swapped_after_the_check(
    world: World, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.exchange / "outgoing" / f"{world.publish()}.safetensors"
    expected = files.sha256_file(model)
    real = bundle.seal

    def swap(*arguments: Any) -> object:
        model.unlink()
        model.symlink_to(outside.secret)
        return real(*arguments)

    monkeypatch.setattr("fedssh.bob.outgoing.seal", swap)
    assert world.outgoing.take_all(RUN) == 1
    assert models_in(world) == {expected}
    assert world.names("outgoing") == [] and outside.is_untouched()


def test_a_model_that_is_swapped_all_the_time(world: World, outside: Outside) -> None:
    """A thread that wants Bob to take the key: a link to it and a good model in turn, as fast as it can."""
    over = threading.Event()
    spare = world.exchange / "spare"
    id = world.publish()
    outgoing = world.exchange / "outgoing"
    model, claim = (outgoing / f"{id}{suffix}" for suffix in (".safetensors", ".json"))
    content, expected, text = model.read_bytes(), files.sha256_file(model), claim.read_bytes()

    def attack() -> None:
        while not over.is_set():
            spare.write_bytes(content)
            os.replace(spare, model)
            spare.symlink_to(outside.secret)
            os.replace(spare, model)

    thread = threading.Thread(target=attack)
    thread.start()
    sealed, end = 0, time.monotonic() + 1
    try:
        while time.monotonic() < end:
            sealed += world.outgoing.take_all(RUN)
            assert models_in(world) <= {expected}
            for entry in world.spool.entries():
                world.spool.remove(entry)
            claim.write_bytes(text)
    finally:
        over.set()
        thread.join()
    assert sealed and outside.is_untouched()
    assert not [kept for kept in (world.exchange / "rejected").glob("*") if kept.stat().st_size == len(content) + 1]


def test_what_is_opened_is_one_plain_file(tmp_path: Path) -> None:
    with SharedFolder(tmp_path / "deep" / "folder") as folder:
        folder.write("a.json", b"old", 0o600)
        folder.write("a.json", b"new", 0o640)
        path = tmp_path / "deep" / "folder" / "a.json"
        assert path.stat().st_mode & 0o777 == 0o640 and folder.read("a.json", 2) == b"ne"
        assert folder.names() == ["a.json"] and folder.names(".x") == []
        with pytest.raises(FileNotFoundError):
            folder.open("b.json")
        os.link(path, tmp_path / "other")
        with pytest.raises(UntrustedError, match=r"'a\.json' has another name as well"):
            folder.open("a.json")
        folder.write("a.json", b"third", 0o640)  # the name is replaced, not what the other name leads to
        assert (tmp_path / "other").read_bytes() == b"new"
        folder.remove("a.json", "never there")
        with pytest.raises(OSError, match="No space"), folder.new():
            raise OSError(28, "No space left on device")
        assert list(path.parent.iterdir()) == []


def test_the_folder_stays_the_one_that_was_opened(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with SharedFolder(tmp_path / "incoming") as folder:
        (tmp_path / "incoming").rename(tmp_path / "moved")
        (tmp_path / "incoming").symlink_to(elsewhere)
        folder.write("a", b"", 0o600)
        folder.sweep()
        folder.remove("b")
    assert not list(elsewhere.iterdir()) and (tmp_path / "moved" / "a").exists()
