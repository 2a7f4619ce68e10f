"""The learning half of fedssh: neural network architectures, images and scores.

An architecture is a module in `networks/` with three names; adding one is adding a file:

    PARAMETERS              dict of its own parameters and their defaults, such as {"depth": 4, "dropout": 0.3}
    check(spec)             raises ValueError when such a network cannot be built; loads no Keras
    hidden(images, spec)    the layers between input and output; every layer has a fixed name

A *spec* names one network: {"name": "cnn", "depth": 4, "input": [28, 28, 1], "classes": 2}, where `name` is the
file's name, `input` is height, width and channels, and everything else is of the kind of its default: a whole number,
a number, yes or no, or a short text. Networks of one's own lie elsewhere, see `own`; those of `keras.applications` are
called `keras:MobileNetV2` and so on, see `applications`. Of any network, `frozen` says which layers are not trained,
see `freezing`; a spec without it trains all. Another task may stand in the place of `classes`, see `tasks`. Of a table
of features `kind` is `table`, and `input` is 1, how many numbers a row has, and 1.

Nothing here imports Keras before `build` is called.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from fedssh.models import applications, freezing, networks, own, tasks

if TYPE_CHECKING:
    import keras
    import numpy as np

TABLE = "table"  # a spec's `kind`; images have none
MAX_PIXELS = 4096 * 4096
MAX_CHANNELS = 16
MAX_CLASSES = 10_000
MAX_TARGETS = 100
MAX_LABELS = 1000
MAX_PARAMETER = 65_536
MAX_NUMBER = 1e12
MAX_TEXT = 200
Parameter = int | float | bool | str


class Architecture(Protocol):
    """What a module must offer to be found by `architectures`."""

    PARAMETERS: Mapping[str, Parameter]

    def check(self, spec: Mapping[str, Any]) -> None:
        """Raise ValueError when no such network can be built; load no Keras."""
        ...

    def hidden(self, images: Any, spec: Mapping[str, Any]) -> Any:
        """The layers between images, float32 [n, height, width, channels], and the output; their names are fixed."""
        ...


def architectures() -> tuple[str, ...]:
    """The names that a spec may have, in alphabetical order."""
    found = {name for name in _modules() if _architecture(name) is not None}
    return tuple(sorted({*found, *(name for name in own.names() if name not in _modules())}))


def is_own(name: str) -> bool:
    """Whether a network does not come with fedssh, but as a file of one's own or with Keras."""
    return name not in _modules()


def check_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return `spec` with every default written out, so that equal networks have equal specs. Loads no Keras.

    Args:
        spec: Needs `name`, `input` and `classes`, or what another task has in its place; may come from a stranger, so
            every number is bounded.

    Raises:
        ValueError: The spec names no network that can be built here; the message says which part is wrong.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"a spec is a table of names and values, found {type(spec).__name__}")
    name = spec.get("name")
    architecture = _architecture(name) if isinstance(name, str) else None
    if architecture is None:
        raise ValueError(f"no architecture is called {name!r}{_near(str(name))}")
    task = tasks.task_of(spec)
    of_task = tasks.members(task)
    for key in ("input", *of_task):
        if key not in spec:
            raise ValueError(f"the spec of {name} lacks {key!r}")
    known = ("name", "input", *of_task, *architecture.PARAMETERS, "frozen", "kind")
    for key in spec:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}{_nearest(str(key), known)}")

    checked: dict[str, Any] = {"name": name, "input": _check_input(spec["input"])}
    if task == tasks.CLASSES:
        checked["classes"] = _whole("classes", spec["classes"], 2, MAX_CLASSES)
    else:
        checked["task"] = task
        if task == tasks.REGRESSION:
            checked["targets"] = tasks.check_targets(spec["targets"], MAX_TARGETS)
        else:
            checked["labels"] = _whole("labels", spec["labels"], 1, MAX_LABELS)
    for key, default in architecture.PARAMETERS.items():
        checked[key] = _parameter(key, spec.get(key, default), default)
    if "frozen" in spec and "frozen" not in checked:  # else it is a parameter of the network's own
        checked["frozen"] = freezing.check(spec["frozen"])
    if "kind" in spec and "kind" not in checked:
        if spec["kind"] != TABLE or checked["input"] != [1, checked["input"][1], 1]:
            raise ValueError(f"{TABLE} is the only kind, with an input of [1, numbers, 1]; found {spec['kind']!r}")
        checked["kind"] = TABLE
    architecture.check(checked)
    return checked


