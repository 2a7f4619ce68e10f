"""Training on several GPUs at once: each has a replica of the network and a part of every batch.

Keras drives it, with `tensorflow.distribute`. One device is the business of `models.training`, which is much quicker
for small networks and gives the same bits as a simulation.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedssh import models
from fedssh.errors import SettingsError
from fedssh.models import tasks
from fedssh.models.backend import load_keras
from fedssh.models.streaming import streams
from fedssh.models.training import Examples, Interrupted, new_optimizer, seed_generators
from fedssh.rules.plan import Plan

SCORED_AT_ONCE = 64


class Replicas:
    """A network on several devices, with the methods of `models.training.Trainer`.

    Args:
        strategy: TensorFlow's way of spreading it.
        spec: The architecture.
        plan: How to train.
        loss: The name of the Keras loss.

    Raises:
        SettingsError: The plan has a proximal term, or something else that only one device can train with.
    """

    measure, task = "accuracy", tasks.CLASSES

    def __init__(self, strategy: Any, spec: Mapping[str, Any], plan: Plan, loss: str) -> None:
        for what in _needs_one(plan):
            number = strategy.num_replicas_in_sync
            hint = "show alice one of them, as with CUDA_VISIBLE_DEVICES=0"
            raise SettingsError(f"the plan's {what} needs one device, found {number} GPUs", hint)
        if tasks.task_of(spec) != tasks.CLASSES:
            number = strategy.num_replicas_in_sync
            hint = "show alice one of them, as with CUDA_VISIBLE_DEVICES=0"
            raise SettingsError(f"the task {tasks.task_of(spec)} needs one device, found {number} GPUs", hint)
        self._strategy = strategy
        self._classes = spec["classes"]
        with strategy.scope():
            self.network = models.build(spec)
            self._optimizer = new_optimizer(
                plan.optimizer, plan.learning_rate, plan.momentum, plan.clip_norm, plan.weight_decay
            )
            self._optimizer.build(self.network.trainable_variables)
            self.network.compile(self._optimizer, loss=loss, metrics=["accuracy"])
        self._as_new = [np.array(variable.numpy()) for variable in self._optimizer.variables]

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over all weights.

        Raises:
            ValueError: They are not those of this network.
        """
        models.set_weights(self.network, weights)

    def weights(self) -> dict[str, np.ndarray]:
        """The weights as they are now."""
        return models.get_weights(self.network)

    def fresh(self, seed: int, epochs: int = 1, steps: int = 1) -> None:
        """Give the optimizer the state of a new one; making a new one would translate the graphs again.

        How long the session is matters to no plan that is trained here.
        """
        for variable, value in zip(self._optimizer.variables, self._as_new, strict=True):
            variable.assign(value)
        seed_generators(self.network, seed)

    def epoch(
        self, examples: Examples, order: np.ndarray, batch_size: int, stop: threading.Event | None = None
    ) -> tuple[float, float]:
        """Train once through `order`.

        A short last batch is left out: some replica might get nothing of it, and the mean of nothing is NaN.

        Raises:
            Interrupted: `stop` was set.
        """
        replicas = self._strategy.num_replicas_in_sync
        size = max(min(batch_size, len(order)) // replicas * replicas, replicas)
        batches = _batches(examples, order, size, drop_remainder=True)
        shown = self.network.fit(batches, shuffle=False, verbose=0, callbacks=[_stopper(stop)]).history
        return float(shown["loss"][0]), float(shown["accuracy"][0])

    def confusion(self, examples: Examples, stop: threading.Event | None = None) -> np.ndarray:
        """How many examples of each class (rows) are taken for which (columns): int64 [classes, classes].

        Raises:
            Interrupted: `stop` was set.
            SettingsError: There are too few examples for the replicas.
        """
        size = even_batch(len(examples), SCORED_AT_ONCE, self._strategy.num_replicas_in_sync)
        batches = _batches(examples, np.arange(len(examples)), size).map(lambda images, labels: images)
        outputs = self.network.predict(batches, verbose=0, callbacks=[_stopper(stop)])
        predicted = outputs[:, 0] > 0.5 if self._classes == 2 else outputs.argmax(axis=1)
        counts = np.zeros((self._classes, self._classes), np.int64)
        np.add.at(counts, (examples.labels.numpy(), predicted.astype(np.int64)), 1)
        return counts

    def evaluate(self, examples: Examples, stop: threading.Event | None = None) -> tuple[float, float]:
        """Mean loss and accuracy of all examples.

        Raises:
            Interrupted: `stop` was set.
            SettingsError: There are too few examples for the replicas.
        """
        size = even_batch(len(examples), SCORED_AT_ONCE, self._strategy.num_replicas_in_sync)
        batches = _batches(examples, np.arange(len(examples)), size)
        scores = self.network.evaluate(batches, verbose=0, return_dict=True, callbacks=[_stopper(stop)])
        return float(scores["loss"]), float(scores["accuracy"])


def _needs_one(plan: Plan) -> list[str]:
    """What of a plan Keras' own way of training does not have."""
    here = {"proximal": "proximal term", "class_weights": "class weights", "augment": "augmentation"}
    here |= {"precision": "mixed precision", "calibrate": "calibrated loss", "unlabelled": "learning without labels"}
    here |= {"privacy": "privacy"}
    here |= {"learning_rate_schedule": "learning-rate schedule", "warmup": "warm-up"}
    return [words for name, words in here.items() if getattr(plan, name) != getattr(Plan, name)]


def even_batch(examples: int, wanted: int, replicas: int) -> int:
    """The batch size next to `wanted` at which every replica gets something of every batch, also of the last.

    Raises:
        SettingsError: There is no such size, because there are hardly any examples.
    """
    sizes = sorted(range(replicas, examples + 1, replicas), key=lambda size: abs(size - wanted))
    for size in sizes:
        rest = examples % size
        if not rest or rest > size // replicas * (replicas - 1):
            return size
    raise SettingsError(f"{examples} validation images cannot be shared by {replicas} GPUs", "use fewer GPUs")


def _batches(examples: Examples, order: np.ndarray, size: int, drop_remainder: bool = False) -> Any:
    import tensorflow

    options = tensorflow.data.Options()
    options.experimental_distribute.auto_shard_policy = tensorflow.data.experimental.AutoShardPolicy.OFF
    places = tensorflow.data.Dataset.from_tensor_slices(order).batch(size, drop_remainder=drop_remainder)

    def chosen(at: Any) -> tuple[Any, Any]:
        if not streams(examples):
            return tensorflow.gather(examples.images, at), tensorflow.gather(examples.labels, at)
        images = tensorflow.numpy_function(examples.images.read, [at], tensorflow.float32)
        return tensorflow.ensure_shape(images, [None, *examples.images.shape[1:]]), tensorflow.gather(
            examples.labels, at
        )

    return places.map(chosen).prefetch(2).with_options(options)


def _stopper(stop: threading.Event | None) -> Any:
    """A Keras callback that ends training and scoring between two batches."""
    keras: Any = load_keras()

    class Stopper(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            if stop is not None and stop.is_set():
                raise Interrupted

        def on_test_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            self.on_train_batch_end(batch)

        def on_predict_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            self.on_train_batch_end(batch)

    return Stopper()
