"""Files are whole or absent."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from agents import files


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
    with pytest.raises(RuntimeError), files.whole_file(target) as file:
        file.write(b"half of the ne")
        raise RuntimeError
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
