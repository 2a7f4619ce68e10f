"""What networks cost where they are cut, by another count, by hand, and as published."""

from __future__ import annotations

import math
from typing import Any

import keras
import pytest
import tensorflow

from fedssh import models
from fedssh.models.costs import Share, costs, multiply_adds, of_spec, whole
from fedssh.models.cut import parts

CNN = {"name": "cnn", "input": [28, 28, 1], "classes": 2}
LENET = {"name": "lenet", "input": [28, 28, 1], "classes": 10}
MOBILE = {"name": "keras:MobileNetV2", "input": [32, 32, 3], "classes": 10}


def profiled(network: keras.Model) -> int:
    """Multiply-adds of one image by TensorFlow's own profiler: half the operations of products and convolutions."""
    shape = (1, *network.inputs[0].shape[1:])
    graph = tensorflow.function(network).get_concrete_function(tensorflow.TensorSpec(shape)).graph
    profiler = tensorflow.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    found = profiler.profile(graph, cmd="op", options=options.with_empty_output().build())
    every: dict[str, int] = {}
    while found.children:
        [found] = found.children
        every[found.name] = int(found.float_ops)
    products = ("MatMul", "Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput")
    return sum(every.get(name, 0) for name in products) // 2


def of_all_kinds() -> keras.Model:
    layers = keras.layers
    given = x = keras.Input((13, 11, 4), name="given")
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.SeparableConv2D(6, 2, name="separable")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Flatten(name="flatten")(layers.MaxPooling2D(2, name="pool")(x))
    return keras.Model(given, layers.Dense(7, activation="softmax", name="output")(x), name="kinds")


def test_the_profiler_of_tensorflow_counts_the_same() -> None:
    for network in (of_all_kinds(), models.build(LENET), models.build(MOBILE)):
        assert whole(network).multiply_adds == profiled(network) > 0


@pytest.mark.parametrize(
    ("kind", "size", "more"),
    [
        ("Conv1D", (9, 4), {"filters": 6, "groups": 2}),
        ("Conv2D", (7, 8, 6), {"filters": 9, "groups": 3, "strides": 2}),
        ("Conv2D", (9, 8, 3), {"filters": 2, "dilation_rate": (1, 3)}),
        ("Conv3D", (4, 5, 3, 2), {"filters": 3}),
        ("DepthwiseConv2D", (7, 8, 3), {"depth_multiplier": 2}),
        ("Conv2DTranspose", (4, 5, 3), {"filters": 2, "strides": 2}),
        ("Dense", (4, 5), {"units": 3}),
        ("EinsumDense", (6, 5), {"equation": "...ab,bcd->...acd", "output_shape": (6, 2, 3)}),
    ],
)
def test_with_ones_everywhere_the_sum_of_what_comes_out_is_the_number_of_products(
    kind: str, size: tuple[int, ...], more: dict[str, Any]
) -> None:
    more = more | ({"kernel_size": 3} if "Conv" in kind else {})
    ones = {"depthwise_initializer" if "Depthwise" in kind else "kernel_initializer": "ones"}
    given = keras.Input(size, name="given")
    network = keras.Model(given, getattr(keras.layers, kind)(name="counted", **more, **ones)(given))
    assert multiply_adds(network)["counted"] == float(tensorflow.reduce_sum(network(tensorflow.ones((1, *size)))))


def test_vgg_and_resnet_have_their_published_multiply_adds() -> None:
    with models.stateless():
        network = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=10)
        # Gupta and Raskar 2018: 332.1 M multiply-adds, of which 1.77 M are before the cut after the first convolution.
        assert whole(network) == Share(33_638_218, 33_638_218, 332_111_872, 332_111_872)
        first, second, *_ = costs(network)
    assert (first.layer, first.floats, first.before.multiply_adds) == ("block1_conv1", 65_536, 1_769_472)
    assert first.before.multiply_adds + first.after.multiply_adds == 332_111_872
    assert second.before.multiply_adds == 39_518_208  # one convolution later it is 8 times less, not 190
    resnet, _ = of_spec({"name": "keras:ResNet50", "input": [224, 224, 3], "classes": 1000})
    assert resnet.weights == 25_636_712 and round(resnet.multiply_adds / 1e9, 1) == 3.9  # He et al. 2015: 3.8


def test_what_is_before_and_after_a_cut_is_what_its_parts_have() -> None:
    for network in (models.build(CNN), of_all_kinds()):
        every = costs(network)
        assert len(every) >= 6
        for cost in every:
            head, tail = parts(network, [cost.layer])
            assert (cost.before, cost.after) == (whole(head), whole(tail))
            assert cost.floats == math.prod(head.outputs[0].shape[1:])


def test_the_reference_network() -> None:
    network, found = of_spec(CNN)
    conv1, conv2 = 26 * 26 * 9 * 32, 11 * 11 * 9 * 32 * 64
    every = conv1 + conv2 + 1600 * 128 + 128
    assert network == Share(223_873, 223_873, every, every)
    assert [cost.before.multiply_adds for cost in found] == [conv1, conv1, *[conv1 + conv2] * 3, every - 128]
    assert [(cost.layer, cost.floats, cost.before.weights) for cost in found] == [
        ("conv1", 21_632, 320), ("pool1", 5_408, 320), ("conv2", 7_744, 18_816), ("pool2", 1_600, 18_816),
        ("flatten", 1_600, 18_816), ("dense", 128, 223_744),
    ]  # fmt: skip


def test_frozen_layers_are_computed_forward_only() -> None:
    whole_of, found = of_spec({**CNN, "frozen": "before dense"})
    of = {cost.layer: cost for cost in found}
    assert of["pool2"].before.trained == of["pool2"].before.learning == 0
    assert of["pool2"].before.multiply_adds == 26 * 26 * 9 * 32 + 11 * 11 * 9 * 32 * 64
    assert of["pool2"].after.learning == of["pool2"].after.multiply_adds == whole_of.learning == 1600 * 128 + 128


def test_layers_that_are_passed_twice_and_networks_among_layers() -> None:
    layers = keras.layers
    five, four = layers.Dense(5, name="five"), layers.Dense(4, name="four")
    inner = keras.Sequential([keras.Input((4,)), five, four], name="inner")
    given = keras.Input((4,), name="given")
    network = keras.Model(given, layers.Dense(1, name="output")(inner(inner(given))))
    assert multiply_adds(network) == {"given": 0, "inner": 2 * 40, "output": 4}
    assert whole(network) == Share(49 + 5, 49 + 5, 84, 84)


def test_what_cannot_be_counted_is_said() -> None:
    layers = keras.layers
    given = keras.Input((4, 6), name="given")
    for layer in (layers.Attention(name="look"), layers.Dot((2, 2), name="look")):
        network = keras.Model(given, layer([given, given]))
        with pytest.raises(ValueError, match=r"of look cannot be counted: it is a (Attention|Dot)"):
            whole(network)
    with pytest.raises(ValueError, match="cannot be counted: it is a LSTM"):
        whole(keras.Model(given, layers.LSTM(3, name="look")(given)))
    free = keras.Input((None, None, 3), name="given")
    with pytest.raises(ValueError, match="has no fixed size"):
        whole(keras.Model(free, layers.Conv2D(2, 3, name="conv")(free)))


def test_a_network_of_a_terabyte_is_counted_without_memory() -> None:
    network, found = of_spec({"name": "mlp", "input": [28, 28, 1], "classes": 2, "width": 65_536, "depth": 64})
    assert network.weights == 270_638_579_713
    assert network.multiply_adds == 784 * 65_536 + 63 * 65_536**2 + 65_536
    assert len(found) == 64
