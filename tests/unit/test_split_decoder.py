"""Algorithm 3 of Gupta and Raskar 2018: a decoder at the site, and images that nobody has labelled."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow

from experiments.engines.memory.turns import queued, take_turn
from fedssh import models
from fedssh.alice import local
from fedssh.alice.fitting import epoch_order
from fedssh.errors import SettingsError, UnreachableError
from fedssh.models import decoder
from fedssh.models.data import unlabelled_set
from fedssh.models.data.images import Images
from fedssh.models.data.reading import Reading
from fedssh.models.parts import ITERATION
from fedssh.models.recipe import PLAIN
from fedssh.models.training import resident
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.encoding import Encoding
from fedssh.split.site import SiteTurn
from fedssh.split.turn import Agreed, Length, Parts

SPEC = models.check_spec({"name": "mlp", "input": [4, 4, 1], "classes": 3})
SEED, ALPHA, RATE = 5, 3.0, 0.1
Weights = Mapping[str, np.ndarray]


def agreed(text: str = f"split:dense1,wire=f32,decoder={ALPHA:g}", optimizer: str = "adam", epochs: int = 2) -> Agreed:
    plan = Plan(batch_size=8, epochs=epochs, patience=10, optimizer=optimizer, learning_rate=RATE, loss="auto")
    return Agreed(SPEC, plan, read_policy(text))


RANDOM = np.random.default_rng(0)
LABELLED = Images(RANDOM.random((11, 4, 4, 1), dtype=np.float32), RANDOM.integers(0, 3, 11))
OTHERS = RANDOM.random((5, 4, 4, 1), dtype=np.float32)


@pytest.fixture(scope="module")
def start() -> Weights:
    return models.get_weights(models.build(SPEC))


PARTS: list[tuple[Agreed, Parts, Parts]] = []


def rooms(
    what: Agreed, start: Weights, folder: Path | None = None, begins: Weights | None = None,
    unlabelled: np.ndarray | None = OTHERS,
) -> tuple[SiteTurn, CoordinatorTurn]:  # fmt: skip
    if not PARTS or PARTS[0][0] != what:
        PARTS[:] = [(what, Parts(), Parts())]
    _, ours, hers = PARTS[0]
    site = SiteTurn(
        what, "a" * 16, start, resident(LABELLED), lambda epoch: epoch_order(SEED, epoch, len(LABELLED)), 1, SEED,
        folder and folder / "alice", ours, decoder=begins, unlabelled=unlabelled,
    )  # fmt: skip
    return site, CoordinatorTurn(what, "a" * 16, start, None, folder and folder / "judge", hers)


def as_bytes(arrays: Weights) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("unlabelled", [OTHERS, None])
def test_the_sites_layers_go_down_both_losses_at_once(unlabelled: np.ndarray | None, start: Weights) -> None:
    """Against one tape over the whole: what labels say, and alpha times the mean squared error of all images."""
    what = agreed(optimizer="sgd", epochs=1)
    site, coordinator = rooms(what, start, unlabelled=unlabelled)
    take_turn(site, coordinator)
    found = {**site.weights(), **coordinator.result()[0]}

    network, beside = models.build(SPEC), decoder.Decoder((200,), (4, 4, 1), ALPHA, "sgd", RATE)
    beside.fresh(SEED)
    models.set_weights(network, start)
    head = tensorflow.keras.Model(network.inputs[0], network.get_layer("dense1").output)
    whole = tensorflow.keras.Model(network.inputs[0], network.outputs[0])
    encoding = Encoding(beside, None, unlabelled, SEED, Length(11, 8, 1))
    order = epoch_order(SEED, 1, 11)
    for step, rows in enumerate((order[:8], order[8:]), 1):
        batch = np.asarray(encoding.with_unlabelled(LABELLED.images[rows], step))
        assert len(batch) == len(rows) + (8 if unlabelled is not None else 0)
        weights = [one.value for one in network.trainable_weights + beside.network.trainable_weights]
        with tensorflow.GradientTape() as tape:
            said = whole(LABELLED.images[rows], training=True)
            loss = tensorflow.reduce_mean(
                tensorflow.keras.losses.sparse_categorical_crossentropy(LABELLED.labels[rows], said)
            )
            error = tensorflow.reduce_mean((beside.network(head(batch)) - batch) ** 2)
            # The decoder's own step is that of its loss alone.
            own = ALPHA * error
        gradients = tape.gradient([loss, own], weights)
        count = len(network.trainable_weights)
        for place, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            weight.assign_sub(RATE * gradient / (1 if place < count else ALPHA))
    for name, array in models.get_weights(network).items():
        assert np.allclose(found[name], array, atol=1e-6), name
    for variable in beside.network.weights:
        assert np.allclose(site.decoder()[f"weights/{variable.path}"], variable.numpy(), atol=1e-6), variable.path


def test_the_coordinator_hears_nothing_of_it(start: Weights) -> None:
    counted = []
    for text in ("split:dense1,wire=f32", f"split:dense1,wire=f32,decoder={ALPHA}"):
        site, coordinator = rooms(agreed(text), start)
        take_turn(site, coordinator)
        work = coordinator.work()
        counted.append((work.steps, work.images, work.received, work.sent))
    assert counted[0] == counted[1]


class CutLine:
    """A line that is cut at the n-th frame that the site sends."""

    def __init__(self, inner: Any, frames: int) -> None:
        self._inner, self._left = inner, frames
        self.receive, self.close = inner.receive, inner.close

    def send(self, *given: Any, **head: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnreachableError("cut")
        self._inner.send(*given, **head)

    sent = property(lambda self: self._inner.sent)
    received = property(lambda self: self._inner.received)


@pytest.mark.parametrize("more", ["", ",labels=site,tail=dense2"])
def test_a_site_killed_anywhere_goes_on_to_the_same_bits(more: str, start: Weights, tmp_path: Path) -> None:
    what = agreed(f"split:dense1,wire=f32,decoder={ALPHA}{more}")
    site, coordinator = rooms(what, start)
    take_turn(site, coordinator)
    wanted = as_bytes({**site.weights(), **site.decoder(), **coordinator.result()[0]})
    for frames in (2, 4, 6, 8, 99):
        site, coordinator = rooms(what, start, tmp_path)
        ours, theirs = queued()

        def serve(turn: CoordinatorTurn = coordinator, line: Any = theirs) -> None:
            try:
                turn.serve(line)
            except UnreachableError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            site.run(CutLine(ours, frames))
        except UnreachableError:
            continue
        finally:
            thread.join(30)
        break
    assert as_bytes({**site.weights(), **site.decoder(), **coordinator.result()[0]}) == wanted


def test_a_decoder_goes_on_from_turn_to_turn(start: Weights, tmp_path: Path) -> None:
    site, coordinator = rooms(agreed(), start)
    take_turn(site, coordinator)
    first = site.decoder()
    assert first[f"state/{ITERATION}"].tolist() == [0, 4]
    local.keep(tmp_path, "ab" * 32, 1, first, SPEC, local.DECODER)
    assert local.load(tmp_path, "ab" * 32, 0, local.DECODER) is None  # the session is not counted yet
    begins = local.load(tmp_path, "ab" * 32, 1, local.DECODER)
    assert begins is not None
    assert as_bytes(begins) == as_bytes(first)
    assert local.load(tmp_path, "ab" * 32, 1) is None
    again, coordinator = rooms(agreed(), start, begins=begins)
    take_turn(again, coordinator)
    assert again.decoder()[f"state/{ITERATION}"].tolist() == [0, 8]
    assert as_bytes(again.decoder()) != as_bytes(first)
    more = {**begins, "weights/other": np.zeros(2, np.float32)}
    other = Encoding(agreed().decoder((200,)), more, None, SEED, Length(11, 8, 2))
    with pytest.raises(SettingsError, match="cannot be gone on from: a decoder with other weights: weights/other"):
        other.begin()


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        ((13, 13, 32), (28, 28, 1)), ((26, 26, 4), (28, 28, 3)), ((28, 28, 4), (28, 28, 1)), ((1, 1, 9), (20, 12, 1)),
        ((200,), (28, 28, 1)), ((7, 5), (64, 40, 3)), ((16,), (1, 13, 1)), ((1, 13, 4), (1, 13, 1)),
    ],
)  # fmt: skip
def test_any_cut_of_any_input_has_a_decoder(cut: tuple[int, ...], wanted: tuple[int, int, int]) -> None:
    network = decoder.build(cut, wanted)
    assert network.output_shape == (None, *wanted)
    assert sum(math.prod(one.shape) for one in network.weights) < 400_000


def test_a_decoder_learns_and_begins_the_same_each_time() -> None:
    found = decoder.Decoder((3, 3, 2), (8, 8, 1), 1.0, "adam", 0.01, recipe=PLAIN)
    features = tensorflow.constant(RANDOM.random((6, 3, 3, 2)), "float32")
    images = tensorflow.constant(RANDOM.random((6, 8, 8, 1)), "float32")
    losses = []
    for _ in range(2):
        found.fresh(3)
        losses.append([found.step(features, images)[1] for _ in range(30)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.7 * losses[0][0]
    before = as_bytes(found.arrays())
    gradient, loss = found.step(features * math.nan, images)
    assert math.isnan(loss)
    assert as_bytes(found.arrays()) == before
    assert gradient.shape == features.shape


def test_every_pass_goes_through_all_unlabelled_images() -> None:
    images = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1)
    encoding = Encoding(None, None, images, SEED, Length(3, 3, 1))  # type: ignore[arg-type]
    none = np.zeros((0, 1, 1, 1), np.float32)
    row = [int(one) for step in range(1, 8) for one in encoding.with_unlabelled(none, step).ravel()]
    assert len(row) == 21
    passes = [row[at : at + 7] for at in (0, 7, 14)]
    assert [sorted(one) for one in passes] == [list(range(7))] * 3
    assert passes[0] != passes[1]
    assert encoding.with_unlabelled(none, 4).ravel().tolist() == row[9:12]  # whichever step comes first


def test_unlabelled_images_are_read_as_a_network_takes_them(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(3):
        Image.fromarray(np.full((8, 8), 50 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = unlabelled_set.load(tmp_path, [4, 4, 1], Reading())
    assert found.images.shape == (3, 4, 4, 1)
    assert np.allclose(found.images[:, 0, 0, 0], [0, 50 / 255, 100 / 255])
    assert found.remarks[0] == f"3 images from {tmp_path}"
    assert "1 of 4 images" in found.remarks[-1]
    for path in tmp_path.glob("?.png"):
        path.unlink()
    with pytest.raises(ValueError, match="none of 1 unlabelled images can be read"):
        unlabelled_set.load(tmp_path, [4, 4, 1], Reading())


def test_without_a_decoder_the_policy_is_written_as_ever() -> None:
    assert read_policy("split:conv1").text == "split:cut=conv1,labels=coordinator,wire=f16,checkpoint=1"
    assert read_policy("split:conv1,decoder=0.50").text.endswith("checkpoint=1,decoder=0.5")
    with pytest.raises(ValueError, match="decoder of the policy split"):
        read_policy("split:conv1,decoder=0")
