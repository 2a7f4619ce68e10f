"""Manifests: one serialisation, every field checked."""

import dataclasses
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh import manifest as m
from fedssh.errors import BundleError
from fedssh.forms import canonical, parse
from fedssh.rules.events import Blob, Local, Spent

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def submission(**changes: Any) -> m.Submission:
    values: dict[str, Any] = {
        "id": m.new_id(),
        "sender": "alice-1",
        "recipients": ["SHA256:" + "A" * 43],
        "model": Blob("a" * 64, 100),
        "sealed": Blob("b" * 64, 200),
        "architecture": "c" * 64,
        "builds_on": 1,
        "session": 1,
        "epoch": 4,
        "examples": 1400,
        "metrics": Local(0.2, 0.9),
        "started": m.now(),
        "created": m.now(),
    }
    return m.Submission(**values | changes)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_canonical_is_its_own_inverse(value: dict[str, Any]) -> None:
    assert parse(canonical(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"[]",
            b"1",
            b"{} ",
            b'{"b":1,"a":2}',
            b'{"a": 1}',
            b'{"a":1,"a":1}',
            b"\xef\xbb\xbf{}",
            b'{"a":"\xff"}',
        ),
        *(b'{"a":NaN}', b'{"a":1e999}', b'{"a":1.0e0}', b'{"a":"\\u0041"}', b'{"a":"\\ud800"}'),
        b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"' + b"a" * 70000 + b'":1}',
    ],
)
def test_anything_but_the_canonical_form_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse(data)


def test_a_submission_round_trips() -> None:
    sent = submission()
    assert m.Submission.from_bytes(sent.to_bytes()) == sent
    assert json.loads(sent.to_bytes())["kind"] == "submission"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "release"}, "is of kind 'release', expected 'submission'"),
        ({"format": 2}, "has format 2, this program reads format 1"),
        ({"format": True}, "has format True"),
        ({"sender": "../alice"}, "'sender' is '../alice'"),
        ({"sender": "Alice"}, "'sender' is 'Alice'"),
        ({"id": "../../etc/passwd"}, "'id' is"),
        ({"id": str(uuid.uuid4())}, "'id' is"),
        ({"epoch": -1}, "'epoch' of the manifest is -1"),
        ({"epoch": 1.5}, "'epoch' of the manifest is 1.5"),
        ({"epoch": True}, "'epoch' of the manifest is True"),
        ({"examples": 2**60}, "'examples' of the manifest"),
        ({"recipients": []}, "'recipients' of the manifest"),
        ({"recipients": ["me"]}, "'recipients' is 'me'"),
        ({"model": {"sha256": "A" * 64, "size": 1}}, "'sha256' is"),
        ({"model": {"sha256": "a" * 64}}, "lacks 'size'"),
        ({"model": 3}, "'model' of the manifest is not an object"),
        ({"metrics": {"loss": "low", "accuracy": 1}}, "'loss' of the manifest is low"),
        ({"created": "yesterday"}, "'created' is"),
        ({"comment": "hello"}, "has the unknown field 'comment'"),
    ],
)
def test_a_field_out_of_form_is_named(change: dict[str, Any], message: str) -> None:
    value = json.loads(submission().to_bytes()) | change
    with pytest.raises(BundleError) as error:
        m.Submission.from_bytes(canonical(value))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(m.Submission) if f.name != "privacy"] + ["kind", "format"]
)
def test_a_missing_field_is_an_error(field: str) -> None:
    value = json.loads(submission().to_bytes())
    del value[field]
    with pytest.raises(BundleError):
        m.Submission.from_bytes(canonical(value))


SPENT = Spent(
    unit="image", sampling="poisson", clip=1.0, noise=1.1, rate=0.05, steps=19, delta=1e-5, spent=0.5, next=0.6,
    budget=8.0,
)  # fmt: skip


def test_what_was_spent_is_read_as_it_was_said() -> None:
    said = dataclasses.replace(submission(), metrics=None, privacy=SPENT)
    assert m.Submission.from_bytes(said.to_bytes()) == said
    plain = json.loads(submission().to_bytes())
    assert "privacy" not in plain, "where none was agreed, a submission is the same bytes as ever"
    for name, wrong in (("unit", "site"), ("sampling", "shuffled"), ("steps", 1.5), ("spent", None), ("rate", "x")):
        value = plain | {"privacy": SPENT.fields() | {name: wrong}}
        with pytest.raises(BundleError, match=name):
            m.Submission.from_bytes(canonical(value))
    less = {name: one for name, one in SPENT.fields().items() if name != "noise"}
    with pytest.raises(BundleError, match="lacks 'noise'"):
        m.Submission.from_bytes(canonical(plain | {"privacy": less}))


def test_ids_are_uuid7_in_order_of_time() -> None:
    ids = [m.new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(uuid.UUID(i).version == 7 and uuid.UUID(i).variant == uuid.RFC_4122 for i in ids)
    milliseconds = [uuid.UUID(i).int >> 80 for i in ids]
    assert milliseconds == sorted(milliseconds)
