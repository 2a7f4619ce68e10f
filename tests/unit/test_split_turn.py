"""A turn in two rooms over a real sealed channel: what is learned, and that nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.alice.fitting import epoch_order
from fedssh.alice.watched import watched
from fedssh.channel.sealed import Channel
from fedssh.errors import ChannelError, UnreachableError
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident
from fedssh.rules.costs import FRAME_BYTES, Piece, Split, client_bytes
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.line import FaultSaidError, Line, NotAgreedError
from fedssh.split.site import DivergedError, Past, SiteTurn
from fedssh.split.talk import SCORES, Kind
from fedssh.split.turn import Agreed

SPEC = models.check_spec({"name": "mlp", "input": [4, 4, 1], "classes": 3})
SEED = 5
KEYS = bytes(32), bytes([1]) * 32
Weights = Mapping[str, np.ndarray]


def agreed(text: str = "split:dense1,wire=f32", epochs: int = 3) -> Agreed:
    plan = Plan(batch_size=8, epochs=epochs, patience=10, optimizer="adam", learning_rate=0.01, loss="auto")
    return Agreed(SPEC, plan, read_policy(text))


def data(seed: int = 0, number: int = 21) -> Images:
    random = np.random.default_rng(seed)
    return Images(random.random((number, 4, 4, 1), dtype=np.float32), random.integers(0, 3, number))


@pytest.fixture(scope="module")
def start() -> Weights:
    return models.get_weights(models.build(SPEC))


class Cut:
    """A channel that is cut at the n-th frame that one side sends or waits for."""

    def __init__(self, inner: Channel, frames: int) -> None:
        self._inner, self._left = inner, frames

    def send(self, kind: int, *body: Any, **head: int) -> None:
        self._one()
        self._inner.send(kind, *body, **head)

    def receive(self, fits: Callable[[Any], None], timeout: float) -> tuple[Any, Any]:
        found = self._inner.receive(fits, timeout)
        self._one()
        return found

    def _one(self) -> None:
        self._left -= 1
        if self._left < 0:
            self._inner.close()
            raise UnreachableError("cut")

    def close(self) -> None:
        self._inner.close()

    sent = property(lambda self: self._inner.sent)
    received = property(lambda self: self._inner.received)


def channels() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one, KEYS[0], KEYS[1]), Channel(other, KEYS[1], KEYS[0])


class Rooms:
    """Alice and the judge, each with a folder; either may be killed, which leaves its folder."""

    def __init__(self, folder: Path, start: Weights, what: Agreed, examples: Images, state: Any = None) -> None:
        self.folder, self.start, self.what, self.state = folder, start, what, state
        self.examples = resident(examples)
        self.told: list[Past] = []
        self.alice()
        self.judge()

    def alice(self) -> None:
        self.site = SiteTurn(
            self.what, "a" * 16, self.start, self.examples, lambda epoch: epoch_order(SEED, epoch, len(self.examples)),
            1, SEED, self.folder / "alice", told=self.told.append,
        )  # fmt: skip

    def judge(self) -> None:
        self.coordinator = CoordinatorTurn(self.what, "a" * 16, self.start, self.state, self.folder / "judge")

    def run(self, frames: int | None = None, whose: str = "site") -> BaseException | None:
        """Until the turn is over or the channel is cut; what the judge's side ended with."""
        ours, theirs = channels()
        mine: Line = Cut(ours, frames) if frames is not None and whose == "site" else ours
        hers: Line = Cut(theirs, frames) if frames is not None and whose == "judge" else theirs
        ended: list[BaseException] = []

        def serve() -> None:
            try:
                self.coordinator.serve(hers)
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                ended.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            self.site.run(mine)
        finally:
            thread.join(30)
            if ended and not isinstance(ended[0], UnreachableError):
                raise ended[0]
        return ended[0] if ended else None

    def whole(self) -> dict[str, bytes]:
        joined = {**self.site.weights(), **self.coordinator.result()[0]}
        return {name: joined[name].tobytes() for name in sorted(joined)}