def is_table(spec: Mapping[str, Any]) -> bool:
    """Whether a checked spec is of a network for tables of features."""
    return spec.get("kind") == TABLE


def build(spec: Mapping[str, Any], precision: str = "float32") -> keras.Model:
    """Build the network that `spec` names, with random weights and not compiled.

    Two classes end in one sigmoid unit (the probability of class 1), more in a softmax over all classes, several
    labels at once in a sigmoid unit each, targets of a regression in a linear unit each. Layer names are fixed, so the
    same spec always gives the same variable paths.

    Args:
        precision: `mixed` has all layers but the output compute in bfloat16; weights are float32 all the same.

    Raises:
        ValueError: As `check_spec`.
    """
    from fedssh.models.backend import load_keras

    keras = load_keras()
    usual = keras.config.dtype_policy()
    if precision == "mixed":
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return _build(keras, check_spec(spec))
    finally:
        keras.config.set_dtype_policy(usual)


def _build(keras: Any, spec: Mapping[str, Any]) -> keras.Model:
    architecture = _architecture(spec["name"])
    assert architecture is not None
    images = keras.Input(shape=tuple(spec["input"]), name="images")
    hidden = architecture.hidden(images, spec)
    if tasks.task_of(spec) == tasks.LABELS:
        output = keras.layers.Dense(spec["labels"], activation="sigmoid", name="output", dtype="float32")(hidden)
    elif tasks.task_of(spec) == tasks.REGRESSION:
        output = keras.layers.Dense(len(spec["targets"]), name="output", dtype="float32")(hidden)
    elif spec["classes"] == 2:
        output = keras.layers.Dense(1, activation="sigmoid", name="output", dtype="float32")(hidden)
    else:
        output = keras.layers.Dense(spec["classes"], activation="softmax", name="output", dtype="float32")(hidden)
    network = keras.Model(images, output, name=spec["name"].replace(":", "_"))
    if isinstance(architecture, applications.Application):
        network = architecture.settled(network, spec)
    if "frozen" in spec and "frozen" not in architecture.PARAMETERS:
        freezing.freeze(network, spec["frozen"])
    return network


