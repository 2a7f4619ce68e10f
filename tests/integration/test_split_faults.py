"""What may happen to a turn under `split` in real rooms, told as one story: it goes on, begins anew, or passes."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest

from fedssh.channel.handshake import greet
from fedssh.channel.sockets import connect
from fedssh.errors import SettingsError, UnreachableError
from fedssh.keys import load_public
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.split.line import Expected, say
from fedssh.split.talk import Hello, Kind
from fedssh.split.wire import Wire
from tests.attacks.split_kills import POLICY, SPEC
from tests.harness.split import Rooms

pytestmark = pytest.mark.long  # 8 processes, of which 6 are started again
TURN_SECONDS = 8
ONE, TWO, THREE = "alice-1", "alice-2", "alice-3"


class Tale(Rooms):
    """alice-1 has a batch of images, the others have so many that a turn of theirs lasts."""

    def site_images(self, name: str) -> Images:
        number = 8 if name == ONE else 800
        return self.some(number, self.names.index(name))

    def epochs_of(self, site: str) -> list[int]:
        return [int(fields["epoch"]) for fields in self.told("alice", site, "epoch")]

    def trains(self, site: str, more: int = 2) -> None:
        """Wait until a site has ended so many epochs more."""
        had = len(self.epochs_of(site))
        self.until(lambda: len(self.epochs_of(site)) >= had + more)

    def whose(self) -> str:
        return str(self.happened("release")[-1]["federation"]["turn"])

    def passes(self, after: int, site: str) -> dict[str, Any]:
        """The record that a turn of a site's was passed on, once there is one after a record."""

        def found() -> list[dict[str, Any]]:
            events = self.happened("turn-passed")
            return [record for record in events if record["sequence"] > after and record["site"] == site]

        self.until(found)
        return found()[0]

    def stop_charity(self) -> None:
        charity = self.find("charity")
        charity.signal(signal.SIGTERM)
        assert charity.wait(30) and charity.code() == 0
        self.agents.remove(charity)

    @property
    def last(self) -> int:
        return int(self.records()[-1]["sequence"])


@pytest.fixture(scope="module")
def tale(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Tale(tmp_path_factory.mktemp("tale"), POLICY, 3, sessions=9, epochs=60, spec=SPEC) as tale:
        tale.begin()
        tale.start_charity()
        tale.start_door()
        for name in tale.names:
            tale.start_bob(name)
            tale.start_alice(name)
        tale.until(lambda: tale.happened("report"))
        tale.trains(TWO)
        yield tale


def test_a_second_alice_of_a_site_is_refused(tale: Tale) -> None:
    folder = tale.site(TWO)
    words = (f"--state={folder / 'alice'}", f"--exchange={folder / 'exchange'}", f"--data={folder / 'data/site.npz'}")
    with pytest.raises(SettingsError, match="another"):
        tale.command("alice", "train", *words)
    tale.trains(TWO)


def test_a_coordinator_that_is_stopped_in_the_midst_of_a_turn_goes_on(tale: Tale) -> None:
    before, last = tale.epochs_of(TWO)[-1], tale.last
    tale.stop_charity()
    tale.start_charity()
    number = len(tale.epochs_of(TWO))
    tale.trains(TWO)
    assert all(epoch >= before for epoch in tale.epochs_of(TWO)[number:])
    assert tale.last == last  # nothing of it is worth a record


def test_a_site_with_other_images_after_a_restart_begins_its_turn_anew(tale: Tale) -> None:
    tale.kill_alice(TWO)
    last, number = tale.last, len(tale.epochs_of(TWO))
    datasets.save(tale.site(TWO) / "data/site.npz", {"train": tale.some(790, 7), "val": tale.some(12, 92)})
    tale.start_alice(TWO)
    tale.trains(TWO)
    assert tale.epochs_of(TWO)[number:][:2] == [1, 2]
    assert tale.last == last


def test_a_rollback_in_the_midst_of_a_turn_begins_it_anew(tale: Tale) -> None:
    assert tale.happened("accepted")
    tale.command("charity", "rollback", tale.state, "1", "--reason=to see")
    tale.until(lambda: tale.told("alice", TWO, "turn-lost"))
    number = len(tale.epochs_of(TWO))
    tale.trains(TWO)
    assert tale.epochs_of(TWO)[number:][:2] == [1, 2]
    assert tale.whose() == TWO


def test_what_is_not_as_agreed_is_recorded_and_the_turn_passes(tale: Tale) -> None:
    tale.kill_alice(TWO)
    last = tale.last
    channel = None

    def offered() -> bool:
        nonlocal channel
        coordinator = load_public(tale.coordinator / "vault/coordinator_key.pub").line
        try:
            _, channel = greet(connect(tale.site(TWO) / "exchange"), coordinator, lambda offer: None, 20)
        except UnreachableError:
            return False
        return True

    tale.until(offered)
    assert channel is not None
    with channel:
        say(channel, Kind.HELLO, Hello(session=1, seed=1, examples=8, epochs=60, steps=1, live=None, kept=()))
        channel.receive(Expected(0, {Kind.STAND: (0, 0, -4096)}), 20)
        channel.receive(Expected(0, {Kind.STATE: (0, 0, -(1 << 20))}), 20)
        features, labels = np.full((8, SPEC["width"]), np.nan, np.float32), np.zeros(8, "<i4")
        channel.send(Kind.FORWARD, features.tobytes(), labels.tobytes(), dtype=Wire.f32, rows=8, step=1)
        header, body = channel.receive(Expected(0, {}), 20)
        assert (header.kind, b"what came in step 1 is not finite" in bytes(body)) == (Kind.FAULT, True)
    record = tale.passes(last, TWO)
    (invalid,) = [found for found in tale.happened("invalid") if found["sequence"] > last]
    assert (invalid["site"], invalid["reason"]) == (TWO, "what came in step 1 is not finite")
    assert record["reason"] == invalid["reason"]
    tale.until(lambda: tale.whose() == THREE)
    tale.trains(THREE)


def test_the_turn_of_a_site_that_is_silent_passes(tale: Tale) -> None:
    last = tale.last
    tale.kill(THREE)
    tale.stop_charity()
    tale.start_charity(f"--turn-timeout={TURN_SECONDS}")
    assert tale.passes(last, THREE)["reason"] == f"nothing heard for {TURN_SECONDS} s"
    tale.stop_charity()
    tale.start_charity()
    tale.command("charity", "nodes", "revoke", tale.state, THREE)


def test_a_site_that_is_revoked_in_its_turn_goes_home_and_the_turn_passes(tale: Tale) -> None:
    tale.until(lambda: tale.whose() == TWO)
    tale.start_alice(TWO)
    tale.trains(TWO, 1)
    tale.command("charity", "nodes", "revoke", tale.state, TWO)
    trainer = tale.find("alice", TWO)
    tale.until(lambda: trainer.code() == 0)
    tale.until(lambda: tale.whose() != TWO)
    tale.command("charity", "verify", tale.state)