def unsplit(start: Weights, sites: list[Images], epochs: int = 3) -> dict[str, bytes]:
    """What one trainer learns of several sites' images in turn, with one optimizer."""
    trainer = Trainer(SPEC, "adam", 0.01)
    trainer.load(start)
    trainer.fresh(SEED)
    for examples in sites:
        for epoch in range(1, epochs + 1):
            trainer.epoch(resident(examples), epoch_order(SEED, epoch, len(examples)), 8)
    return {name: array.tobytes() for name, array in sorted(trainer.weights().items())}


WAYS = ["split:dense1,wire=f32", "split:dense1,wire=f32,labels=site,tail=dense2"]


@pytest.mark.parametrize("text", WAYS)
def test_two_rooms_learn_what_one_learns(text: str, start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(text), data())
    assert rooms.run() is None
    assert rooms.whole() == unsplit(start, [data()])
    assert [past.epoch for past in rooms.told] == [1, 2, 3]
    work = rooms.coordinator.work()
    assert (work.steps, work.images) == (9, 63)
    assert work.received > 63 * 200 * 4
    assert rooms.site.past is not None
    assert 0 <= rooms.site.past.value <= 1


@pytest.mark.parametrize("wire", ["f32", "f16", "int8"])
@pytest.mark.parametrize("more", ["", ",labels=site,tail=dense2"])
def test_an_epoch_has_the_bytes_that_are_counted_beforehand(
    wire: str, more: str, start: Weights, tmp_path: Path
) -> None:
    """Beside them each room says once in an epoch that it has written down where it is: an empty frame."""
    turns = []
    for epochs in (1, 2):
        rooms = Rooms(tmp_path / str(epochs), start, agreed(f"split:dense1,wire={wire}{more}", epochs), data())
        assert rooms.run() is None
        turns.append(rooms.coordinator.work())
    head, end = Piece(3400, 3400, 3200, 3200), Piece(603, 603, 600, 600)
    split = Split(head, 200, wire, label_bytes=4, end=end if more else None, end_floats=200)
    epoch = client_bytes(split, 21, 8, 2) + client_bytes(split, 21, 8, 1) * -1
    found = (turns[1].sent - turns[0].sent, turns[1].received - turns[0].received)
    assert found == (epoch.down + FRAME_BYTES, epoch.up + FRAME_BYTES)


@pytest.mark.parametrize("text", WAYS)
def test_three_sites_in_turn_learn_what_one_with_all_learns(text: str, start: Weights, tmp_path: Path) -> None:
    weights, state = start, None
    for number in range(3):
        rooms = Rooms(tmp_path / str(number), weights, agreed(text, 2), data(number), state)
        assert rooms.run() is None
        tail, own, sites = rooms.coordinator.result()
        weights, state = {**rooms.site.weights(), **tail}, (own, sites)
    joined = {name: weights[name].tobytes() for name in sorted(weights)}
    assert joined == unsplit(start, [data(number) for number in range(3)], 2)


@pytest.mark.parametrize("labels", ["", ",labels=site,tail=dense2"])
def test_sites_that_hand_their_layers_to_each_other_learn_the_same(labels: str, start: Weights, tmp_path: Path) -> None:
    what = agreed(f"split:dense1,wire=f32,weights=sites{labels}", 2)
    hers, layers, begins, state = start, dict[str, np.ndarray](), None, None
    for number in range(3):
        rooms = Rooms(tmp_path / str(number), {**hers, **layers}, what, data(number))
        rooms.site._begins = begins
        rooms.coordinator = CoordinatorTurn(what, "a" * 16, hers, state, tmp_path / str(number) / "judge")
        assert rooms.run() is None
        hers = rooms.coordinator.whole(None)
        _, own, sites = rooms.coordinator.result()
        assert sites == {}
        assert all(hers[name].tobytes() == start[name].tobytes() for name in rooms.site.weights())
        layers, begins = rooms.site.weights(), rooms.site.state()
        assert set(rooms.site.sent()) == {*layers, *(f"optimizer/{name}" for name in begins)}
        state = own, dict[str, np.ndarray]()
        rooms.judge()  # what was written down says that it has ended, and that nothing came of the site's optimizer
        rooms.coordinator.recall()
        assert rooms.coordinator.ended
    joined = {**hers, **layers}
    assert {name: joined[name].tobytes() for name in sorted(joined)} == unsplit(start, [data(n) for n in range(3)], 2)


