"""The network under training: Keras, the site's images, and one model object for as long as the architecture stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import models
from agents.alice.exchange import Received
from agents.alice.plan import Plan
from agents.alice.session import session_seed
from agents.errors import SettingsError
from agents.manifest import Local
from agents.weights import read_weights
from models import images
from models.backend import load_keras
from models.images import Images

if TYPE_CHECKING:
    import keras

VALIDATION_SHARE = 0.15
SMALL_NETWORK = 1_000_000  # weights; below, the way into TensorFlow costs as much as the step itself
STEPS_AT_ONCE = 8


_INTERRUPTED = "stopped; the interrupted session begins again at the next start"


class Stopped(Exception):
    """Somebody asked Alice to stop; the text says what that means for the session."""


@dataclass(frozen=True)
class Epoch:
    """How an epoch ended, on the validation split.

    Attributes:
        number: From 1.
        metrics: Loss and accuracy; may be infinite or NaN when training diverged.
    """

    number: int
    metrics: Local


class Network:
    """A model that can take over a release, be scored and be trained.

    Args:
        data: The site's images, an .npz file or a folder.
        seed: Decides which images are held out when there is no val split, and the order of training.
        threads: CPU threads; 0 is all cores.
        logs: Where TensorBoard logs go, a folder per session; None writes none.

    Raises:
        SettingsError: The images cannot be used.
    """

    def __init__(self, data: Path, seed: int, threads: int, logs: Path | None) -> None:
        self._data = data
        self._seed = seed
        self._logs = logs
        try:
            self._splits = images.splits(data)
        except (OSError, ValueError) as error:
            raise SettingsError(str(error), "--data takes an .npz file or a folder of images per class") from None
        self._keras = load_keras(threads)
        self._strategy = _strategy()
        self._spec: dict[str, Any] | None = None
        self._compiled: tuple[Any, ...] = ()
        self._batches: tuple[Any, ...] = ()

    @property
    def devices(self) -> str:
        """What it computes on, for people."""
        import tensorflow

        gpus = tensorflow.config.list_logical_devices("GPU")
        return f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else "CPU"

    @property
    def examples(self) -> int:
        """How many images it trains on."""
        return len(self._train)

    @property
    def validation_examples(self) -> int:
        """How many images it is scored on."""
        return len(self._val)

    def adopt(self, received: Received, plan: Plan) -> Local:
        """Take over a release and return what it scores here.

        Builds the architecture from this site's own `models/` and loads the tensors only when they fit one by one.

        Raises:
            SettingsError: The architecture is not installed here, or the images do not suit it.
            WeightsError: The tensors are not those of the architecture.
        """
        spec = received.header.spec
        if spec != self._spec:
            self._build(spec)
        shapes = {name: tuple(array.shape) for name, array in models.get_weights(self._model).items()}
        weights = read_weights(received.model, shapes)
        self._compile(plan)
        models.set_weights(self._model, weights)
        scores = self._model.evaluate(self._batches_of_val(plan.batch_size), verbose=0, return_dict=True)
        return Local(float(scores["loss"]), float(scores["accuracy"]))

    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights as they are now."""
        return models.get_weights(self._model)

    def fit(
        self, session: int, epochs: int, plan: Plan, ended: Callable[[Epoch], None], stop: threading.Event
    ) -> bool:
        """Train one session from the weights at hand; the same session of the same site always goes the same way.

        Args:
            session: Its number, from 1.
            epochs: The most epochs.
            ended: Called at the end of each epoch, before the next one begins.
            stop: When set, training ends within a few batches.

        Returns:
            Whether early stopping ended it.

        Raises:
            Stopped: `stop` was set.
        """
        seed = session_seed(self._seed, session)
        self._keras.utils.set_random_seed(seed)
        self._forget_gradients()
        early = self._keras.callbacks.EarlyStopping(monitor="val_loss", patience=plan.patience)
        callbacks = [_watcher(self._keras, ended, stop), early]
        if self._logs is not None:
            folder = self._logs / f"session-{session:04}"
            callbacks.append(self._keras.callbacks.TensorBoard(folder, write_graph=False))
        self._model.fit(
            self._batches_of_train(plan.batch_size, seed),
            validation_data=self._batches_of_val(plan.batch_size),
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already, by our own seed
            verbose=0,
        )
        return bool(early.stopped_epoch)

    def _build(self, spec: dict[str, Any]) -> None:
        try:
            if models.check_spec(spec) != spec:
                raise ValueError(f"the spec {spec} is not written out in full")
        except ValueError as error:
            raise SettingsError(f"this site cannot build the network: {error}", "update fedssh here") from None
        try:
            self._train, self._val = self._load(spec)
        except (OSError, ValueError) as error:
            hint = f"the network takes images of {spec['input']} in {spec['classes']} classes"
            raise SettingsError(str(error), hint) from None
        self._keras.utils.clear_session(free_memory=True)
        with self._strategy.scope():
            self._model: keras.Model = models.build(spec)
        self._spec, self._compiled, self._batches = spec, (), ()

    def _load(self, spec: dict[str, Any]) -> tuple[Images, Images]:
        train = images.load(self._data, spec["input"], spec["classes"], "train")
        if "val" in self._splits:
            return train, images.load(self._data, spec["input"], spec["classes"], "val")
        kept, held = images.hold_out(train.labels, VALIDATION_SHARE, self._seed, train.patients)
        return train.take(kept), train.take(held)

    def _compile(self, plan: Plan) -> None:
        """Compile once for a plan: TensorFlow then translates training and scoring into one graph each."""
        assert self._spec is not None
        loss = models.loss_name(self._spec) if plan.loss == "auto" else plan.loss
        wanted = (plan.optimizer, plan.learning_rate, loss)
        if wanted == self._compiled:
            return
        if loss != models.loss_name(self._spec):
            raise SettingsError(f"the loss {loss} does not fit {self._spec['classes']} classes")
        with self._strategy.scope():
            # The class name comes from a fixed list, see `plan`.
            optimizer = self._keras.optimizers.get(plan.optimizer)
            optimizer.learning_rate = plan.learning_rate
            optimizer.build(self._model.trainable_variables)
            # Keras 3.15 cannot run several steps at once on several replicas: its loop loses a placeholder.
            small = self._model.count_params() < SMALL_NETWORK and self._strategy.num_replicas_in_sync == 1
            at_once = STEPS_AT_ONCE if small else 1
            self._model.compile(optimizer, loss=loss, metrics=["accuracy"], steps_per_execution=at_once)
        self._fresh = [np.array(variable.numpy()) for variable in optimizer.variables]
        self._compiled = wanted

    def _forget_gradients(self) -> None:
        """Give the optimizer the state of a new one; making a new one would translate the graphs again."""
        for variable, fresh in zip(self._model.optimizer.variables, self._fresh, strict=True):
            variable.assign(fresh)

    def _batches_of_train(self, batch_size: int, seed: int) -> Any:
        """Batches in an order of their own in each epoch, the same orders for the same seed."""
        import tensorflow

        pixels, labels = self._tensors()[:2]
        order = tensorflow.data.Dataset.range(len(self._train)).shuffle(len(self._train), seed=seed)
        replicas = self._strategy.num_replicas_in_sync
        # Several replicas share a batch. In a short last one some would get nothing, and the mean of nothing is NaN.
        size = min(batch_size, len(self._train)) // replicas * replicas if replicas > 1 else batch_size
        chosen = order.batch(max(size, replicas), drop_remainder=replicas > 1)
        return _tamed(chosen.map(lambda at: (tensorflow.gather(pixels, at), tensorflow.gather(labels, at))).prefetch(2))

    def _batches_of_val(self, batch_size: int) -> Any:
        import tensorflow

        pixels, labels = self._tensors()[2:]
        size = even_batch(len(self._val), max(batch_size, 64), self._strategy.num_replicas_in_sync)
        return _tamed(tensorflow.data.Dataset.from_tensor_slices((pixels, labels)).batch(size))

    def _tensors(self) -> tuple[Any, ...]:
        """Images and labels of train and val as tensors in main memory, made once."""
        import tensorflow

        if not self._batches:
            with tensorflow.device("/CPU:0"):
                arrays = (self._train.images, self._train.labels, self._val.images, self._val.labels)
                self._batches = tuple(tensorflow.constant(array) for array in arrays)
            # The pixels are in the tensors now; keeping both would double the memory.
            self._train, self._val = _without_pixels(self._train), _without_pixels(self._val)
        return self._batches


