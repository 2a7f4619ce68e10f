"""What training costs a site: federated averaging, large batches and a split network, as tables and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.channel.frames import HEADER_BYTES
from fedssh.models.parts import Part
from fedssh.rules.costs import (
    FRAME_BYTES,
    SLOTS,
    WIRES,
    Bytes,
    FedAvg,
    LargeBatch,
    Line,
    Piece,
    Split,
    break_even,
    client_bytes,
    client_multiply_adds,
    published_break_even,
    releases,
    slots_of,
    steps_per_second,
    waiting_seconds,
    worth_a_look,
)
from fedssh.rules.terms import OPTIMIZERS

CNN = Piece(223_873, 223_873, 2_629_888, 2_629_888)
POOL2 = Piece(18_816, 18_816, 2_424_960, 2_424_960)
END = Piece(129, 129, 128, 128)


def test_averaging_sends_all_weights_once_each_way() -> None:
    assert client_bytes(FedAvg(CNN), 1000, 32, 5) == Bytes(895_492, 895_492)
    assert client_bytes(FedAvg(CNN), 1, 32, 1, turns=3) == Bytes(3 * 895_492, 3 * 895_492)
    assert client_multiply_adds(FedAvg(CNN), 1000, 5) == 5000 * 3 * 2_629_888


def test_large_batches_send_a_gradient_each_way_every_step() -> None:
    assert client_bytes(LargeBatch(CNN), 100, 32, 2) == Bytes(895_492, 895_492) * 8
    assert client_multiply_adds(LargeBatch(CNN), 100, 2) == client_multiply_adds(FedAvg(CNN), 100, 2)


def test_a_release_after_every_turn_is_the_whole_network() -> None:
    assert releases(CNN, 3) == Bytes(down=3 * 895_492)


@pytest.mark.parametrize(("wire", "image"), [("f32", 6400), ("f16", 3200), ("int8", 1604)])
def test_a_split_network_sends_what_passes_the_cut(wire: str, image: int) -> None:
    way = Split(POOL2, 1600, wire, slots=2, label_bytes=4)
    assert way.step(32) == Bytes(down=40 + 16 + 32 * image, up=40 + 32 * image + 32 * 4)
    assert way.turn() == Bytes(4 * (3 * 18_816 + 2), 4 * (3 * 18_816 + 2))
    steps = way.step(32) * 3 + way.step(4)  # of 100 images
    assert client_bytes(way, 100, 32, epochs=2, turns=5) == (way.turn() + steps * 2) * 5
    assert client_multiply_adds(way, 100, 2) == 200 * (2 + 2) * 2_424_960  # twice forward, once back


def test_in_the_u_shape_two_cuts_are_passed_and_no_label() -> None:
    way = Split(POOL2, 1600, "f16", slots=0, end=END, end_floats=128)
    each = 2 * 40 + 10 * (3200 + 256)
    assert way.step(10) == Bytes(down=each + 16, up=each)
    assert way.turn() == Bytes(4 * (18_816 + 129 + 4), 4 * (18_816 + 129 + 4))
    assert way.multiply_adds() == 4 * 2_424_960 + 3 * 128


def test_an_optimizer_that_begins_anew_has_a_state_that_only_goes_up() -> None:
    assert Split(POOL2, 1600, slots=2, anew=True).turn() == Bytes(down=4 * 18_816, up=4 * (3 * 18_816 + 2))


def test_frozen_layers_have_no_gradient_and_no_state() -> None:
    frozen = Piece(18_816, 0, 2_424_960, 0)
    assert Split(frozen, 1600).turn().up == 4 * (18_816 + 2)
    assert Split(frozen, 1600).multiply_adds() == 2 * 2_424_960
    assert FedAvg(Piece(223_873, 205_057, 2_629_888, 204_928)).multiply_adds() == 2_629_888 + 2 * 204_928


def test_an_optimizer_has_the_state_that_a_part_has() -> None:
    """NAdam keeps one number more for all weights."""
    assert set(SLOTS) == set(OPTIMIZERS)
    for name, slots in SLOTS.items():
        part = Part({"name": "mlp", "input": [2, 2, 1], "classes": 3, "width": 5}, ["dense1"], 0, name, 0.01)
        size = sum(array.nbytes for array in (*part.weights().values(), *part.state().values()))
        assert size - (4 if name == "nadam" else 0) == Split(Piece(25, 25, 20, 20), 5, slots=slots).turn().up
    momentum = Part({"name": "mlp", "input": [2, 2, 1], "classes": 3, "width": 5}, ["dense1"], 0, "sgd", 0.01, 0.9)
    assert sum(array.size for array in momentum.state().values()) == 25 * slots_of("sgd", 0.9) + 2
    assert slots_of("sgd") == 0 and slots_of("adam") == 2


@pytest.mark.parametrize(
    ("weights", "floats", "wire", "images"),
    [
        (33_638_218, 65_536, "f32", 513),  # VGG on CIFAR-10 after its first convolution
        (223_873, 5_408, "f32", 41), (223_873, 1_600, "f32", 140), (223_873, 1_600, "f16", 280),
        (223_873, 1_600, "int8", 560), (223_873, 128, "f32", 1749),
    ],
)  # fmt: skip
def test_the_published_form_of_the_break_even(weights: int, floats: int, wire: str, images: int) -> None:
    assert round(published_break_even(weights, floats, wire)) == images
    assert published_break_even(weights, floats, wire, epochs=10) == pytest.approx(images / 10, rel=0.01)


def test_what_goes_once_in_a_turn_moves_the_break_even() -> None:
    assert break_even(Split(POOL2, 1600), FedAvg(CNN), 32) == 104  # of 140
    assert break_even(Split(POOL2, 1600, slots=0), FedAvg(CNN), 32) == 128
    dense = Piece(223_744, 223_744, 2_629_760, 2_629_760)  # of 1749: its state alone is more than the network
    assert break_even(Split(dense, 128), FedAvg(CNN), 32) == 0
    assert break_even(Split(dense, 128, slots=0), FedAvg(CNN), 32) == 0


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**5), st.sampled_from(sorted(WIRES)),
    st.integers(1, 300), st.integers(1, 20), st.booleans(),
)  # fmt: skip
def test_up_to_the_break_even_a_split_network_sends_no_more_and_then_more(
    head: int, rest: int, floats: int, wire: str, batch: int, epochs: int, u_shape: bool
) -> None:
    split = Split(Piece(head, head, 1, 1), floats, wire, end=END if u_shape else None, end_floats=7)
    fedavg = FedAvg(Piece(head + rest, head + rest, 1, 1))
    most = break_even(split, fedavg, batch, epochs)
    if most:
        assert client_bytes(split, most, batch, epochs).total <= client_bytes(fedavg, most, batch, epochs).total
    more = client_bytes(split, most + 1, batch, epochs).total
    assert more > client_bytes(fedavg, most + 1, batch, epochs).total


def test_steps_a_second() -> None:
    line = Line(bits_per_second=100e6, round_trip_seconds=0.02)
    way, u_shape = Split(POOL2, 1600, "f16"), Split(POOL2, 1600, "f16", end=END, end_floats=128)
    sent = 2 * (40 + 32 * 3200) + 16 + 32 * 4
    assert way.step(32).total == sent
    assert steps_per_second(way, 32, line, 0.013) == pytest.approx(1 / (0.013 + sent * 8 / 100e6 + 0.02))
    again = u_shape.step(32).total
    assert steps_per_second(u_shape, 32, line) == pytest.approx(1 / (again * 8 / 100e6 + 0.04))
    assert steps_per_second(FedAvg(CNN), 32, line) == math.inf
    assert steps_per_second(FedAvg(CNN), 32, line, 0.01) == pytest.approx(100)


def test_how_long_the_line_keeps_a_site_waiting() -> None:
    line, way = Line(1e6, 0.5), Split(POOL2, 1600, "f16")
    assert waiting_seconds(FedAvg(CNN), 100, 32, line, 7) == pytest.approx(2 * 895_492 * 8 / 1e6 + 2 * 0.5)
    sent = client_bytes(way, 100, 32, 2).total
    assert waiting_seconds(way, 100, 32, line, 2) == pytest.approx(sent * 8 / 1e6 + (8 + 2) * 0.5)
    assert waiting_seconds(LargeBatch(CNN), 32, 32, line) == pytest.approx(2 * 895_492 * 8 / 1e6 + 0.5)


def test_a_later_cut_is_worth_a_look_where_less_passes() -> None:
    assert worth_a_look([21_632, 5_408, 7_744, 1_600, 1_600, 128]) == [True, True, False, True, False, True]


def test_a_frame_s_header_and_tag_are_those_of_the_channel() -> None:
    assert FRAME_BYTES == HEADER_BYTES + 16  # of AES-GCM
