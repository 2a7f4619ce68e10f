"""The network under training, with the site's images: takes over releases, is scored, and is trained."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh import models
from fedssh.alice import online as online_images
from fedssh.alice.canaries import Canaries, Parted
from fedssh.alice.fitting import Epoch, epoch_order, fit, loss_of, made_for, new_trainer
from fedssh.alice.incoming import Received
from fedssh.alice.measuring import measured, threshold_of
from fedssh.alice.replicas import Replicas
from fedssh.alice.session import session_seed
from fedssh.errors import SettingsError
from fedssh.models import calibrated, likeness, tasks
from fedssh.models.backend import load_keras
from fedssh.models.data import images, unlabelled_set
from fedssh.models.data.classes import NamesError
from fedssh.models.data.columns import Columns
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import NoRoomError, StoppedError, Store
from fedssh.models.data.reading import Reading
from fedssh.models.firing import Singled, Watch
from fedssh.models.losses import Losses
from fedssh.models.training import Examples, Interrupted, Trainer, resident
from fedssh.rules.events import Local, Measured
from fedssh.rules.membership import Attacked, by_loss
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.rules.shapes import match_shapes
from fedssh.split.layers import read_layers
from fedssh.weights import read_weights

if TYPE_CHECKING:
    from fedssh.split.site import Past, SiteTurn
    from fedssh.split.turn import Parts

VALIDATION_SHARE = 0.15
INTERRUPTED = "stopped; the interrupted session begins again at the next start"


class Stopped(Exception):
    """Somebody asked Alice to stop; the text says what that means for the session."""


class Network:
    """A network that can take over a release, be scored and be trained.

    Args:
        data: The site's images, an .npz file or a folder.
        seed: Decides which images are held out when there is no val split, and the order of training.
        threads: CPU threads; 0 is all cores.
        logs: Where TensorBoard logs go, a folder per session; None writes none.
        validation: The share of the images to hold out when there is no val split. 0 holds out nothing; the training
            images are then what the network is scored on, too.
        classes: The federation's class name by the site's own, where they are not the same.
        max_value: What white is in integer pixels; None is the largest value of their type.
        tell: Called with one line on what is changed or passed over in the images, or what a calibrated loss means.
        patient: Finds the patient in a file's path, so that nobody's images are on both sides of a validation.
        columns: What the columns of a table of files are called.
        unlabelled: More of the site's images, which nobody has labelled, for a federation that learns from such images.
        online: Whether it is trained only on what `fresh` finds new.
        canaries: Images of this site with wrong labels, which it is trained on; None has none.
        store: Where images stand that would take too much memory; None keeps all in memory.
        watch_gradients: Whether a turn under `split` ends where what comes back is not of a training on these images.

    Attributes:
        agreed: What was agreed of a network that does not come with fedssh; this site's is held against it.
        class_names: What the federation calls its classes, in label order; the site's images are held against them
            when the network takes over a release. None where it has no names: labels are taken as they are.
        table: What was agreed of a table of features; this site's is held against it at the same time.

    Raises:
        SettingsError: The images cannot be used, or the share is none.
    """

    def __init__(
        self,
        data: Path,
        seed: int,
        threads: int,
        logs: Path | None,
        validation: float = VALIDATION_SHARE,
        classes: Mapping[str, str] | None = None,
        max_value: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
        class_names: Sequence[str] | None = None,
        patient: str | None = None,
        columns: Mapping[str, str] | None = None,
        store: Store | None = None,
        watch_gradients: bool = False,
        unlabelled: Path | None = None,
        online: bool = False,
        canaries: Canaries | None = None,
    ) -> None:
        if not 0 <= validation < 1:
            raise SettingsError(f"--validation is {validation:g}, expected at least 0 and less than 1")
        if online and canaries is not None:
            raise SettingsError("--online trains on new images only, and canaries are drawn of all", "leave one out")
        self._data = data
        self._seed = seed
        self._logs = logs
        self._validation = validation
        self._reading = Reading(
            given=classes or {}, white=max_value, patient=patient, columns=columns or {}, store=store
        )
        self._tell = tell
        self._watch_gradients = watch_gradients
        self.class_names = class_names
        self.table: Columns | None = None
        self.agreed: Mapping[str, Any] | None = None
        self._taken: tuple[Any, ...] | None = None
        try:
            self._splits = images.splits(data, self._reading)
        except (OSError, ValueError) as error:
            hint = "--data takes an .npz file, a folder of images per class or a table"
            raise SettingsError(str(error), hint) from None
        self._keras = load_keras(threads)
        self._strategy = _strategy()
        self._measured: dict[str, Any] | None = None
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        self._trainer: Trainer | Replicas | None = None
        self._watch: Watch | None = None
        self._losses: Losses | None = None
        self._made_for: tuple[Any, ...] = ()
        self._told = ""
        self._parts: Parts | None = None
        self._unlabelled_in = unlabelled
        self._unlabelled: Any = None  # an array, or a tensor where the trainer has them
        self._learns = ""  # from them, by what in this federation
        self._known: online_images.Known | None = frozenset() if online else None
        self._canaries = canaries
        self._parted: Parted | None = None
        self._new: list[bytes] = []
        self._looked: tuple[Any, ...] = ()

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

    def adopt(
        self,
        received: Received,
        plan: Plan,
        stop: threading.Event | None = None,
        own: Mapping[str, np.ndarray] | None = None,
    ) -> Local:
        """Take over a release and return what it scores here.

        Builds the architecture from this site's own `models/`, and only when the tensors in the file fit one by one.

        Args:
            own: Weights of this site, in the place of the release's.

        Raises:
            SettingsError: The architecture is not installed here, or the images or the plan do not suit it.
            WeightsError: The tensors are not those of the architecture.
            Stopped: `stop` was set.
        """
        spec = received.header.spec
        decoder = "decoder" in read_policy(received.standing.policy).values
        if self._unlabelled_in is not None and plan.unlabelled == "none" and not decoder:
            raise SettingsError(
                f"--unlabelled: by the plan, and under the policy {received.standing.policy}, nothing is learned from "
                "such images",
                "leave it out; a federation whose plan has unlabelled, or with split:decoder=1, trains on them",
            )
        if self._canaries is not None and read_policy(received.standing.policy).split:
            raise SettingsError(
                f"--canaries: under the policy {received.standing.policy} no site has a whole model to audit",
                "leave it out",
            )
        self._learns = "decoder" if decoder else "plan" if plan.unlabelled != "none" else ""
        if plan.privacy is not None and self._known is not None:
            raise SettingsError(
                "--online trains on new images only, and the account of privacy counts with all of them",
                "leave it out in a federation with privacy",
            )
        match_shapes(received.header.tensors, self.shapes(spec))
        if (spec, self.class_names, self.table, self._learns) != self._taken:
            self._take(spec)
        if plan.privacy is not None and plan.privacy.unit == "patient" and self._train.patients is None:
            raise SettingsError(
                "in this federation patients are hidden, and nobody knows whose these images are",
                "--patient finds the patient in a file's path; an .npz file has an array train_patients",
            )
        trainer = self._trainer_for(spec, plan)
        self._tell_calibrated(plan)
        layers, _ = read_layers(received.layers, self._shapes)
        trainer.load(read_weights(received.model, self._shapes) | layers | dict(own or {}))
        self._measure_canaries(stop)
        with _stopping("stopped before the session began"):
            return Local.of(trainer.measure, *trainer.evaluate(self._val, stop))

    def fresh(self, spec: dict[str, Any], known: online_images.Known) -> int:
        """Look for images that are not known, to train on these and no others; how many there are.

        They are read again only where a file has changed since the last look.

        Raises:
            SettingsError: They cannot be read, or not as this network takes them.
            Stopped: `stop` was set.
        """
        found = (online_images.stamp(self._data), known, spec, self.class_names, self.table)
        if found != self._looked:
            self._looked, self._known = (), known
            self._take(spec)
            self._looked = found
        return len(self._train)

    @property
    def new(self) -> list[bytes]:
        """What the images are known by that `fresh` found."""
        return self._new

    def shapes(self, spec: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """The shapes of a network's weights by name. Nothing is built for it, so it may be of any size.

        Raises:
            SettingsError: The architecture is not installed here.
        """
        if spec != self._measured:
            try:
                if models.check_spec(spec) != spec:
                    raise ValueError(f"the spec {spec} is not written out in full")
                self._trainer = self._watch = self._losses = (
                    None  # what is measured is measured with nothing else at hand
                )
                self._shapes = models.shapes(spec)
                other = likeness.difference(self.agreed, likeness.describe(spec)) if self.agreed is not None else None
            except ValueError as error:
                hint = "update fedssh here, or give the folder of that network with --networks"
                raise SettingsError(f"this site cannot build the network: {error}", hint) from None
            if other is not None:
                raise SettingsError(
                    f"the network {spec['name']} of this site is not the one that was agreed: {other}",
                    "install the very file, or the Keras, that the coordinator began with",
                )
            self._measured = spec
        return self._shapes

    def measure(self, received: Received, loss: float) -> Measured:
        """What the release that was taken over scores on the validation images, by its threshold where it has one."""
        assert self._trainer is not None
        threshold, classes = threshold_of(received.release.metrics), received.header.spec["classes"]
        return measured(self._trainer.network, loss, self._val, classes, threshold)

    def singled(self) -> list[Singled]:
        """How many training images single themselves out in each layer, with the weights as they are now."""
        assert self._watch is not None
        found = self._watch.look(self._train)
        if self._unlabelled is not None:
            found += self._watch.look(Examples(self._unlabelled, None, len(self._unlabelled)))
        return found

    def singled_to_score(self) -> list[Singled]:
        """The same of the validation images, of which a score would tell."""
        assert self._watch is not None
        return self._watch.look(self._val)

    def membership(self, stop: threading.Event) -> Attacked:
        """How well an attack by loss tells the training images from the validation images, with the weights now.

        Raises:
            SettingsError: Nothing is held out.
            Stopped: `stop` was set.
            ValueError: A loss is not a finite number.
        """
        assert self._trainer is not None
        if self._val is self._train:
            raise SettingsError(
                "--max-audit-auc: the images that are scored on are those that are trained on",
                "hold some out, such as --validation 0.15",
            )
        own = len(self._train) if self._parted is None else len(self._parted.rest)  # behind them stand canaries
        with _stopping(INTERRUPTED):
            return by_loss(self._loss_of_each(self._train, stop)[:own], self._loss_of_each(self._val, stop))

    def _loss_of_each(self, examples: Examples, stop: threading.Event | None) -> np.ndarray:
        assert self._trainer is not None
        if self._losses is None:
            self._losses = Losses(self._trainer.network, self._made_for[0])
        return self._losses.of(examples, stop)

    def _measure_canaries(self, stop: threading.Event | None) -> None:
        """Write down what the canaries cost the first release that this site trains from, before it does."""
        if self._canaries is None or self._parted is None or self._canaries.measured:
            return
        aside = resident(self._parted.aside, self._made_for[0])
        try:
            with _stopping("stopped before the session began"):
                self._canaries.measure(self._parted.known, self._loss_of_each(aside, stop))
        except ValueError as error:
            raise SettingsError(f"--canaries: with the release at hand {error}", "leave it out") from None

    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights as they are now."""
        assert self._trainer is not None
        return self._trainer.weights()

    def staying(self, plan: Plan) -> Mapping[str, np.ndarray]:
        """Of the weights as they are now, what stays at the site by the plan."""
        assert self._trainer is not None
        if plan.local == "none":
            return {}
        names = models.batch_normalisation(self._trainer.network)
        return {name: array for name, array in self._trainer.weights().items() if name in names}

    def fit(
        self, session: int, plan: Plan, start: Local, ended: Callable[[Epoch], bool], stop: threading.Event
    ) -> bool:
        """Train one session from the release adopted; the same session of the same site always goes the same way.

        Args:
            session: Its number, from 1.
            start: What the release scores here.
            ended: As in `fitting.fit`.
            stop: When set, training ends within about a second.

        Returns:
            Whether early stopping ended it.

        Raises:
            Stopped: `stop` was set.
        """
        assert self._trainer is not None
        seed = session_seed(self._seed, session)
        with _logging(self._logs and self._logs / f"session-{session:04}") as log:

            def logged(epoch: Epoch) -> bool:
                log(epoch)
                return ended(epoch)

            with _stopping(INTERRUPTED):
                return fit(self._trainer, self._train, self._val, plan, seed, start, logged, stop)

    def turn(
        self, session: int, plan: Plan, received: Received, id: str, kept: Path, told: Callable[[Past], None],
        decoder: Mapping[str, np.ndarray] | None = None,
    ) -> SiteTurn:  # fmt: skip
        """This site's part in a turn under `split`, which began with the release that was taken over.

        Args:
            session: Its number, from 1.
            id: The turn's name.
            kept: Where this room writes down how far it is.
            told: Called after each epoch.
            decoder: What this site's last turn left of its decoder, where the policy has one.

        Raises:
            SettingsError: The network cannot be cut as agreed, or the plan needs it in one piece.
        """
        from fedssh.split.site import SiteTurn
        from fedssh.split.turn import Agreed, Parts

        self._parts = self._parts or Parts()
        agreed = Agreed(received.header.spec, plan, read_policy(received.standing.policy))
        seed, number = session_seed(self._seed, session), len(self._train)
        layers, begins = read_layers(received.layers, self._shapes)
        weights = read_weights(received.model, self._shapes) | layers
        more = {}
        if self._watch_gradients:
            if agreed.alpha is not None:
                raise SettingsError(
                    "--watch-gradients: with a decoder the first layers learn what no training on labels teaches them",
                    "leave it out in a federation with split:decoder",
                )
            from fedssh.alice.watched import watched

            more["watch"] = watched(agreed, weights, self._train, seed)
        return SiteTurn(
            agreed, id, weights, self._train, lambda epoch: epoch_order(seed, epoch, number), session, seed, kept,
            self._parts, told, decoder=decoder, unlabelled=self._unlabelled, begins=begins, **more,
        )  # fmt: skip

    def _take(self, spec: dict[str, Any]) -> None:
        """Load the images as the network of a spec takes them."""
        try:
            train, val = self.load(spec)
        except NamesError as error:
            raise SettingsError(str(error), error.hint) from None
        except StoppedError:
            raise Stopped("stopped while images were decoded; that begins again at the next start") from None
        except NoRoomError as error:
            raise SettingsError(str(error)) from None
        except (OSError, ValueError) as error:
            taken = "a table's rows" if models.is_table(spec) else "images"
            hint = f"the network takes {taken} of {spec['input']} and {tasks.shown(spec)}"
            raise SettingsError(str(error), hint) from None
        self._unlabelled = self._load_unlabelled(spec)
        self._train = resident(train, spec, self._unlabelled if self._learns == "plan" else None)
        if self._train.unlabelled is not None:
            self._unlabelled = self._train.unlabelled  # once in memory
        self._val = self._train if val is None else resident(val, spec)
        self._taken = (spec, self.class_names, self.table, self._learns)

    def _load_unlabelled(self, spec: dict[str, Any]) -> np.ndarray | None:
        reading = dataclasses.replace(self._reading, table=self.table, task=tasks.task_of(spec))
        if not self._learns:
            if count := images.count_unlabelled(self._data, reading):
                self._tell(f"{count:,} images have no label and are passed over: here nothing is learned from such")
            return None
        try:
            found = unlabelled_set.load_all(self._data, self._unlabelled_in, spec["input"], reading, self.table)
        except (OSError, ValueError) as error:
            raise SettingsError(str(error), "--unlabelled takes what `alice predict` takes") from None
        if found is None and self._learns == "plan":
            self._tell("no image without a label is here: this site learns from those with labels alone")
        if found is None:
            return None
        for line in found.remarks:
            self._tell(f"unlabelled: {line}")
        return found.images

    def load(self, spec: dict[str, Any]) -> tuple[Images, Images | None]:
        """The images to train on and those to score on, as a network takes them; None where it is scored on the former.

        Raises:
            OSError, ValueError: They cannot be read, or not as the network takes them.
            StoppedError: The store was told to stop.
        """
        train, val = self._loaded(spec)
        if self._canaries is None:
            return train, val
        if tasks.task_of(spec) != tasks.CLASSES:
            raise SettingsError(f"--canaries are wrong labels, and the network {tasks.shown(spec)}", "leave it out")
        self._parted = self._canaries.among(train, spec["classes"])
        return self._parted.trained, val

    def _loaded(self, spec: dict[str, Any]) -> tuple[Images, Images | None]:
        if self._reading.store is not None:
            self._reading.store.begin()
        said: dict[str, None] = {}  # once, when it is the same for both splits
        task, number = tasks.task_of(spec), tasks.number_of(spec)
        reading = dataclasses.replace(
            self._reading, names=self.class_names, table=self.table, tell=said.setdefault, task=task
        )
        train = images.load(self._data, spec["input"], number, "train", reading)
        splits = self._splits if self.table is None else images.splits(self._data, reading)
        val = images.load(self._data, spec["input"], number, "val", reading) if "val" in splits else None
        for line in said:
            self._tell(line)
        if self._known is not None:
            return self._only_new(train, val, self._known)
        if val is not None:
            return train, val
        if not self._validation:
            return train, None
        kept, held = images.hold_out(train.labels, self._validation, self._seed, train.patients)
        return train.take(kept), train.take(held)

    def _only_new(self, train: Images, val: Images | None, known: online_images.Known) -> tuple[Images, Images | None]:
        """What is not known yet of the images to train on, and what is scored on."""
        by = online_images.digests(train)
        held = online_images.held_out(train, by, 0 if val is not None else self._validation, self._seed)
        once = dict.fromkeys(by[place] for place in np.flatnonzero(~held))
        self._new = [one for one in once if one not in known]
        first = {one: place for place, one in reversed(list(enumerate(by)))}
        new = train.take(np.array([first[one] for one in self._new], np.int64))
        if val is None:
            val = train.take(np.flatnonzero(held)) if held.any() else train
        return new, val

    def _tell_calibrated(self, plan: Plan) -> None:
        """Say once what a calibrated loss means here."""
        if plan.calibrate == "none":
            return
        line = calibrated.told(self._train.labels.numpy(), plan.label_shares)
        if line != self._told:
            self._tell(line)
            self._told = line

    def _trainer_for(self, spec: dict[str, Any], plan: Plan) -> Trainer | Replicas:
        """The trainer at hand, unless architecture or optimizer changed: making one translates its graphs anew."""
        loss = loss_of(spec, plan)
        wanted = (spec, made_for(plan))
        if self._trainer is None or wanted != self._made_for:
            self._trainer = self._watch = self._losses = None
            self._keras.utils.clear_session(free_memory=True)
            several = self._strategy.num_replicas_in_sync > 1
            self._trainer = Replicas(self._strategy, spec, plan, loss) if several else new_trainer(spec, plan)
            self._watch = Watch(self._trainer.network)
            self._made_for = wanted
        return self._trainer


def _strategy() -> Any:
    """All GPUs at once when there are several; else TensorFlow's own choice, one GPU or the CPU."""
    import tensorflow

    if len(tensorflow.config.list_logical_devices("GPU")) > 1:
        return tensorflow.distribute.MirroredStrategy()
    return tensorflow.distribute.get_strategy()


@contextlib.contextmanager
def _stopping(text: str) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        raise Stopped(text) from None


@contextlib.contextmanager
def _logging(folder: Path | None) -> Iterator[Callable[[Epoch], None]]:
    """What writes an epoch's scores for TensorBoard, under the names that Keras gives them."""
    if folder is None:
        yield lambda epoch: None
        return
    import tensorflow

    writers = {name: tensorflow.summary.create_file_writer(str(folder / name)) for name in ("train", "validation")}

    def log(epoch: Epoch) -> None:
        for writer, score in zip(writers.values(), (epoch.training, epoch.metrics), strict=True):
            if score is None:
                continue
            with writer.as_default(step=epoch.number - 1):  # Keras counts from 0
                tensorflow.summary.scalar("epoch_loss", score.loss)
                tensorflow.summary.scalar(f"epoch_{score.measure}", score.value)
            writer.flush()

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()