@pytest.mark.parametrize("text", WAYS)
def test_a_rate_that_changes_begins_anew_in_each_turn_and_goes_on_after_a_kill(
    text: str, start: Weights, tmp_path: Path
) -> None:
    """Plain descent remembers nothing but how many steps it has taken, which only the rate could depend on."""
    plan = dataclasses.replace(agreed().plan, optimizer="sgd", learning_rate_schedule="cosine", warmup=2)
    what = dataclasses.replace(agreed(text), plan=plan)
    first = Rooms(tmp_path / "first", start, what, data())
    first.run()
    _, own, sites = first.coordinator.result()
    assert own["iteration"].tolist() == [0, 9]
    second = Rooms(tmp_path / "second", start, what, data(), (own, sites))
    with contextlib.suppress(UnreachableError):
        second.run(19)
    assert second.site.step >= 3
    second.alice()
    second.judge()
    second.run()
    assert second.whole() == first.whole()


@pytest.mark.parametrize("text", WAYS)
@pytest.mark.parametrize("whose", ["site", "judge"])
def test_a_line_cut_anywhere_loses_and_doubles_nothing(text: str, whose: str, start: Weights, tmp_path: Path) -> None:
    wanted = unsplit(start, [data()])
    rooms = Rooms(tmp_path, start, agreed(text), data())
    for frames in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15):
        try:
            rooms.run(frames, whose)
        except UnreachableError:
            continue
        break
    else:
        rooms.run()
    assert rooms.whole() == wanted
    assert (rooms.coordinator.work().steps, [past.epoch for past in rooms.told]) == (9, [1, 2, 3])


@pytest.mark.parametrize("text", WAYS)
@pytest.mark.parametrize("who", ["alice", "judge", "both"])
def test_whoever_is_killed_goes_on_to_the_same_end(text: str, who: str, start: Weights, tmp_path: Path) -> None:
    wanted = unsplit(start, [data()])
    rooms = Rooms(tmp_path, start, agreed(text), data())
    for frames in (3, 9, 14, 17, 19, 21, 22, 23, 24, 25, 60):
        if who != "judge":
            rooms.alice()
        if who != "alice":
            rooms.judge()
        try:
            rooms.run(frames)
        except UnreachableError:
            continue
        break
    else:
        pytest.fail("it did not come to an end")
    assert rooms.whole() == wanted
    assert (rooms.coordinator.work().steps, rooms.coordinator.work().images) == (9, 63)


def test_who_comes_back_after_the_end_hears_that_it_is_over(start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(), data())
    rooms.run()
    wanted = rooms.whole()
    for again in (rooms.alice, rooms.judge):
        again()
        rooms.run()
        assert rooms.whole() == wanted
    assert rooms.site.past is not None
    assert rooms.site.past.epoch == 3


def test_a_site_that_lost_everything_begins_again(start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(), data())
    rooms.run()
    wanted = rooms.whole()
    for path in (tmp_path / "alice").iterdir():
        path.unlink()
    rooms.alice()
    rooms.run()
    assert rooms.whole() == wanted
    assert rooms.coordinator.work().steps == 9


@pytest.mark.parametrize("wire", ["f16", "int8"])
def test_shorter_numbers_learn_nearly_the_same(wire: str, start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(f"split:dense1,wire={wire}"), data())
    rooms.run()
    tail, _, _ = rooms.coordinator.result()
    exact = {name: np.frombuffer(one, np.float32) for name, one in unsplit(start, [data()]).items()}
    for name, array in {**rooms.site.weights(), **tail}.items():
        assert np.abs(array.ravel() - exact[name]).mean() < 0.01, name


Change = Callable[[int, bytes, dict[str, int]], tuple[bytes, dict[str, int]]]


