"""Training one network: a whole epoch is one call of a compiled graph, and the same seed gives the same weights.

A `Trainer` builds its network, its optimizer and its graphs once. After that any number of sites can train in it, one
after the other: `load` brings a site's weights, `fresh` makes the optimizer and the random numbers of dropout as new,
`epoch` trains. Which trainer did it, and what was trained in it before, leaves no trace in the weights.

    images   float32 [n, height, width, channels], in 0..1     resident: made once, see `resident`; or in a file, and
             read while they are used, see `streaming`
    labels   int64 [n], in 0..classes-1; of several at once int64 [n, labels], 0 or 1;
             of a regression float32 [n, targets], standardised
    order    int [m], indices into both: what an epoch goes through, batch by batch, the last batch may be short

Keras' own `fit` does the same arithmetic, but enters the graph once per batch and prepares each call anew, which for a
small network and a few hundred images takes many times as long as the arithmetic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.models import build, check_spec, fixmatch, get_weights, is_table, set_weights, tasks
from fedssh.models.augment import augmented, strongly
from fedssh.models.backend import compiled, load_keras
from fedssh.models.calibrated import calibrated, shift
from fedssh.models.data.pixel_file import PixelFile
from fedssh.models.fused import fused_sgd, same_bits
from fedssh.models.objective import PLAIN_KIND, Kind, Objective
from fedssh.models.recipe import PLAIN, Recipe, balanced
from fedssh.models.schedule import Rate
from fedssh.models.streaming import slices

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

SCORED_AT_ONCE = 64  # images; larger batches are no quicker on a CPU and take more memory
SLICE_SECONDS = 0.3  # how long a graph may run when somebody may want to stop


class Interrupted(Exception):
    """Somebody asked to stop; the weights are somewhere between two epochs."""


@dataclass(frozen=True)
class Examples:
    """Labelled images as tensors, which any number of trainers may read at the same time.

    Attributes:
        images: float32 [n, height, width, channels], in 0..1; or a `PixelFile` of them.
        labels: int64 [n]; several at once [n, labels]; of a regression float32 [n, targets], standardised.
        count: n.
        patients: [n], equal for images of one patient; None where the data does not say.
        unlabelled: More of the site's images, whose labels nobody knows: float32 [m, height, width, channels], in main
            memory; None where there are none. A trainer learns from them where its recipe says how.
    """

    images: Any
    labels: Any
    count: int
    patients: np.ndarray | None = None
    unlabelled: Any = None

    def __len__(self) -> int:
        return self.count


def resident(images: Images, spec: Mapping[str, Any] | None = None, unlabelled: np.ndarray | None = None) -> Examples:
    """Put images where the graphs read them, in main memory. Do it once and keep the result.

    Those that stand in a file stay there.

    Args:
        spec: Of the network, where it predicts numbers: its figures standardise the targets.
        unlabelled: As of `Examples`.
    """
    load_keras()
    import tensorflow

    with tensorflow.device("/CPU:0"):
        in_file = isinstance(images.images, PixelFile)
        pixels = images.images if in_file else tensorflow.constant(np.asarray(images.images, np.float32))
        if spec is not None and tasks.task_of(spec) == tasks.REGRESSION:
            labels = tensorflow.constant(tasks.standardised(images.labels, spec))
        else:
            labels = tensorflow.constant(np.asarray(images.labels, np.int64))
        others = None if unlabelled is None else tensorflow.constant(np.asarray(unlabelled, np.float32))
        return Examples(pixels, labels, len(images), images.patients, others)


def new_optimizer(
    name: str,
    learning_rate: Any,
    momentum: float = 0.0,
    clip_norm: float = 0.0,
    weight_decay: float | None = None,
    fused: bool = False,
) -> Any:
    """A Keras optimizer by its lower-case name.

    Args:
        learning_rate: A number, or a Keras schedule.
        clip_norm, weight_decay: As in `Recipe`. The decay is decoupled from the gradient (Loshchilov and Hutter 2019).
        fused: Whether `sgd` may take its step by one operation for each tensor, see `fused`; the bits are the same. Not
            beside clipping and decay, whose products TensorFlow merges with those of Keras' step.

    Raises:
        ValueError: Momentum with another optimizer than `sgd`.
    """
    config: dict[str, Any] = {"learning_rate": learning_rate}
    if momentum:
        if name != "sgd":
            raise ValueError(f"momentum {momentum:g} needs the optimizer sgd, found {name}")
        config["momentum"] = momentum
    if clip_norm:
        config["global_clipnorm"] = clip_norm
    if weight_decay is not None:
        config["weight_decay"] = weight_decay
    if fused and name == "sgd" and config.keys() <= {"learning_rate", "momentum"} and same_bits():
        return fused_sgd(config)
    return load_keras().optimizers.get({"class_name": name, "config": config})


def optimizer_of(plan: Mapping[str, Any]) -> Any:
    """The optimizer of a plan as it stands in a release, at the plan's own rate throughout."""
    more = {name: plan[name] for name in ("momentum", "clip_norm", "weight_decay") if name in plan}
    return new_optimizer(plan["optimizer"], plan["learning_rate"], **more)