def shapes(spec: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights of `build(spec)` by variable path, in build order, without making any of them.

    Takes next to no memory however large the network is, so a spec of a stranger can be measured first, see
    `stateless`.

    Raises:
        ValueError: As `check_spec`.
    """
    with stateless():
        return {variable.path: tuple(variable.shape) for variable in build(spec).weights}


@contextlib.contextmanager
def stateless() -> Iterator[None]:
    """Build networks within, of which no weight is made; only how they are made up can be asked.

    Networks built before are not to be built upon afterwards, as after `keras.utils.clear_session`.
    """
    from fedssh.models.backend import load_keras

    keras = load_keras()
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        keras.utils.clear_session(free_memory=False)  # else Keras would make them up for later


def loss_name(spec: Mapping[str, Any]) -> str:
    """The Keras loss that fits the output of `build(spec)` and labels: class numbers, or standardised targets."""
    if tasks.task_of(spec) == tasks.REGRESSION:
        return "mean_squared_error"
    if tasks.task_of(spec) == tasks.LABELS:
        return "binary_crossentropy"
    return "binary_crossentropy" if spec["classes"] == 2 else "sparse_categorical_crossentropy"


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights by variable path, in build order: float32 arrays that share nothing with the model."""
    import numpy as np

    # TensorFlow's `numpy` copies already
    return {variable.path: np.asarray(variable.value.numpy(), dtype=np.float32) for variable in model.weights}


def set_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Replace all weights of `model`; it is left as it was when a name or a shape does not fit.

    Args:
        weights: float32, by variable path: arrays, or what `tensors_of` made of them, which is quicker.

    Raises:
        ValueError: `weights` holds other tensors than `model`; the message names one of them.
    """
    variables = {variable.path: variable for variable in model.weights}
    for path in [*variables, *weights]:
        if path not in weights:
            raise ValueError(f"tensor {path} is missing")
        if path not in variables:
            raise ValueError(f"tensor {path} is not part of {model.name}")
        if tuple(weights[path].shape) != tuple(variables[path].shape):
            raise ValueError(f"tensor {path} is {weights[path].shape}, expected {tuple(variables[path].shape)}")
    for path, variable in variables.items():
        if variable.value.dtype == "float32":  # past Keras, which would copy and look at shapes once more
            variable.value.assign(weights[path], read_value=False)
        else:
            variable.assign(weights[path])


def tensors_of(weights: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Weights as tensors, for networks that shall get the same ones many times: float32, by variable path."""
    import tensorflow

    with tensorflow.device("/CPU:0"):
        return {path: tensorflow.constant(array, tensorflow.float32) for path, array in weights.items()}


def statistics(model: keras.Model) -> frozenset[str]:
    """The paths of the weights that no gradient changes: moving statistics of batch normalisation, and frozen layers.

    Where models are averaged, these are averaged, too; they are no place for a step of an optimizer.
    """
    return frozenset(variable.path for variable in model.non_trainable_weights)


def batch_normalisation(model: keras.Model) -> frozenset[str]:
    """The paths of all weights of batch normalisation: scale, shift, and the moving statistics."""
    from fedssh.models.backend import load_keras

    kind = load_keras().layers.BatchNormalization
    found = (layer for layer in _with_inner(model.layers) if isinstance(layer, kind))
    return frozenset(variable.path for layer in found for variable in layer.weights)


def _with_inner(layers: Iterable[Any]) -> Iterator[Any]:
    """Layers, and those of networks among them."""
    for layer in layers:
        yield layer
        yield from _with_inner(getattr(layer, "layers", ()))


def _modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(networks.__path__) if not module.ispkg)


def _architecture(name: str) -> Architecture | None:
    if (application := applications.load(name)) is not None:
        return cast(Architecture, application)
    if name in _modules():
        module = importlib.import_module(f"{networks.__name__}.{name}")
    elif (found := own.load(name)) is not None:
        module = found
    else:
        return None
    missing = [part for part in ("PARAMETERS", "check", "hidden") if not hasattr(module, part)]
    if missing and is_own(name):
        raise ValueError(f"the network {name} ({module.__file__}) lacks {' and '.join(missing)}")
    return None if missing else cast(Architecture, module)


def _check_input(value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError(f"input is height, width and channels, found {value!r}")
    height, width = (_whole("input", size, 1, MAX_PIXELS) for size in value[:2])
    if math.prod((height, width)) > MAX_PIXELS:
        raise ValueError(f"input has {height} x {width} pixels, at most {MAX_PIXELS:,} are allowed")
    return [height, width, _whole("input channels", value[2], 1, MAX_CHANNELS)]


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number in {low}..{high:,}, found {value!r}")
    return value


def _parameter(name: str, value: Any, default: Parameter) -> Parameter:
    """A parameter of the kind of its default."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, found {value!r}")
        return value
    if isinstance(default, int):
        return _whole(name, value, 1, MAX_PARAMETER)
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_NUMBER:
            raise ValueError(f"{name} must be a number, found {value!r}")
        return float(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"{name} must be a short text, found {value!r}")
    return value


def _near(name: str) -> str:
    """What somebody may have meant by a name that is none."""
    if not difflib.get_close_matches(name, architectures(), 1) and (found := applications.near(name)):
        return f"; did you mean {found!r}?"
    return _nearest(name, (*architectures(), f"{applications.PREFIX}NAME of keras.applications"))


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
