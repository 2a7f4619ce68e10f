"""Whoever carries a turn under `split` sees all of its bytes, and in none of them an image, a label or what passes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.alice.fitting import epoch_order
from fedssh.channel.sealed import Channel
from fedssh.keys import PrivateKey
from fedssh.models.data.images import Images
from fedssh.models.training import resident
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.site import SiteTurn
from fedssh.split.turn import Agreed
from tests.harness.channel import Spy, Way

# A network whose first layer passes pixels on as they are, the plainest thing that could leave a site.
SPEC = models.check_spec({"name": "mlp", "width": 16, "depth": 1, "input": [4, 4, 1], "classes": 3})
CANARY = np.array([0.125, 0.625, 0.3125, 0.6875] * 4, np.float32)


class Opened:
    """A channel of which is kept what goes into it, before it is sealed."""

    def __init__(self, inner: Channel) -> None:
        self._inner = inner
        self.close, self.receive = inner.close, inner.receive
        self.said = bytearray()

    def send(self, kind: int, *body: Any, **head: int) -> None:
        self.said += b"".join(bytes(one) for one in body)
        self._inner.send(kind, *body, **head)

    sent = property(lambda self: self._inner.sent)
    received = property(lambda self: self._inner.received)


@pytest.mark.parametrize("door", [pytest.param("sshd", marks=pytest.mark.sshd), "embedded"])
def test_no_pixel_and_no_label_is_in_what_is_carried(door: str, keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    plan = Plan(batch_size=8, epochs=2, patience=10, optimizer="sgd", learning_rate=1e-9, loss="auto")
    agreed = Agreed(SPEC, plan, read_policy("split:cut=dense1,wire=f32"))
    weights = models.get_weights(models.build(SPEC))
    weights["dense1/kernel"], weights["dense1/bias"] = np.eye(16, dtype=np.float32), np.zeros(16, np.float32)
    examples = resident(Images(np.tile(CANARY, 20).reshape(20, 4, 4, 1), np.full(20, 2)))
    site = SiteTurn(
        agreed, "a" * 16, weights, examples, lambda epoch: epoch_order(1, epoch, 20), 1, 1, tmp_path / "alice"
    )
    coordinator = CoordinatorTurn(agreed, "a" * 16, weights, None, tmp_path / "judge")
    at_bob, at_the_door = Spy(), Spy()
    with Way(tmp_path / "way", keys, door).open() as way:
        judge, alice = way.meet(at_bob, at_the_door)
        opened = Opened(alice)
        thread = threading.Thread(target=coordinator.serve, args=(judge,))
        thread.start()
        site.run(opened)
        thread.join(30)
    assert coordinator.ended
    labels = np.full(4, 2, "<i4").tobytes()
    pixels = (CANARY.tobytes()[:16], CANARY.astype("<f2").tobytes(), np.rint(CANARY * 255).astype("u1").tobytes())
    assert pixels[0] in opened.said and labels in opened.said  # they do leave, sealed
    for spy in (at_bob, at_the_door):
        assert len(spy.seen) > len(opened.said)  # all of it was seen
        assert not [secret for secret in (*pixels, labels) if secret in spy.seen]
