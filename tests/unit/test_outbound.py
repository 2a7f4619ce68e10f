"""What a turn is about to send outlives a kill, and is not taken for another turn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedssh.alice.turn import Outbound
from fedssh.manifest import Claim, new_id, now
from fedssh.rules.events import Local

SPEC = {"name": "mlp", "input": [2, 2, 1], "classes": 2}
LAYERS = {"dense1/kernel": np.arange(8, dtype=np.float32).reshape(4, 2)}
CLAIM = Claim(
    id=new_id(), architecture="a" * 64, builds_on=7, session=3, epoch=2, examples=100, metrics=Local(0.5, 0.75),
    started=now(), created=now(),
)  # fmt: skip


@pytest.fixture
def outbound(tmp_path: Path) -> Outbound:
    found = Outbound(tmp_path, "g" * 64)
    found.write(5, CLAIM, LAYERS, SPEC)
    return found


def test_it_is_there_for_its_own_turn_only(outbound: Outbound, tmp_path: Path) -> None:
    found = outbound.read(5)
    assert found is not None
    claim, layers = found
    assert claim == CLAIM
    assert layers["dense1/kernel"].tolist() == LAYERS["dense1/kernel"].tolist()
    assert outbound.read(6) is None
    assert outbound.read(None) is None
    assert Outbound(tmp_path, "h" * 64).read(5) is None


def test_what_was_cut_short_or_is_over_is_not_there(outbound: Outbound, tmp_path: Path) -> None:
    note = (tmp_path / "claim.json").read_bytes()
    for damaged in (b"", note[:-5], b"[]", note.replace(b'"turns":5', b'"turns":"5"')):
        (tmp_path / "claim.json").write_bytes(damaged)
        assert outbound.read(5) is None
    (tmp_path / "claim.json").write_bytes(note)
    (tmp_path / "layers.safetensors").write_bytes(b"x")
    assert outbound.read(5) is None
    outbound.forget()
    outbound.forget()
    assert list(tmp_path.iterdir()) == []