def even_batch(examples: int, wanted: int, replicas: int) -> int:
    """The batch size next to `wanted` at which every replica gets something of every batch, also of the last.

    Raises:
        SettingsError: There is no such size, because there are hardly any examples.
    """
    if replicas == 1:
        return wanted
    sizes = sorted(range(replicas, examples + 1, replicas), key=lambda size: abs(size - wanted))
    for size in sizes:
        rest = examples % size
        if not rest or rest > size // replicas * (replicas - 1):
            return size
    raise SettingsError(f"{examples} validation images cannot be shared by {replicas} GPUs", "use fewer GPUs")


def _strategy() -> Any:
    """All GPUs at once when there are several; else TensorFlow's own choice, one GPU or the CPU."""
    import tensorflow

    if len(tensorflow.config.list_logical_devices("GPU")) > 1:
        return tensorflow.distribute.MirroredStrategy()
    return tensorflow.distribute.get_strategy()


def _tamed(batches: Any) -> Any:
    """One thread for the input: it only gathers, and several Alices may share few cores."""
    import tensorflow

    options = tensorflow.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.experimental_distribute.auto_shard_policy = tensorflow.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


def _without_pixels(split: Images) -> Images:
    return Images(np.empty((0, *split.images.shape[1:]), np.float32), split.labels)


def _watcher(keras: Any, ended: Callable[[Epoch], None], stop: threading.Event) -> Any:
    """A Keras callback that hands on each epoch's metrics and stops between batches."""

    class Watcher(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            if stop.is_set():
                raise Stopped(_INTERRUPTED)

        def on_test_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            if stop.is_set():
                raise Stopped(_INTERRUPTED)

        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            assert logs is not None
            ended(Epoch(epoch + 1, Local(float(logs["val_loss"]), float(logs["val_accuracy"]))))

    return Watcher()
