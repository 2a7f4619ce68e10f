"""Files are whole or absent."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from fedssh import files
from fedssh.errors import SettingsError, UntrustedError


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with files.whole_file(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    files.write_whole(target, b"old")

    def fail() -> None:
        with files.whole_file(target) as file:
            file.write(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_moving_across_file_systems_copies_and_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a", tmp_path / "there" / "b"
    target.parent.mkdir()
    source.write_bytes(b"bundle")
    replace = os.replace

    def other_volume(old: Path, new: Path) -> None:
        if Path(old) == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(os, "replace", other_volume)
    files.move_whole(source, target)
    assert target.read_bytes() == b"bundle"
    assert not source.exists()


def test_sweep_removes_only_what_killed_writers_left(tmp_path: Path) -> None:
    part = files.part_of(tmp_path / "a")
    part.write_bytes(b"half")
    (tmp_path / "b").write_bytes(b"whole")
    (tmp_path / ".hidden").write_bytes(b"not ours")
    assert files.is_part(part)
    files.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "b"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_what_another_room_laid_down_is_read_from_one_open_file(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(b"as it was")
    with files.open_shared(path, 100) as file:
        path.unlink()
        path.symlink_to("/etc/passwd")
        assert file.read() == b"as it was"


def test_links_fifos_devices_and_folders_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the path of a socket may have few letters only
        listening.bind("socket")
    what = {"link": "a link", "zero": "a link", "fifo": "a FIFO", "folder": "a folder", "socket": "a socket"}
    for name, kind in what.items():
        with pytest.raises(UntrustedError, match=f"{name} is not a file that can be read: it is {kind}$"):
            files.read_shared(tmp_path / name, 1 << 20)
        with pytest.raises(UntrustedError, match=f"{name} is not a file that can be read: it is {kind}$"):
            files.open_regular(tmp_path / name)
    with pytest.raises(UntrustedError, match=r"it is a device$"):
        files.open_regular(Path("/dev/zero"))


def test_a_file_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(12 << 30)
    with pytest.raises(UntrustedError, match="has 12,884,901,888 bytes, expected at most 1,024"):
        files.open_shared(path, 1024)
    path.write_bytes(b"0123456789")
    assert files.read_shared(path, 10) == b"0123456789"


def test_a_shared_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "note").write_bytes(b"text")
    (tmp_path / "linked").symlink_to(real)
    (tmp_path / "plain").write_bytes(b"")
    for name, what in (("linked", "a link"), ("plain", "no folder")):
        with pytest.raises(SettingsError, match=f"{name} is {what}"):
            files.check_folder(tmp_path / name)
        with pytest.raises(SettingsError, match=f"{name} is {what}"):
            files.open_shared(tmp_path / name / "note", 100)
    files.check_folder(real)
    with pytest.raises(FileNotFoundError):
        files.read_shared(real / "gone", 100)


def test_a_file_is_looked_up_in_the_folder_that_is_held(tmp_path: Path) -> None:
    held, other = tmp_path / "held", tmp_path / "other"
    for folder in (held, other):
        folder.mkdir()
        (folder / "note").write_bytes(folder.name.encode())
    handle = os.open(held, os.O_RDONLY | os.O_DIRECTORY)
    try:
        held.rename(tmp_path / "moved")
        held.symlink_to(other)
        with files.open_regular(held / "note", folder=handle) as file:
            assert file.read() == b"held"
        with pytest.raises(FileNotFoundError) as caught:
            files.open_regular(held / "gone", folder=handle)
        assert caught.value.filename == str(held / "gone")
    finally:
        os.close(handle)
    with files.open_regular(held / "note", 5) as file:  # a person said where: only the last part may be no link
        assert file.read() == b"other"
    with pytest.raises(UntrustedError, match="has 5 bytes, expected at most 4"):
        files.open_regular(held / "note", 4)


def test_a_name_that_a_terminal_would_act_on_is_written_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J\n").mkdir()
    with pytest.raises(UntrustedError, match="is not a file that can be read: it is a folder") as caught:
        files.open_regular(tmp_path / "a\x1b[2J\n")
    assert str(caught.value).isprintable()