def seed_generators(network: Any, seed: int) -> None:
    """Let the random numbers of a network's layers, such as dropout, begin anew from a seed.

    A generator's state is its own seed and a count of what was drawn. Keras' `set_random_seed` does not touch it.
    """
    weights = {id(variable) for variable in network.weights}
    states = [variable for variable in network.variables if id(variable) not in weights]
    for number, state in enumerate(states):
        own = np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0] >> 1
        state.assign(np.array([own, 0]).astype(state.dtype))


class Trainer:
    """One network with its optimizer and its compiled graphs. For one thread at a time.

    Args:
        spec: The architecture.
        optimizer: The lower-case name of a Keras optimizer.
        learning_rate: Greater than 0.
        momentum: In 0..1, with `sgd` only: v = momentum * v - learning_rate * g; w = w + v.
        proximal: The mu of FedProx (Li et al. 2020, equation 2): the loss gains mu/2 * |w - w_loaded|^2 over the
            weights that are trained, so each gradient gains mu * (w - w_loaded). 0 is plain training.
        loss: The name of a Keras loss; None is the one that fits the number of classes.
        recipe: What else belongs to a step.
        directed: Whether something constant is added to the gradients, see `direct`; until then it is 0.

    Attributes:
        measure: What `epoch` and `evaluate` tell beside the loss: `accuracy`, or `mae`, in the targets' own units.
        task: What the network is for, see `tasks`.

    Raises:
        ValueError: The spec names no network that can be built here, the optimizer has no momentum, or the loss shall
            be weighted by classes or calibrated for them where there are none, or both; or it cannot learn from
            images without labels as the recipe says.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        optimizer: str,
        learning_rate: float,
        momentum: float = 0.0,
        proximal: float = 0.0,
        loss: str | None = None,
        recipe: Recipe = PLAIN,
        directed: bool = False,
    ) -> None:
        load_keras()
        import tensorflow

        self._recipe = recipe
        self.spec = check_spec(spec)
        if recipe.augment != "none" and is_table(self.spec):
            raise ValueError(f"augment changes images ({recipe.augment}), and this network takes a table")
        self.network = build(self.spec, recipe.precision)
        self._objective = Objective(self.spec, loss)
        self.measure, self.task = self._objective.measure, self._objective.task
        self._rate = Rate(learning_rate, recipe)
        decay = recipe.weight_decay
        self._optimizer = new_optimizer(optimizer, self._rate.wanted, momentum, recipe.clip_norm, decay, fused=True)
        self._optimizer.build(self.network.trainable_variables)
        self._reset = filling([variable.value for variable in self._optimizer.variables])
        self._proximal = proximal
        self._trained = [variable.value for variable in self.network.trainable_variables]
        self._loaded = [tensorflow.Variable(variable, trainable=False) for variable in self._trained if proximal]
        zeros = map(tensorflow.zeros_like, self._trained if directed else ())
        self._direction = [tensorflow.Variable(zero, trainable=False) for zero in zeros]
        self._weights_of = None  # of each class: float32 [classes], filled for every epoch
        if recipe.class_weights == "balanced":
            if tasks.task_of(self.spec) != tasks.CLASSES:
                raise ValueError(f"class weights need classes, but the network {tasks.shown(self.spec)}")
            self._weights_of = tensorflow.Variable(tensorflow.ones(self.spec["classes"]), trainable=False)
        self._shift = None  # of logits: float32 [classes], or [1] of two, filled for every epoch
        if recipe.calibrate == "labels":
            self._check_calibrated()
            classes = self.spec["classes"]
            self._shift = tensorflow.Variable(tensorflow.zeros(1 if classes == 2 else classes), trainable=False)
        self._changes = () if recipe.augment == "none" else tuple(recipe.augment.split(","))
        self._fixmatch = fixmatch.read(recipe.unlabelled)
        seeded = self._changes or self._fixmatch
        self._session = tensorflow.Variable(0, dtype="int64", trainable=False) if seeded else None
        kind = self._objective.kind
        self._training = Loop(self._train_batches, self.spec["input"], kind=kind)
        self._ratio = 0  # how many images without labels come with each labelled one
        self._seed, self._steps = 0, 0
        if self._fixmatch is not None:
            fixmatch.check_spec(self.spec)
            self._teacher = fixmatch.Teacher(self.spec, recipe.precision, self.network, self._fixmatch)
            self._begin_teacher = compiled(self._teacher.begin)
            self._with_others(self._mixed_batches, self._fixmatch.ratio)
        self._scoring = Loop(self._score_batches, self.spec["input"], kind=kind)
        self._confusing: Loop | None = None  # translated when somebody asks for it

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over all weights, by variable path; `proximal` pulls towards them from now on.

        Raises:
            ValueError: They are not those of this network.
        """
        set_weights(self.network, weights)
        for loaded, variable in zip(self._loaded, self._trained, strict=bool(self._proximal)):
            loaded.assign(variable)

    def direct(self, direction: Mapping[str, np.ndarray]) -> None:
        """Add this to the gradient of every step from now on, whatever is loaded, as SCAFFOLD does with c - c_i.

        Karimireddy et al. 2020, algorithm 1.

        Args:
            direction: Of each weight that is trained, by variable path: float32, of the weight's shape.

        Raises:
            ValueError: The trainer was not made `directed`, or these are not the weights that it trains.
        """
        names = [variable.path for variable in self.network.trainable_variables]
        if not self._direction:
            raise ValueError("this trainer was not made to be directed")
        if sorted(names) != sorted(direction):
            raise ValueError(f"a direction is of {', '.join(names)}, which are trained, found {', '.join(direction)}")
        for name, added in zip(names, self._direction, strict=True):
            added.assign(direction[name])

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by variable path, in build order: float32 arrays that share nothing with the network."""
        return get_weights(self.network)

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """Give the optimizer the state of a new one, and every source of random numbers a seed derived from `seed`.

        Args:
            epochs: The most that the session has; its learning rate may depend on it.
            steps: Of an epoch.
        """
        self._reset()
        self._rate.begin(epochs, steps)
        if self._session is not None:
            self._session.assign(seed)
        if self._fixmatch is not None:
            self._begin_teacher()
        self._seed, self._steps = seed, 0
        seed_generators(self.network, seed)

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        """Train once through `order`, in batches of `batch_size` and a last one of what is left.

        Args:
            stop: When it is set, training ends within about a second, or after the batch at hand if that takes longer.
                Only with it are the batches computed in several calls, which changes no weight.

        Returns:
            Mean loss (weighted by class or calibrated where the recipe says so, with what regularizers add, without
            the proximal term) and `measure` of the examples, each as its batch found it. Of those with labels.

        Raises:
            Interrupted: `stop` was set.
        """
        if self._weights_of is not None:
            self._weights_of.assign(balanced(examples.labels.numpy(), self.spec["classes"]))
        if self._shift is not None:
            self._shift.assign(shift(examples.labels.numpy(), self._recipe.label_shares))
        order = np.asarray(order, np.int64)
        if not self._ratio or examples.unlabelled is None:
            loss, right = self._training.run(examples, order, batch_size, stop)
        else:
            steps, each = -(-len(order) // batch_size), self._ratio * batch_size
            places = fixmatch.places(self._seed, len(examples.unlabelled), self._steps, steps, each)
            loss, right = self._mixing.run(examples, order, batch_size, stop, places)
            self._steps += steps
        return loss, right.item() / len(order)

    def evaluate(self, examples: Examples, stop: threading.Event | None = None) -> tuple[float, float]:
        """Mean loss and `measure` of all examples, as Keras' `evaluate` has them: with what regularizers add.

        Raises:
            Interrupted: `stop` was set.
        """
        loss, right = self._scoring.run(examples, np.arange(len(examples)), SCORED_AT_ONCE, stop)
        return loss, right.item() / len(examples)

    def confusion(self, examples: Examples, stop: threading.Event | None = None) -> np.ndarray:
        """How many examples of each class (rows) are taken for which (columns): int64 [classes, classes].

        Raises:
            Interrupted: `stop` was set.
        """
        if self._confusing is None:
            self._confusing = Loop(self._confuse_batches, self.spec["input"], [self.spec["classes"]] * 2)
        return self._confusing.run(examples, np.arange(len(examples)), SCORED_AT_ONCE, stop)[1]

    def _check_calibrated(self) -> None:
        if self.task != tasks.CLASSES:
            raise ValueError(f"a calibrated loss needs classes, but the network {tasks.shown(self.spec)}")
        if len(self._recipe.label_shares) != self.spec["classes"]:
            count = len(self._recipe.label_shares)
            raise ValueError(f"there are label shares of {count} classes, but the network {tasks.shown(self.spec)}")
        if self._recipe.class_weights != "none":
            raise ValueError("the loss is calibrated or weighted by class, not both")

    def _train_batches(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """A step on one batch, in a graph. Returns its mean loss and the sum of `_right`."""
        import tensorflow

        if self._changes:
            images = augmented(images, self._changes, self._drawn(0))
        with tensorflow.GradientTape() as tape:
            outputs = self.network(images, training=True)
            shifted = outputs if self._shift is None else calibrated(outputs, self._shift)
            loss = self._objective.mean(labels, shifted, self.network.losses, self._weights_of)
        self._apply(tape.gradient(loss, self._trained))
        return loss, self._objective.right(labels, outputs)

    def _mixed_batches(self, images: Any, labels: Any, others: Any) -> tuple[Any, Any]:
        """A step on one batch and images without labels, see `fixmatch`. Returns the same of those with labels."""
        import tensorflow

        assert self._fixmatch is not None
        count = tensorflow.shape(images)[0]
        if self._changes:
            images = augmented(images, self._changes, self._drawn(0))
        guessed, sure = self._teacher.labels(augmented(others, self._changes or ("shifts",), self._drawn(1)))
        images = tensorflow.concat([images, strongly(others, "flips" in self._changes, self._drawn(2))], axis=0)
        every = tensorflow.concat([labels, guessed], axis=0)
        with tensorflow.GradientTape() as tape:
            outputs = self.network(images, training=True)
            shifted = outputs if self._shift is None else calibrated(outputs, self._shift)
            losses = self._objective.each(every, shifted)
            loss = self._objective.reduced(losses[:count], labels, self.network.losses, self._weights_of)
            whole = loss + self._fixmatch.weight * tensorflow.reduce_mean(losses[count:] * sure)
        self._apply(tape.gradient(whole, self._trained))
        self._teacher.follow()
        return loss, self._objective.right(labels, outputs[:count])

    def _with_others(self, batch: Callable[..., tuple[Any, Any]], ratio: int) -> None:
        """Have epochs go through images without labels, too, where there are some.

        Args:
            batch: As of `Loop`, beside.
            ratio: How many of them come with each labelled image.
        """
        self._ratio = ratio
        self._mixing = Loop(batch, self.spec["input"], kind=self._objective.kind, beside=True)

    def _drawn(self, use: int) -> Any:
        """The seed of a step's random numbers, in a graph: int64 [2]. Steps count from 0; other uses below it."""
        import tensorflow

        step = tensorflow.cast(self._optimizer.iterations.value, "int64")
        return tensorflow.stack([self._session, step if not use else -2 * step - use])

    def _apply(self, gradients: list[Any]) -> None:
        """Take a step, in a graph."""
        if self._proximal:
            changes = zip(gradients, self._trained, self._loaded, strict=True)
            gradients = [gradient + self._proximal * (now - before) for gradient, now, before in changes]
        if self._direction:
            gradients = [gradient + added for gradient, added in zip(gradients, self._direction, strict=True)]
        self._optimizer.apply(gradients, self.network.trainable_variables)

    def _score_batches(self, images: Any, labels: Any) -> tuple[Any, Any]:
        outputs = self.network(images, training=False)
        return self._objective.mean(labels, outputs, self.network.losses), self._objective.right(labels, outputs)

    def _confuse_batches(self, images: Any, labels: Any) -> tuple[Any, Any]:
        import tensorflow

        outputs, classes = self.network(images, training=False), self.spec["classes"]
        counts = tensorflow.math.confusion_matrix(
            labels, self._objective.predicted(outputs), classes, dtype=labels.dtype
        )
        return 0.0, counts


