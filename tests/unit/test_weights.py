"""The model file: what its header may say, and what loads."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedssh import weights
from fedssh.errors import WeightsError
from fedssh.forms import canonical

SPEC = {"name": "mlp", "input": [2], "classes": 2}
TENSORS = {"dense/kernel": np.arange(6, dtype="f4").reshape(2, 3), "dense/bias": np.zeros(3, "f4")}


def write_raw(path: Path, header: Any, body: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def good_header(**changes: Any) -> dict[str, Any]:
    header: dict[str, Any] = {
        "__metadata__": {"format": "fedssh 1", "spec": canonical(SPEC).decode()},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [1, 1], "data_offsets": [8, 12]},
    }
    return header | changes


def test_what_is_written_is_read(tmp_path: Path) -> None:
    header = weights.write_weights(tmp_path / "m", TENSORS, SPEC)
    assert header == weights.read_header(tmp_path / "m")
    assert (header.spec, header.parameters, header.tensors["dense/kernel"]) == (SPEC, 9, (2, 3))
    loaded = weights.read_weights(tmp_path / "m", header.tensors)
    assert all(np.array_equal(loaded[name], TENSORS[name]) for name in TENSORS)
    assert weights.count_non_finite(tmp_path / "m") == 0


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    """Also those of another process and of another layout in memory, or hashes would say that models differ."""
    weights.write_weights(tmp_path / "m", TENSORS, SPEC)
    weights.write_weights(tmp_path / "n", {n: np.asfortranarray(a) for n, a in TENSORS.items()}, SPEC)
    program = "import sys, numpy as np; from pathlib import Path; from fedssh.weights import write_weights; "
    program += "write_weights(Path(sys.argv[1]), {'dense/kernel': np.arange(6, dtype='f4').reshape(2, 3), "
    program += f"'dense/bias': np.zeros(3, 'f4')}}, {SPEC!r})"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "o")], check=True)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "n").read_bytes() == (tmp_path / "o").read_bytes()


def test_tensors_stand_in_build_order(tmp_path: Path) -> None:
    tensors = {"b": np.ones((2, 2), "f4"), "a": np.full(3, 2.0, "f4"), "empty": np.zeros((0, 4), "f4")}
    header = weights.write_weights(tmp_path / "m", tensors, SPEC)
    assert list(header.tensors) == ["b", "a", "empty"]
    assert header.offset % 8 == 0
    assert (tmp_path / "m").read_bytes()[header.offset :] == np.array([1] * 4 + [2] * 3, "<f4").tobytes()
    loaded = weights.read_weights(tmp_path / "m", header.tensors)
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)


def test_mapped_tensors_are_those_of_the_file(tmp_path: Path) -> None:
    tensors = {**TENSORS, "empty": np.zeros((0, 4), "f4"), "scalar": np.array(7.0, "f4")}
    header = weights.write_weights(tmp_path / "m", tensors, SPEC)
    mapped = weights.map_weights(tmp_path / "m", dict(reversed(header.tensors.items())))
    assert list(mapped) == list(tensors)
    for name, array in tensors.items():
        assert type(mapped[name]) is np.ndarray and mapped[name].dtype == np.float32
        assert mapped[name].shape == array.shape and np.array_equal(mapped[name], array)
        assert array.size == 0 or not mapped[name].flags.writeable
    with pytest.raises(KeyError):
        mapped["other"]


def test_mapped_tensors_are_found_by_their_offsets(tmp_path: Path) -> None:
    """A header may name tensors in another order than they lie, and begin them at any byte."""
    changes = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        "b": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]},
    }
    for spaces in range(4):
        text = json.dumps(good_header(**changes)).encode() + b" " * spaces
        path = write_raw(tmp_path / f"m{spaces}", text, np.array([1, 2, 3], "<f4").tobytes())
        mapped = weights.map_weights(path, {"a": (2,), "b": (1, 1)})
        assert list(mapped) == ["b", "a"]
        assert mapped["a"].tolist() == [2, 3] and mapped["b"].tolist() == [[1]]
        loaded = weights.read_weights(path, {"a": (2,), "b": (1, 1)})
        assert all(np.array_equal(loaded[name], mapped[name]) for name in loaded)


def test_only_files_with_the_expected_header_are_mapped(tmp_path: Path) -> None:
    weights.write_weights(tmp_path / "m", TENSORS, SPEC)
    with pytest.raises(WeightsError, match="the tensor other is missing"):
        weights.map_weights(tmp_path / "m", {"other": (1,)})
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-4])
    with pytest.raises(WeightsError, match="its header describes"):
        weights.map_weights(tmp_path / "m", {name: array.shape for name, array in TENSORS.items()})


def test_only_float32_is_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="kernel is float64, expected float32"):
        weights.write_weights(tmp_path / "m", {"kernel": np.zeros(2)}, SPEC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_counted(tmp_path: Path, bad: float) -> None:
    values = np.zeros(3 * 2**18 + 5, "f4")
    values[[0, 2**18, -1]] = bad
    weights.write_weights(tmp_path / "m", {"a": values}, SPEC)
    assert weights.count_non_finite(tmp_path / "m") == 3


BODY = bytes(12)
HEADERS: dict[str, tuple[Any, bytes, int | None]] = {
    "header claims": (good_header(), BODY, 2**63),
    "claims 1,048,577 bytes": (b" " * (2**20 + 1), BODY, None),
    "is not JSON": (b"{", BODY, None),
    "a name stands twice": (b'{"a":1,"a":1}', BODY, None),
    "is not an object": (b"[]", BODY, None),
    "which architecture": (good_header(__metadata__={"format": "fedssh 1"}), BODY, None),
    "this program reads": (good_header(__metadata__={"format": "fedssh 9", "spec": "{}"}), BODY, None),
    "spec is not canonical": (good_header(__metadata__={"format": "fedssh 1", "spec": "{ }"}), BODY, None),
    "'a' is 'F16', expected F32": (good_header(a={"dtype": "F16", "shape": [2], "data_offsets": [0, 8]}), BODY, None),
    "'a' is 'I8'": (good_header(a={"dtype": "I8", "shape": [2], "data_offsets": [0, 8]}), BODY, None),
    "size of its shape": (good_header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), BODY, None),
    "overlap or leave gaps": (good_header(b={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}), BODY, None),
    "absurd numbers": (good_header(a={"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}), BODY, None),
    "'a' has absurd": (good_header(a={"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}), BODY, None),
    "'a' has absurd ": (good_header(a={"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}), BODY, None),
    "not described by": (good_header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": 1}), BODY, None),
    "holds 11 bytes": (good_header(), BODY[:11], None),
    "holds 13 bytes": (good_header(), BODY + b"!", None),
    "spec is not canonical JSON ": (good_header(__metadata__={"format": "fedssh 1", "spec": "\ud800"}), BODY, None),
    "spec is not canonical JSON  ": (good_header(__metadata__={"format": "fedssh 1", "spec": 7}), BODY, None),
    "has format a list, this": (good_header(__metadata__={"format": [], "spec": "{}"}), BODY, None),
    "'a' is a dict, expected F32": (good_header(a={"dtype": {}, "shape": [2], "data_offsets": [0, 8]}), BODY, None),
    "header is not JSON: 'utf-8'": (json.dumps(good_header()).encode("utf-16"), BODY, None),
    "has no tensors": ({"__metadata__": good_header()["__metadata__"]}, b"", None),
}


@pytest.mark.parametrize("message", HEADERS)
def test_a_hostile_header_is_refused_with_its_reason(tmp_path: Path, message: str) -> None:
    header, body, length = HEADERS[message]
    with pytest.raises(WeightsError) as error:
        weights.read_header(write_raw(tmp_path / "m", header, body, length))
    assert message.strip() in str(error.value)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "m", good_header(), BODY)
    with pytest.raises(WeightsError, match="expected at most 100"):
        weights.read_header(path, max_bytes=100)


def test_a_name_that_is_a_shape_of_nothing_else_differs(tmp_path: Path) -> None:
    expected = weights.read_header(write_raw(tmp_path / "m", good_header(), BODY))
    cases = {
        "tensor b is missing": {"a": (2,)},
        "'c' does not belong": {"a": (2,), "b": (1, 1), "c": (1,)},
        "tensor b has shape [1], expected [1, 1]": {"a": (2,), "b": (1,)},
    }
    weights.match(expected, expected)
    for message, tensors in cases.items():
        with pytest.raises(WeightsError) as error:
            weights.match(weights.Header(SPEC, tensors, 0, 0), expected)  # type: ignore[arg-type]
        assert message in str(error.value)
    with pytest.raises(WeightsError, match="the architecture is"):
        weights.match(weights.Header({"name": "cnn"}, expected.tensors, 0, 0), expected)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_still_whole(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a flipped byte does, reading ends in a WeightsError or in a header that fits the file."""
    weights.write_weights(tmp_path / "m", TENSORS, SPEC)
    content = bytearray((tmp_path / "m").read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] = data.draw(st.integers(0, 255))
    (tmp_path / "m").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        header = weights.read_header(tmp_path / "m")
    except WeightsError:
        return
    assert header.offset + 4 * header.parameters == header.size == (tmp_path / "m").stat().st_size
