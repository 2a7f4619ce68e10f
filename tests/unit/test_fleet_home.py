"""What is kept at home: the mark of data, its archive, pinned keys, the lock; and the key a machine is born with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fedssh.errors import AgentError, SettingsError
from fleet.home import Home, mark_of, pack
from fleet.inventory import Inventory
from fleet.pins import Pins, born_with, user_data


def packed(path: Path) -> dict[str, bytes]:
    """What comes out of the archive of a file or a folder, by name."""
    sink = io.BytesIO()
    pack(path, sink)
    sink.seek(0)
    with tarfile.open(fileobj=sink) as archive:
        members = archive.getmembers()
        assert all(one.isreg() and (one.uid, one.uname, one.mtime) == (0, "", 0) for one in members)
        return {one.name: archive.extractfile(one).read() for one in members}  # type: ignore[union-attr]


ODD = ["plain.png", "two words.png", "new\nline", "-x", "…", "*", "$(x)", ".hidden", "deep/er/one.png", "x" * 200]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ODD:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"12")
    assert packed(tmp_path / "a.npz") == {"a.npz": b"12"}
    first = mark_of(tmp_path / "a.npz")
    assert first == mark_of(tmp_path / "a.npz") and len(first) == 64
    (tmp_path / "b.npz").write_bytes(b"12")
    (tmp_path / "a.npz").write_bytes(b"13")
    assert len({first, mark_of(tmp_path / "a.npz"), mark_of(tmp_path / "b.npz")}) == 3


def test_a_folder_with_odd_names(folder: Path) -> None:
    assert packed(folder) == {name: name.encode() for name in ODD}


def test_a_name_that_is_no_text(folder: Path) -> None:
    before = mark_of(folder)
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).touch()
    except OSError:
        pytest.skip("this file system takes names of text only")
    assert mark_of(folder) != before and len(packed(folder)) == len(ODD) + 1


def test_the_mark_does_not_depend_on_the_order_in_which_files_came(folder: Path, tmp_path: Path) -> None:
    for name in reversed(ODD):
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert mark_of(folder) == mark_of(tmp_path / "copy")


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: (folder / "plain.png").write_text("other"),
    lambda folder: (folder / "plain.png").rename(folder / "other.png"),
    lambda folder: (folder / "plain.png").rename(folder / "deep" / "plain.png"),
    lambda folder: (folder / "plain.png").unlink(),
    lambda folder: (folder / "more.png").touch(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_in_a_folder_changes_its_mark(folder: Path, change: Callable[[Path], object]) -> None:
    before = mark_of(folder)
    change(folder)
    assert mark_of(folder) != before


def test_links_to_files_are_what_they_lead_to_and_others_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("x")
    (folder / "link.png").symlink_to(folder / "plain.png")
    (folder / "broken").symlink_to(tmp_path / "gone")
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    assert set(packed(folder)) == {*ODD, "link.png"} and packed(folder)["link.png"] == b"plain.png"
    before = mark_of(folder)
    (folder / "link.png").unlink()
    assert mark_of(folder) != before


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "only" / "folders").mkdir(parents=True)
    for use in (mark_of, packed):
        with pytest.raises(SettingsError, match="data has no file in it"):
            use(tmp_path / "data")


def test_what_cannot_be_read(folder: Path) -> None:
    (folder / "bad").symlink_to("/proc/self/mem")  # which nobody can read at 0
    if not (folder / "bad").exists():
        pytest.skip("no /proc here")
    with pytest.raises(SettingsError, match="data/bad cannot be read: Input/output error"):
        mark_of(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(folder: Path) -> None:
    (folder / "deep").chmod(0)
    with pytest.raises(SettingsError, match="deep cannot be read: Permission denied"):
        mark_of(folder)
    (folder / "deep").chmod(0o700)


# Pinned keys


def test_keys_are_pinned_replaced_and_forgotten(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    assert pins.of("a") == []
    pins.pin("a", ["ssh-ed25519 A"])
    pins.pin("b", ["ssh-ed25519 B", "ssh-ed25519 C"])
    assert pins.known_hosts.read_text() == "a ssh-ed25519 A\nb ssh-ed25519 B\nb ssh-ed25519 C\n"
    assert Pins(tmp_path).of("b") == ["ssh-ed25519 B", "ssh-ed25519 C"]
    pins.pin("b", ["ssh-ed25519 C"])
    pins.pin("a", [])
    pins.pin("nobody", [])
    assert pins.known_hosts.read_text() == "b ssh-ed25519 C\n" and pins.of("a") == []
    assert json.loads((tmp_path / "pins.json").read_text()) == {"b": ["ssh-ed25519 C"]}


def test_several_pin_at_once(tmp_path: Path) -> None:
    """Threads of one command, and another command beside it."""
    other = "import sys; from pathlib import Path; from fleet.pins import Pins; pins = Pins(Path(sys.argv[1]))"
    program = f"{other}\nfor number in range(20): pins.pin(f'other-{{number}}', ['key'])"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as process:
        pins = Pins(tmp_path)
        threads = [threading.Thread(target=pins.pin, args=(f"own-{number}", ["key"])) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert process.returncode == 0
    wanted = {f"{who}-{number}" for who in ("own", "other") for number in range(20)}
    assert set(json.loads((tmp_path / "pins.json").read_text())) == wanted
    assert {line.split()[0] for line in pins.known_hosts.read_text().splitlines()} == wanted


DAMAGED = [b"", b"{", b"[]", b"5", b'{"a": "key"}', b'{"a": [1]}', b'{"a": null}', b"\xff"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_no_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pins.json").write_bytes(content)
    pins = Pins(tmp_path)
    with pytest.raises(SettingsError, match=r"pins\.json is damaged: ") as caught:
        pins.of("a")
    assert "it pins the machines' keys" in (caught.value.hint or "")
    with pytest.raises(SettingsError, match="is damaged"):
        pins.pin("a", ["key"])
    assert (tmp_path / "pins.json").read_bytes() == content


def test_what_was_pinned_when_the_disk_was_full_is_pinned_again(tmp_path: Path) -> None:
    """`ssh` reads known_hosts: what stands in pins.json must stand there, too."""
    pins = Pins(tmp_path)
    pins.known_hosts.mkdir()  # nothing can be renamed to that
    with pytest.raises(OSError, match="known_hosts"):
        pins.pin("a", ["ssh-ed25519 A"])
    pins.known_hosts.rmdir()
    assert pins.of("a") == []
    pins.pin("a", ["ssh-ed25519 A"])
    assert pins.known_hosts.read_text() == "a ssh-ed25519 A\n"


# The folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(Inventory(tmp_path / "fleet.toml", "chest-xrays", ()))


def test_what_is_made_is_for_nobody_else_and_not_for_git(home: Home, tmp_path: Path) -> None:
    home.make()
    home.make()
    assert home.path == tmp_path / "chest-xrays.fleet" and (home.path / ".gitignore").read_text() == "*\n"
    assert {path.name: path.stat().st_mode & 0o777 for path in (home.path, *home.path.iterdir()) if path.is_dir()} == {
        "chest-xrays.fleet": 0o700, "keys": 0o700, "invitations": 0o700, "backups": 0o700,
    }  # fmt: skip
    assert home.backup("a", "20260901T000000Z") == home.path / "backups" / "a-20260901T000000Z.tar.age"


def test_a_second_holder_of_the_lock_is_told_of_the_first(home: Home) -> None:
    with home.locked():
        with pytest.raises(AgentError, match=r"works on chest-xrays\.fleet") as caught, home.locked():
            pass
        assert type(caught.value) is AgentError and caught.value.hint == "wait for it"
    with home.locked():
        pass


def test_the_lock_is_free_after_an_error_and_after_a_kill(home: Home) -> None:
    with pytest.raises(KeyError), home.locked():
        raise KeyError
    program = (
        "import sys; from pathlib import Path; from fleet.home import Home; from fleet.inventory import Inventory\n"
        "with Home(Inventory(Path(sys.argv[1]), 'chest-xrays', ())).locked(): print(1, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(home.path.parent / "fleet.toml")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"1\n"
        with pytest.raises(AgentError), home.locked():
            pass
        holder.kill()
    with home.locked():
        pass


# The key that a machine is born with


def test_cloud_init_gets_the_key_that_is_pinned(tmp_path: Path) -> None:
    private, public = born_with()
    first, _, rest = user_data(private, public).partition("\n")
    config = json.loads(rest)  # which is YAML, too
    assert first == "#cloud-config" and config["ssh_pwauth"] is False and config["ssh_deletekeys"] is True
    assert config["ssh_genkeytypes"] == [] and config["ssh_keys"]["ed25519_public"] == public
    (tmp_path / "key").write_text(config["ssh_keys"]["ed25519_private"])
    (tmp_path / "key").chmod(0o600)
    said = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "key"], capture_output=True, text=True, check=True
    ).stdout
    assert said.split()[:2] == public.split()[:2] and said.startswith("ssh-ed25519 ")


def test_user_data_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    private, public = born_with()
    assert yaml.safe_load(user_data(private, public))["ssh_keys"]["ed25519_private"] == private


def test_every_machine_has_another_key() -> None:
    assert len({key for _ in range(3) for key in born_with()}) == 6


def test_a_link_in_the_place_of_a_folder_is_not_followed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious.json").write_text("{}")
    home.path.mkdir()
    (home.path / "invitations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="invitations is a link, expected a folder"):
        home.make()
    assert (tmp_path / "elsewhere" / "precious.json").exists()
