"""Given weights: what a file gives to an architecture, and every file that must be refused in one line."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.charity.judge.starting_weights import read_given
from fedssh.errors import SettingsError
from fedssh.weights import write_weights

SPEC = {"name": "mlp", "depth": 1, "width": 3, "input": [4, 4, 1], "classes": 2}
SHAPES = {"dense1/kernel": (16, 3), "dense1/bias": (3,), "output/kernel": (3, 1), "output/bias": (1,)}
RANDOM = np.random.default_rng(0)
WEIGHTS = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def arrays_of(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {":".join(name.rsplit("/", 1)): array for name, array in tensors.items()}


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


class Bomb:
    """Something whose unpickling would be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def claiming(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """An array file that claims a shape and has no content."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def swollen(path: Path) -> Path:
    """A zip of few bytes whose only member says that it unpacks to 4 GB."""
    archive(path, {"dense1:bias.npy": claiming((3,)) + bytes(12)})
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    path.write_bytes(content[: at + 24] + struct.pack("<I", 0xF0000000) + content[at + 28 :])
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def model_file(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    write_weights(path, tensors, SPEC)
    return path


NAN = {**WEIGHTS, "dense1/bias": np.array([1, np.nan, np.inf], np.float32)}
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda at: at / "gone.npz", r"gone\.npz is no file"),
    "a folder": (lambda at: at, r"is no file"),
    "another ending": (lambda at: raw(at / "a.keras", b""), r"must end in \.safetensors, \.npz or \.h5"),
    "no zip": (lambda at: raw(at / "a.npz", b"\x80\x04pickle"), r"is no readable \.npz file"),
    "a single array": (lambda at: raw(at / "a.npz", claiming((3,)) + bytes(12)), r"is no readable \.npz file"),
    "objects": (
        lambda at: npz(at / "a.npz", {"dense1:bias": np.array([Bomb(at / "exploded")] * 3, dtype=object)}),
        "dense1:bias holds Python objects, which are never read",
    ),
    "an object among floats": (
        lambda at: npz(at / "a.npz", arrays_of(WEIGHTS) | {"x": np.array([Bomb(at / "exploded")], dtype=object)}),
        "x holds Python objects",
    ),
    "a pickle as a member": (
        lambda at: archive(at / "a.npz", {"dense1:bias.npy": b"\x80\x04K\x01."}),
        r"is no readable \.npz file",
    ),
    "no array as a member": (lambda at: archive(at / "a.npz", {"run.sh": b""}), r"run\.sh stands twice or is no array"),
    "whole numbers": (lambda at: npz(at / "a.npz", {"dense1:bias": np.arange(3)}), "dense1:bias is int64; expected fl"),
    "not finite": (lambda at: npz(at / "a.npz", arrays_of(NAN)), "2 of 3 values of dense1/bias are not finite"),
    "too large for float32": (
        lambda at: npz(at / "a.npz", {"dense1:bias": np.full(3, 1e300)}),
        "3 of 3 values of dense1/bias are not finite",
    ),
    "a claim of 10 GB in a header": (
        lambda at: archive(at / "a.npz", {"dense1:bias.npy": claiming((2_500_000_000,))}),
        r"claims \(2500000000,\) float32, but has",
    ),
    "a claim of 4 GB in the zip": (lambda at: swollen(at / "a.npz"), r"claims 4,026,531,840 bytes in 1 arrays"),
    "a negative shape": (
        lambda at: archive(at / "a.npz", {"a.npy": claiming((-1, -3)) + bytes(12)}),
        r"claims \(-1, -3\) float32",
    ),
    "a name twice": (
        lambda at: npz(at / "a.npz", {"dense1:bias": np.zeros(3), "dense1/bias": np.zeros(3)}),
        "has the tensor dense1/bias twice",
    ),
    "nothing": (lambda at: archive(at / "a.npz", {}), "fits none of the 4 tensors"),
    "a terminal's commands": (lambda at: npz(at / "a.npz", {"\x1b[2J:x": np.zeros(3)}), r"it has \?\[2J:x$"),
    "a model that is not finite": (
        lambda at: model_file(at / "a.safetensors", NAN),
        "2 of 3 values of dense1/bias are not finite",
    ),
    "another architecture": (
        lambda at: model_file(at / "a.safetensors", {"conv1/kernel": np.zeros((3, 3), np.float32)}),
        r"a\.safetensors fits none of the 4 tensors of the architecture, it has conv1/kernel",
    ),
    "no model file": (lambda at: raw(at / "a.safetensors", b"garbage"), r"a\.safetensors: the model file"),
    "a model file cut short": (
        lambda at: raw(at / "a.safetensors", model_file(at / "b.safetensors", WEIGHTS).read_bytes()[:-4]),
        "its header describes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_give_no_weights_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    with pytest.raises(SettingsError, match=message) as caught:
        read_given(make(tmp_path), SHAPES)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    array = np.arange(10_000, dtype=np.float32)
    path = npz(tmp_path / "a.npz", {"large:kernel": array})
    content = path.read_bytes()
    at = content.index(array.tobytes()) + 20_000
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(SettingsError, match="large:kernel cannot be read"):
        read_given(path, {"large/kernel": (10_000,)})


def test_slashes_in_the_names_of_layers_become_underlines(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", {"fire2/squeeze:kernel": np.ones(2), "inner/dense:bias": np.ones(3)})
    found = read_given(path, {"fire2_squeeze/kernel": (2,), "inner/dense/bias": (3,)})
    assert list(found.tensors) == ["fire2_squeeze/kernel", "inner/dense/bias"]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", {f"extra{number}:x": np.ones(1) for number in range(9)} | {"a:b": np.ones(1)})
    expected = {"a/b": (1,)} | {f"missing{number}/y": (1,) for number in range(7)}
    told = read_given(path, expected).told("FILE")
    assert told.startswith("1 of 8 tensors come from FILE; missing0/y, ")
    assert "missing5/y and 1 more keep random weights" in told
    assert told.endswith("extra5/x and 3 more")


def squeezed(path: Path, method: int) -> Path:
    """Many zeros in few bytes, so that every kind of decompressor runs."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("dense1:bias.npy", claiming((3,)) + bytes(12))
        file.writestr("large:kernel.npy", claiming((10_000,)) + np.arange(10_000, dtype="<f4").tobytes())
    return path


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "stored": lambda at: squeezed(at / "a.npz", zipfile.ZIP_STORED),
    "deflated": lambda at: squeezed(at / "a.npz", zipfile.ZIP_DEFLATED),
    "bzip2": lambda at: squeezed(at / "a.npz", zipfile.ZIP_BZIP2),
    "lzma": lambda at: squeezed(at / "a.npz", zipfile.ZIP_LZMA),
    "a model": lambda at: model_file(at / "a.safetensors", WEIGHTS),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line_wherever_it_is_damaged(kind: str, tmp_path: Path) -> None:
    path = DAMAGED[kind](tmp_path)
    whole = path.read_bytes()
    expected = SHAPES if kind == "a model" else {"dense1/bias": (3,), "large/kernel": (10_000,)}
    random = np.random.default_rng(1)
    edges = [*range(0, min(300, len(whole)), 3), *range(max(0, len(whole) - 300), len(whole), 3)]
    refused = []
    for at in (*edges, *random.integers(0, len(whole), 60).tolist()):
        swapped = bytes([random.integers(0, 256)])
        for damaged in (whole[:at] + swapped + whole[at + 1 :], whole[:at]):
            path.write_bytes(damaged)
            try:
                read_given(path, expected)
            except SettingsError as error:
                refused.append(str(error))
    assert len(refused) > 200 and not any("\n" in text for text in refused)


def header_of(text: bytes) -> bytes:
    """An array file with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(12)


@pytest.mark.parametrize(
    "member",
    [
        header_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,"),  # numpy asks tokenize
        header_of(b"(" * 500),
        header_of(b"{'descr': 'x', 'fortran_order': False, 'shape': (3,)}"),
        header_of(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1e9,)}"),
        header_of(b"\x00\xff"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b" " * 1000,
        b"\x93NUMPY\x03\x00" + bytes(100),
        b"\x93NUMPY\x01",
        b"",
    ],
)
def test_a_damaged_header_is_refused_in_one_line(member: bytes, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a\.npz") as caught:
        read_given(archive(tmp_path / "a.npz", {"dense1:bias.npy": member}), SHAPES)
    assert "\n" not in str(caught.value)
