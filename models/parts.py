"""A network in several rooms: each trains its own part of it, and only what passes a cut goes between them.

Gupta and Raskar 2018, algorithm 1: the first part sends what its last layer gives for a batch; the last one computes
the loss, changes its own weights, and sends back the gradient of what it was given; with that the first part changes
its weights. Parts in between do both. After any number of steps all weights are those of the network in one piece,
bit for bit, as long as what is sent is float32.

    images    float32 [n, height, width, channels], in 0..1
    features  float32 [n, *shape of the cut]: what passes a cut; its gradient has the same shape
    labels    as of `objective`

A part holds only what it needs: `forward` changes nothing, `backward` computes it once more and takes the step. So
nothing of a batch has to be kept in between but the batch itself, and a batch may be sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedssh.models import build, check_spec, is_table
from fedssh.models.augment import augmented
from fedssh.models.backend import compiled, load_keras
from fedssh.models.cut import parts
from fedssh.models.objective import Kind, Objective
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.schedule import Rate
from fedssh.models.training import filling, new_optimizer, seed_generators

ITERATION = "iteration"  # how many steps an optimizer has taken: float32 [2], whole multiples of 2**20, and the rest
_HALF = 1 << 20
# What a step may have only where it has the whole network before it.
_WHOLE = {
    "clip_norm": 0.0,
    "class_weights": "none",
    "calibrate": "none",
    "precision": "float32",
    "unlabelled": "none",
}


class Part:
    """One part of a network, with the optimizer of its weights. For one thread at a time.

    Args:
        spec: The architecture, of the whole network.
        after: The layers after which it is cut, in its order, see `cut`; with none there is one part.
        number: Which part, from 0.
        optimizer, learning_rate, momentum, loss, recipe: As of `training.Trainer`.

    Attributes:
        network: The whole; of its weights only those of the part are trained here.
        first, last: Whether it takes images, and gives what the network gives.
        names: Of its weights, in build order.
        before: The shape of what it is given for one example.
        after: The shape of what it gives.
        felt: Of the first part, the gradient of the loss by its first weights in the last step: float32 [their number].
            None before a step, and where nothing is trained here. By it a site sees what it is taught, see `watching`.

    Raises:
        ValueError: The network cannot be cut there, or the recipe needs it in one piece.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        after: Sequence[str],
        number: int,
        optimizer: str,
        learning_rate: float,
        momentum: float = 0.0,
        loss: str | None = None,
        recipe: Recipe = PLAIN,
    ) -> None:
        load_keras()
        self.spec = check_spec(spec)
        check_recipe(recipe)
        if recipe.augment != "none" and is_table(self.spec):
            raise ValueError(f"augment changes images ({recipe.augment}), and this network takes a table")
        self.network = build(self.spec)
        self.first, self.last = number == 0, number == len(after)
        self._part = parts(self.network, after)[number]
        self.before = tuple(self._part.inputs[0].shape[1:])
        self.after = tuple(self._part.outputs[0].shape[1:])
        self.names = tuple(variable.path for variable in self._part.weights)
        self._objective = Objective(self.spec, loss)
        self.measure = self._objective.measure
        self._rate = Rate(learning_rate, recipe)
        decay = recipe.weight_decay
        self._optimizer = new_optimizer(optimizer, self._rate.wanted, momentum, weight_decay=decay, fused=True)
        self._trained = list(self._part.trainable_variables)
        self._optimizer.build(self._trained)
        self._reset = filling([variable.value for variable in self._optimizer.variables])
        self._changes = () if recipe.augment == "none" or not self.first else tuple(recipe.augment.split(","))
        self._session: Any = _number(0) if self._changes else None
        self._graphs: dict[str, Callable[..., Any]] = {}
        self.felt: np.ndarray | None = None

    # weights and state

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over the part's weights, by variable path: float32; others are passed over.

        Raises:
            ValueError: One is missing, or has another shape.
        """
        for variable in self._part.weights:
            given = weights.get(variable.path)
            if given is None:
                raise ValueError(f"tensor {variable.path} is missing")
            if tuple(given.shape) != tuple(variable.shape):
                raise ValueError(f"tensor {variable.path} is {given.shape}, expected {tuple(variable.shape)}")
        for variable in self._part.weights:
            variable.assign(weights[variable.path])

    def weights(self) -> dict[str, np.ndarray]:
        """The part's weights by variable path, in build order: float32 arrays that share nothing with it."""
        return {variable.path: np.array(variable.value.numpy(), np.float32) for variable in self._part.weights}

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """Give the optimizer the state of a new one, and every source of random numbers a seed derived from `seed`.

        Args:
            epochs, steps: As of `training.Trainer.fresh`.
        """
        self._reset()
        self.begin(seed, epochs, steps)

    def begin(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """As `fresh`, but the optimizer goes on as it is: what several sites train in turn is one training."""
        self._rate.begin(epochs, steps)
        if self._session is not None:
            self._session.assign(seed)
        seed_generators(self.network, seed)

    def state(self) -> dict[str, np.ndarray]:
        """The optimizer's state by name: float32; with `ITERATION`."""
        return state_of(self._optimizer)

    def load_state(self, state: Mapping[str, np.ndarray], done: int = 0) -> None:
        """Take over what `state` gave, of the same part of the same network; after `fresh` or `begin`.

        Args:
            done: How many of its steps are of the session at hand: the learning rate's schedule is that of a session.

        Raises:
            ValueError: It is another one's.
        """
        load_state_of(self._optimizer, state)
        high, low = (int(one) for one in state[ITERATION])
        self._rate.go_on(high * _HALF + low - done)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what `state` gives."""
        return state_shapes_of(self._optimizer)

    def generators(self) -> dict[str, np.ndarray]:
        """Where the random numbers of the network's layers are, by their place: int64 arrays."""
        return {str(number): np.array(one.value.numpy(), np.int64) for number, one in enumerate(self._states())}

    def load_generators(self, states: Mapping[str, np.ndarray]) -> None:
        """Take over what `generators` gave."""
        for number, state in enumerate(self._states()):
            state.assign(np.asarray(states[str(number)]).astype(state.dtype))

    def _states(self) -> list[Any]:
        weights = {id(variable) for variable in self.network.weights}
        return [variable for variable in self.network.variables if id(variable) not in weights]

    # steps

    def forward(self, given: Any) -> Any:
        """What the part gives in a step of training, for a batch of what it is given; nothing is changed."""
        return self._graph("forward", self._forward, self._given())(given)

    def changed(self, images: Any) -> Any:
        """Of the first part: a batch of images as the step at hand has them, where the recipe changes images."""
        return self._graph("changed", self._changed, self._given())(images) if self._changes else images

    def backward(self, given: Any, gradient: Any) -> Any:
        """Take the step of a batch.

        Args:
            given: What `forward` was called with.
            gradient: Of the loss, by what that gave.

        Returns:
            The gradient by what it was given; None of the first part.
        """
        found = self._graph("backward", self._backward, self._given(), _spec(self.after))(given, gradient)
        return self._told(found)

    def step(self, given: Any, labels: Any) -> tuple[Any, float, float]:
        """Of the last part: take the step of a batch, if its loss is a finite number.

        Returns:
            The gradient by what it was given, None where it is the first part, too; the mean loss of the batch, with
            what regularizers of this part add; how much is right, as of `Objective.right`.
        """
        kind = self._objective.kind
        gradient, loss, right = self._graph("step", self._step, self._given(), _spec(kind.shape, kind.labels))(
            given, labels
        )
        return self._told(gradient), float(loss), float(right)

    def infer(self, given: Any) -> Any:
        """What the part gives outside of training."""
        return self._graph("infer", lambda batch: self._part(batch, training=False), self._given())(given)

    def score(self, given: Any, labels: Any) -> tuple[float, float]:
        """Of the last part: mean loss of a batch, and how much is right; changes nothing."""
        kind = self._objective.kind
        loss, right = self._graph("score", self._score, self._given(), _spec(kind.shape, kind.labels))(given, labels)
        return float(loss), float(right)

    @property
    def kind(self) -> Kind:
        """Of labels."""
        return self._objective.kind

    def _told(self, found: Any) -> Any:
        """What is sent back after a step, and what the first part keeps of it."""
        if not self.first:
            return found
        self.felt = found.numpy() if self._trained else None
        return None

    def _graph(self, name: str, function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
        """Translated when it is needed, and once: batches may come in any number."""
        if name not in self._graphs:
            self._graphs[name] = compiled(function, signature)
        return self._graphs[name]

    def _given(self) -> Any:
        return _spec(self.before)

    def _changed(self, batch: Any) -> Any:
        """Training images as the step at hand has them; the same until a step is taken."""
        if self._session is None:
            return batch
        import tensorflow

        step = tensorflow.cast(self._optimizer.iterations.value, "int64")
        return augmented(batch, self._changes, tensorflow.stack([self._session, step]))

    def _forward(self, batch: Any) -> Any:
        trained, others = self._part.trainable_variables, self._part.non_trainable_variables
        values = [variable.value for variable in trained], [variable.value for variable in others]
        outputs, _ = self._part.stateless_call(*values, self._changed(batch), training=True)
        return outputs

    def _backward(self, batch: Any, gradient: Any) -> Any:
        return self.both_ways(batch)[1](gradient)

    def both_ways(self, batch: Any) -> tuple[Any, Callable[[Any], Any]]:
        """In a graph: what `forward` gives, and what takes the gradient of that, as `backward` does."""
        import tensorflow

        batch = self._changed(batch)
        with tensorflow.GradientTape() as tape:
            tape.watch(batch)
            outputs = self._part(batch, training=True)
            penalties = [tensorflow.reduce_sum(penalty) for penalty in self._part.losses]

        def back(gradient: Any) -> Any:
            weighed = [gradient, *map(tensorflow.ones_like, penalties)]
            return self._stepped(tape, [outputs, *penalties], batch, weighed)

        return outputs, back

    def last_step(self, batch: Any, labels: Any) -> tuple[Any, Any, Any]:
        """In a graph: what `step` does."""
        return self._step(batch, labels)

    def _step(self, batch: Any, labels: Any) -> tuple[Any, Any, Any]:
        import tensorflow

        batch = self._changed(batch)
        with tensorflow.GradientTape() as tape:
            tape.watch(batch)
            outputs = self._part(batch, training=True)
            loss = self._objective.mean(labels, outputs, self._part.losses)
        found = self._stepped(tape, loss, batch, None, tensorflow.math.is_finite(loss))
        return found, loss, self._objective.right(labels, outputs)

    def _stepped(self, tape: Any, target: Any, batch: Any, weighed: Any, when: Any = None) -> Any:
        """Take the step, and give the gradient by what the part was given; of the first part, by its first weights.

        Args:
            when: Whether to take it; None is always.
        """
        import tensorflow

        trained = [variable.value for variable in self._trained]
        sources = [*trained, *([] if self.first else [batch])]
        gradients = tape.gradient(target, sources, output_gradients=weighed)
        # With the gradient given from outside, nothing makes a graph use a weight before it changes it: of 400 steps of
        # batch normalisation and plain descent, 8 had the gradient by the changed scale.
        with tensorflow.control_dependencies(tensorflow.nest.flatten(gradients, expand_composites=True)):
            if trained and when is None:
                self._optimizer.apply(gradients[: len(trained)], self._trained)
            elif trained:
                tensorflow.cond(when, lambda: self._apply(gradients[: len(trained)]), lambda: False)
            if self.first:
                return tensorflow.reshape(gradients[0], [-1]) if trained else tensorflow.zeros(())
            return tensorflow.identity(gradients[-1])

    def _apply(self, gradients: Any) -> bool:
        self._optimizer.apply(gradients, self._trained)
        return True

    def _score(self, batch: Any, labels: Any) -> tuple[Any, Any]:
        outputs = self._part(batch, training=False)
        return self._objective.mean(labels, outputs, self._part.losses), self._objective.right(labels, outputs)


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError where a recipe needs the whole network in one room."""
    for name, usual in _WHOLE.items():
        if (found := getattr(recipe, name)) != usual:
            raise ValueError(f"{name} is {found}, but a network in several parts has none: no part knows the others")


def state_of(optimizer: Any) -> dict[str, np.ndarray]:
    """An optimizer's state by name: float32; with `ITERATION`."""
    steps = int(optimizer.iterations.value.numpy())
    slots = {name: np.array(variable.value.numpy(), np.float32) for name, variable in _slots(optimizer).items()}
    return {ITERATION: np.array(divmod(steps, _HALF), np.float32), **slots}


def load_state_of(optimizer: Any, state: Mapping[str, np.ndarray]) -> None:
    """Give an optimizer what `state_of` gave of one of the same weights.

    Raises:
        ValueError: It is another one's.
    """
    check_state(state, state_shapes_of(optimizer))
    high, low = (int(one) for one in state[ITERATION])
    optimizer.iterations.assign(high * _HALF + low)
    for name, variable in _slots(optimizer).items():
        variable.assign(state[name])


def state_shapes_of(optimizer: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of what `state_of` gives."""
    return {ITERATION: (2,), **{name: tuple(variable.shape) for name, variable in _slots(optimizer).items()}}


def _slots(optimizer: Any) -> dict[str, Any]:
    """What an optimizer remembers, by a name without its own, of which a process may have several."""
    apart = {id(optimizer.iterations), id(getattr(optimizer, "_learning_rate", None))}
    return {
        str(variable.path).partition("/")[2] or f"slot{number}": variable
        for number, variable in enumerate(optimizer.variables)
        if id(variable) not in apart
    }


def check_state(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where an optimizer's state is not of these shapes."""
    for name in [*shapes, *state]:
        if name not in state or name not in shapes:
            raise ValueError(f"the optimizer's state {'lacks' if name in shapes else 'has'} {name}")
        if tuple(state[name].shape) != shapes[name]:
            raise ValueError(f"{name} of the optimizer's state is {state[name].shape}, expected {shapes[name]}")


def _number(value: int) -> Any:
    import tensorflow

    return tensorflow.Variable(value, dtype="int64", trainable=False)


def _spec(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    import tensorflow

    return tensorflow.TensorSpec([None, *shape], dtype)