class Loop:
    """A compiled loop over batches. Translated once: images and batches may come in any number.

    Args:
        batch: What is done with the images and labels of one batch; returns mean loss and what is counted.
        shape: Height, width and channels.
        counts: The shape of what is counted; none is a number, of right ones.
        kind: Of labels, and of what is counted.
        beside: Whether a batch comes with images without labels, which are the third that `batch` takes.
    """

    def __init__(
        self, batch: Callable[..., tuple[Any, Any]], shape: list[int], counts: Sequence[int] = (),
        kind: Kind = PLAIN_KIND, beside: bool = False,
    ) -> None:  # fmt: skip
        import tensorflow
        from tensorflow import TensorSpec, float32, float64, int64

        def loop(
            images: Any, labels: Any, order: Any, size: Any, first: Any, last: Any, loss: Any, right: Any, *more: Any
        ) -> tuple[Any, Any]:
            def step(number: Any, loss: Any, right: Any) -> tuple[Any, Any, Any]:
                with tensorflow.device("/CPU:0"):  # where all images lie; a GPU gets only the batch
                    at = order[number * size : (number + 1) * size]
                    count = tensorflow.cast(tensorflow.size(at), float64)
                    chosen = [tensorflow.gather(images, at), tensorflow.gather(labels, at)]
                    if more:
                        chosen.append(tensorflow.gather(more[0], more[1][number]))
                mean, found = batch(*chosen)
                return number + 1, loss + tensorflow.cast(mean, float64) * count, right + found

            end = tensorflow.while_loop(lambda number, *_: number < last, step, (first, loss, right))
            return end[1], end[2]

        whole, number = TensorSpec([None], int64), TensorSpec([], int64)
        labelled = TensorSpec([None, *kind.shape], kind.labels)
        signature = [TensorSpec([None, *shape], float32), labelled, whole, number, number, number]
        signature += [TensorSpec([], float64), TensorSpec(counts, kind.counted)]
        more = [TensorSpec([None, *shape], float32), TensorSpec([None, None], int64)] if beside else []
        self._graph = compiled(loop, signature + more)
        self._none = np.zeros(counts, kind.counted)
        self._constant = tensorflow.constant
        self._at_once = 1

    def run(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None,
        places: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray]:  # fmt: skip
        """Mean loss over `order`, and what was counted.

        Args:
            places: Of the images without labels that each batch comes with: int64 [batches, any].
        """
        size = self._constant(batch_size, "int64")
        loss, right = self._constant(0.0, "float64"), self._constant(self._none)
        before = 0  # batches of slices that are over
        for images, labels, where, batches in slices(examples, order, batch_size):
            done = 0
            more = [] if places is None else [examples.unlabelled, self._constant(places[before : before + batches])]
            before += batches
            while done < batches:
                if stop is not None and stop.is_set():
                    raise Interrupted
                count = batches - done if stop is None else min(self._at_once, batches - done)
                begun = time.perf_counter()
                first, last = (self._constant(number, "int64") for number in (done, done + count))
                loss, right = self._graph(images, labels, where, size, first, last, loss, right, *more)
                right.numpy()  # waits for the device
                self._at_once = max(1, int(count * SLICE_SECONDS / (time.perf_counter() - begun)))
                done += count
        return float(loss) / len(order), right.numpy()


def filling(variables: list[Any]) -> Callable[[], None]:
    """What gives variables the values again that they have now; every Keras optimizer begins with uniform ones."""
    import tensorflow

    values = [np.unique(variable.numpy()) for variable in variables]
    assert all(len(value) == 1 for value in values), "an optimizer's state does not begin uniform"

    def fill() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tensorflow.fill(variable.shape, tensorflow.constant(value[0], variable.dtype)))

    return compiled(fill)
