"""The way to the coordinator as Alice sees it: whose offers she takes, and when she waits, stops or goes home."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedssh.alice.turn import TurnLost, Way
from fedssh.channel import frames
from fedssh.channel.frames import OFFER
from fedssh.channel.handshake import make_offer, new_key
from fedssh.channel.sockets import listen
from fedssh.errors import UntrustedError
from fedssh.keys import PrivateKey
from fedssh.rules.turns import turn_id
from fedssh.signature import CHANNEL, sign

FIRST, BASE, OTHER, GENESIS = "1" * 64, "2" * 64, "3" * 64, "ab" * 32
POLICY = "split:cut=pool2"


class Turn:
    """Never gets as far as a step."""

    step = 0

    def run(self, line: Any, stop: threading.Event) -> None:
        raise AssertionError("Alice took the offer")


class Bob:
    """Who leads Alice to somebody who offers her a channel; hears what she answers."""

    def __init__(self, exchange: Path, signer: PrivateKey) -> None:
        exchange.mkdir()
        self._server, self._signer = listen(exchange), signer
        self.offered, self.answered = 0, b""
        self.says: dict[str, Any] = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                alice, _ = self._server.accept()
            except OSError:
                return
            said: dict[str, Any] = {
                "federation": "lungs", "genesis": GENESIS, "release": 4, "turn": 2, "site": "alice-1",
                "terms": {"id": turn_id(FIRST, 2, BASE, "alice-1"), "base": BASE, "policy": POLICY},
            }  # fmt: skip
            offer = make_offer(**(said | {"key": new_key().public} | self.says))
            hello = {"challenge": "0" * 64, "offer": offer.decode(), "signature": sign(offer, self._signer, CHANNEL)}
            with alice:
                self.offered += 1
                alice.sendall(frames.plain(OFFER, hello))
                alice.settimeout(5)
                self.answered += alice.recv(1 << 16)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


Bobs = Callable[[str], Bob]


@pytest.fixture
def bobs(tmp_path: Path, keys: dict[str, PrivateKey]) -> Iterator[Bobs]:
    made: list[Bob] = []

    def make(signer: str) -> Bob:
        made.append(Bob(tmp_path / "exchange", keys[signer]))
        return made[-1]

    yield make
    for bob in made:
        bob.close()


def way(exchange: Path, keys: dict[str, PrivateKey], lost: Callable[[], bool]) -> Way:
    terms: Any = SimpleNamespace(
        record=SimpleNamespace(fields={"model": {"sha256": FIRST}}),
        coordinator=keys["coordinator"].public,
        hash=GENESIS,
    )
    received: Any = SimpleNamespace(
        site="alice-1",
        release=SimpleNamespace(sequence=4, model=SimpleNamespace(sha256=BASE)),
        standing=SimpleNamespace(name="lungs", policy=POLICY, started=SimpleNamespace(turns=2)),
    )
    return Way(exchange, terms, received, lost, lambda *words, **fields: None, threading.Event())


def follow(bob: Bob, keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    turn: Any = Turn()
    way(tmp_path / "exchange", keys, lambda: bob.offered > 1).follow(turn)


def test_a_bob_with_exchanged_keys_gets_no_answer(bobs: Bobs, keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    bob = bobs("stranger")
    with pytest.raises(UntrustedError):
        follow(bob, keys, tmp_path)
    assert (bob.offered, bob.answered) == (1, b"")


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"genesis": "cd" * 32}, "is offered for the federation lungs with the genesis cdcd"),
        ({"federation": "hearts"}, "is offered for the federation hearts"),
        ({"terms": {"id": "0" * 16, "base": BASE, "policy": POLICY}}, "is offered with the id '0000"),
        ({"terms": {"id": "0" * 16, "base": OTHER, "policy": POLICY}}, "is offered with the base '3333"),
        ({"terms": {"base": BASE, "policy": "split:cut=pool1"}}, "is offered with the policy 'split:cut=pool1'"),
    ],
)
def test_what_no_honest_coordinator_signs_is_not_taken(
    says: dict[str, Any], reason: str, bobs: Bobs, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    bob = bobs("coordinator")
    bob.says = says
    with pytest.raises(UntrustedError, match=reason):
        follow(bob, keys, tmp_path)
    assert (bob.offered, bob.answered) == (1, b"")


@pytest.mark.parametrize(
    "says",
    [
        {"site": "alice-2"},
        {"turn": 3},
        # rolled back in the midst of the turn; the release that says so is on its way, or was before ours
        {"release": 6, "terms": {"id": turn_id(FIRST, 2, OTHER, "alice-1"), "base": OTHER, "policy": POLICY}},
        {"release": 3, "terms": {"id": turn_id(FIRST, 2, OTHER, "alice-1"), "base": OTHER, "policy": POLICY}},
    ],
)
def test_who_is_offered_another_turn_waits_for_the_release_that_says_so(
    says: dict[str, Any], bobs: Bobs, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    bob = bobs("coordinator")
    bob.says = says
    with pytest.raises(TurnLost):
        follow(bob, keys, tmp_path)
    assert (bob.offered, bob.answered) == (2, b"")