class Odd:
    """A channel that changes what one side sends."""

    def __init__(self, inner: Channel, change: Change) -> None:
        self._inner, self._change = inner, change
        self.close, self.receive = inner.close, inner.receive
        self.sent = self.received = 0

    def send(self, kind: int, *body: Any, **head: int) -> None:
        changed, heading = self._change(kind, b"".join(bytes(one) for one in body), head)
        self._inner.send(kind, changed, **heading)


def nan(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (b"\xff" * 4 + body[4:] if kind == 19 else body), head


def huge(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    most = np.float32(3e38).tobytes()
    return (most * (len(body) // 4 - 8) + body[-32:] if kind == 19 else body), head


def label(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body[:-4] + (7).to_bytes(4, "little") if kind == 19 else body), head


def step(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return body, {**head, "step": head["step"] + 1} if kind == 19 else head


def rows(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return body, {**head, "rows": 4_000_000_000} if kind == 19 else head


def dtype(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return body, {**head, "dtype": 2} if kind == 19 else head


def longer(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body + b"x" if kind == 19 else body), head


def other(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body.replace(b'"epochs":3', b'"epochs":4') if kind == 16 else body), head


def images(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body.replace(b'"examples":21', b'"examples":0') if kind == 16 else body), head


BAD: list[tuple[Change, str]] = [
    (nan, "what came in step 1 is not finite"),
    (huge, "the loss of step 1 is not finite"),
    (label, r"a label is 7 or \d, expected 0..2"),
    (step, "a frame FORWARD has the step 2, agreed is 1"),
    (rows, "a frame FORWARD has the rows 4000000000, agreed is 8"),
    (dtype, "a frame FORWARD has the dtype 2, agreed is 1"),
    (longer, "a frame FORWARD has 6,433 bytes, agreed are 6,432"),
    (other, "the site wants 4 epochs of 3 steps, by the plan 3 epochs of 3 steps"),
    (images, "the site trains on 0 images"),
]


def hers(kind: int, at: int, value: bytes) -> Change:
    """Writes some bytes over those of each frame of a kind."""

    def change(found: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
        return (body[:at] + value + body[at + len(value) :] if found == kind else body), head

    return change


def shorter(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body[:-4] if kind == 20 else body), head


def elsewhere(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (body.replace(b'"step":0', b'"step":3') if kind == 17 else body), head


def state(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
    return (b"x" * 16 if kind == 18 else body), head


NAN = b"\xff" * 8
ALONE = "split:dense1,wire=f32,weights=sites"
HERS: list[tuple[str, Change, str]] = [
    (WAYS[0], hers(20, 16, NAN), "the gradient of step 1 is not finite"),
    (WAYS[0], hers(20, 0, NAN), "the scores of step 1 are not finite"),
    (WAYS[0], shorter, "a frame GRADIENT has 6,412 bytes, agreed are 6,416"),
    (WAYS[1], hers(21, 0, NAN), "what the coordinator's layers give in step 1 is not finite"),
    (WAYS[0], elsewhere, "the coordinator goes on from step 3"),
    (WAYS[0], state, "the optimizer's state that came cannot be used"),
    (ALONE, state, "the coordinator has an optimizer's state that is for sites alone"),
]


@pytest.mark.parametrize(("text", "change", "reason"), HERS)
def test_a_coordinator_who_sends_what_was_not_agreed_ends_it_at_the_site(
    text: str, change: Change, reason: str, start: Weights, tmp_path: Path
) -> None:
    """As an error that no loop tries again: `alice train` ends with exit 3."""
    rooms = Rooms(tmp_path, start, agreed(text), data())
    ours, theirs = channels()

    def serve() -> None:
        with pytest.raises((ChannelError, UnreachableError)):
            rooms.coordinator.serve(Odd(theirs, change))

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(NotAgreedError, match=reason) as caught:
        rooms.site.run(ours)
    thread.join(30)
    assert caught.value.exit_code == 3
    assert rooms.site.step == 0


@pytest.mark.parametrize("odd", [{"0/other": np.zeros(2, np.float32)}, {}, {"0/iteration": np.zeros(3, np.float32)}])
def test_a_state_of_another_site_is_of_these_layers_or_ends_it(
    odd: dict[str, np.ndarray], start: Weights, tmp_path: Path
) -> None:
    rooms = Rooms(tmp_path / "one", start, agreed(ALONE), data())
    rooms.site._begins = odd
    if not odd:  # nothing is none, as in the first turn
        assert rooms.run() is None
        return
    with pytest.raises(FaultSaidError, match="the optimizer's state that came cannot be used"):
        rooms.run()
    assert rooms.site.step == rooms.coordinator.step == 0


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_what_is_not_as_agreed_changes_nothing(change: Change, reason: str, start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(), data())
    ours, theirs = channels()
    ended: list[BaseException] = []

    def serve() -> None:
        with pytest.raises(ChannelError, match=reason) as caught:
            rooms.coordinator.serve(theirs)
        ended.append(caught.value)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises((ChannelError, UnreachableError)):
        rooms.site.run(Odd(ours, change))
    thread.join(30)
    assert ended
    assert rooms.coordinator.step == 0
    assert rooms.run() is None  # nothing stays of it
    assert rooms.whole() == unsplit(start, [data()])


def test_a_turn_that_is_closed_computes_and_keeps_nothing_more(start: Weights, tmp_path: Path) -> None:
    """Its parts may serve another turn by then: a step that was on its way must not change them."""
    rooms = Rooms(tmp_path, start, agreed(), data())
    part = rooms.coordinator._part
    before: list[dict[str, bytes]] = []

    def weights() -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in part.weights().items()}

    def closes(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
        if kind == Kind.FORWARD and head["step"] == 2:
            rooms.coordinator.forget()
            before.append(weights())
        return body, head

    ours, theirs = channels()
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(rooms.coordinator.serve, theirs)
        with pytest.raises(UnreachableError):
            rooms.site.run(Odd(ours, closes))
        with pytest.raises(UnreachableError, match="the turn is closed"):
            serving.result(30)
    assert before == [weights()]
    assert list((tmp_path / "judge").iterdir()) == []


def test_who_has_left_the_finite_numbers_ends_without_a_word_against_anybody(start: Weights, tmp_path: Path) -> None:
    most = {name: np.full_like(array, 3e38) for name, array in start.items()}
    rooms = Rooms(tmp_path, most, agreed(), data())
    with pytest.raises(DivergedError, match="what the site's layers give in step 1 is not finite"):
        rooms.run()
    assert rooms.coordinator.step == 0


def test_whoever_is_taught_something_else_notices_and_whoever_is_not_does_not(start: Weights, tmp_path: Path) -> None:
    what = agreed(epochs=8)
    random = np.random.default_rng(1)

    def hijacked(kind: int, body: bytes, head: dict[str, int]) -> tuple[bytes, dict[str, int]]:
        if kind != Kind.GRADIENT:
            return body, head
        noise = random.normal(0, 0.1, (len(body) - SCORES.size) // 4).astype("<f4")
        return body[: SCORES.size] + noise.tobytes(), head

    for number, change in enumerate((None, hijacked)):
        rooms = Rooms(tmp_path / str(number), start, what, data())
        rooms.site._watch = watched(what, start, rooms.examples, SEED)
        ours, theirs = channels()
        hers = theirs if change is None else Odd(theirs, change)
        with ThreadPoolExecutor(1) as pool:
            serving = pool.submit(rooms.coordinator.serve, hers)
            if change is None:
                rooms.site.run(ours)
                assert serving.result() is None
                continue
            with pytest.raises(NotAgreedError, match=r"does not train what was agreed: .* of the last 10 gradients"):
                rooms.site.run(ours)
            with pytest.raises(FaultSaidError, match="does not train what was agreed"):
                serving.result()


def test_a_gradient_that_does_not_look_honest_ends_the_turn_at_the_site(start: Weights, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, start, agreed(), data())

    def suspect(gradient: np.ndarray) -> None:
        assert gradient.shape == (16 * 200,)
        raise ChannelError("the gradients are not honest")

    rooms.site._watch = suspect
    with pytest.raises(ChannelError, match="not honest"):
        rooms.run()
    assert rooms.site.step == 0  # nothing of it is sent; who begins the turn anew begins from the release
