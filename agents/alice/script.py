"""A site's own training script: everything that Alice does, but for the training, which is yours.

    from fedssh import site

    def train(session):
        model.fit(x, y, epochs=session.epochs, validation_data=(xv, yv), callbacks=[session.publish_improvements()])

    site.run(site.Keras(model, train, examples=len(x), validation=(xv, yv)), exchange="exchange", state="alice")

`run` waits for releases, checks each against what the site has agreed to and the site's own limits, hands its weights
over, publishes by the agreed plan what the script reports at the end of its epochs, and reports sessions. What travels
are float32 tensors by name, so the network may be Keras on TensorFlow, JAX or PyTorch, or anything with tensors of the
agreed names and shapes (a `Learner` of your own). Exchange and state are those of `alice`; one of the two works there.

Not done here, because only Alice's own network can do it: looking whether units of a release single out images.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedssh.alice.exchange import Exchange
from fedssh.alice.fitting import Epoch
from fedssh.alice.incoming import Received, read_offer
from fedssh.alice.learner import INTERRUPTED, Stopped
from fedssh.alice.limits import Limits
from fedssh.alice.memory import alone
from fedssh.alice.news import not_agreed
from fedssh.alice.session import Patience, finite, improved
from fedssh.alice.terms import join, load_pin, read_invitation
from fedssh.alice.train import Alice
from fedssh.commands import log_events, stop_event
from fedssh.errors import SettingsError
from fedssh.models.firing import Singled
from fedssh.rules.events import Local
from fedssh.rules.metrics import CLASSES, task_of
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.rules.shapes import match_shapes
from fedssh.weights import read_weights

if TYPE_CHECKING:
    import keras

    from fedssh.rules.membership import Attacked
    from fedssh.split.site import Past, SiteTurn

Weights = Mapping[str, np.ndarray]
__all__ = ["Keras", "Learner", "Limits", "Session", "run"]


class Learner(Protocol):
    """What a script trains.

    Attributes:
        examples: How many examples it is trained on; with averaging policies, its weight.
        validation_examples: How many it is scored on.
    """

    examples: int
    validation_examples: int

    def load(self, weights: Weights) -> None:
        """Take over the weights of a release: float32, by name."""
        ...

    def weights(self) -> Weights:
        """All weights as they are now: float32, by the names and of the shapes that were agreed."""
        ...

    def evaluate(self) -> tuple[float, float]:
        """Loss and accuracy of the weights as they are now, on validation examples of the site."""
        ...

    def train(self, session: Session) -> None:
        """Train one session; call `session.epoch_over` at the end of each epoch, and end when it says so."""
        ...


class Session:
    """One session, while the script trains it.

    Attributes:
        number: From 1.
        plan: What is agreed: batch size, optimizer, learning rate and so on, see `fedssh.rules.plan.Plan`.
        stop: Set when the script should end soon, as by Ctrl-C.
    """

    def __init__(
        self, number: int, plan: Plan, learner: Learner, start: Local, ended: Callable[[Epoch], bool],
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self.number, self.plan, self.stop = number, plan, stop
        self._learner, self._ended, self._best = learner, ended, start
        self._patience = Patience(plan.patience)
        self.done = 0
        self.early = False

    @property
    def epochs(self) -> int:
        """The most epochs; exactly so many where the plan publishes sessions."""
        return self.plan.epochs

    def epoch_over(self, loss: float, accuracy: float) -> bool:
        """An epoch is over: publish its weights if the plan wants them.

        Args:
            loss, accuracy: On validation examples of the site.

        Returns:
            Whether the session is over, and training is to end.

        Raises:
            SettingsError: The session was over already.
        """
        if self.done >= self.epochs or self.early:
            raise SettingsError(f"session {self.number} goes on after its end", "end it when `epoch_over` says so")
        self.done += 1
        metrics = Local(float(loss), float(accuracy))
        by_session = self.plan.publish == "session"
        better = improved(metrics, self._best)
        due = self.done == self.epochs if by_session else better
        weights = self._learner.weights()
        diverged = due and not (finite(metrics) and all(np.isfinite(one).all() for one in weights.values()))
        if self._ended(Epoch(self.done, metrics, metrics, better, due, diverged)) and better:
            self._best = metrics
        if not by_session and self._patience.over(metrics.loss):
            self.early = self.done < self.epochs
        return self.done >= self.epochs or self.early or self.stop.is_set()

    def publish_improvements(self, loss: str = "val_loss", accuracy: str = "val_accuracy") -> keras.callbacks.Callback:
        """A Keras callback that calls `epoch_over` with what `fit` has logged, and ends `fit` when it says so.

        Args:
            loss, accuracy: How `fit` calls them; it needs `validation_data` and the metric `accuracy`.
        """
        import keras

        session = self

        class Publish(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
            """Publishes by the plan of one session."""

            def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
                """Of each epoch."""
                found = logs or {}
                if loss not in found or accuracy not in found:
                    raise SettingsError(
                        f"fit logs {', '.join(found) or 'nothing'}, not {loss} and {accuracy}",
                        "give fit validation_data and compile the model with metrics=['accuracy']",
                    )
                if session.epoch_over(found[loss], found[accuracy]):
                    self.model.stop_training = True

            def on_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
                """Of each batch: end soon when somebody asks for it."""
                if session.stop.is_set():
                    self.model.stop_training = True

        return Publish()


class Keras:
    """A compiled Keras model, on whichever backend.

    Args:
        model: Compiled with the metric `accuracy`; its variables' paths and shapes are what was agreed.
        train: Called with each session; trains `model`.
        examples: How many examples it trains on.
        validation: Examples and labels that it is scored on, as `model.evaluate` takes them.
    """

    def __init__(
        self, model: keras.Model, train: Callable[[Session], object], examples: int, validation: tuple[Any, Any]
    ) -> None:
        self.model, self._train, self._validation = model, train, validation
        self.examples, self.validation_examples = examples, len(validation[1])

    def load(self, weights: Weights) -> None:
        """Assign each variable; what the optimizer has gathered is forgotten."""
        for variable in self.model.weights:
            variable.assign(weights[variable.path])
        optimizer = getattr(self.model, "optimizer", None)
        for variable in getattr(optimizer, "variables", ()):
            if "learning_rate" not in variable.path:
                variable.assign(np.zeros(variable.shape, str(variable.dtype)))

    def weights(self) -> Weights:
        """By path."""
        import keras

        return {one.path: np.asarray(keras.ops.convert_to_numpy(one), np.float32) for one in self.model.weights}

    def evaluate(self) -> tuple[float, float]:
        """By the model's own metrics."""
        found = self.model.evaluate(*self._validation, verbose=0, return_dict=True)
        if "accuracy" not in found:
            raise SettingsError("the model has no metric `accuracy`", "compile it with metrics=['accuracy']")
        return float(found["loss"]), float(found["accuracy"])

    def train(self, session: Session) -> None:
        """The script's part."""
        self._train(session)


def run(
    learner: Learner, *, exchange: str | Path = "exchange", state: str | Path = "alice",
    invitation: str | Path | None = None, sessions: int | None = None, limits: Limits | None = None,
    settle_seconds: float = 2.0, wait_seconds: float = 0.0, stop: threading.Event | None = None,
) -> int:  # fmt: skip
    """Train session after session with a script of one's own, until there is a reason to end; see `alice train`.

    Args:
        learner: What is trained.
        exchange: The folder shared with Bob.
        state: Alice's own folder.
        invitation: Join by this file when nothing is agreed to yet.
        sessions: How many to train now; None is without end.
        limits: What this site allows, whatever is agreed.
        settle_seconds: How long to wait for a last checkpoint's verdict.
        wait_seconds: How long to wait for a first release; 0 is for ever.
        stop: Ends it soon; None lets SIGTERM and Ctrl-C do so.

    Returns:
        The number of sessions trained.

    Raises:
        SettingsError: Nothing is agreed to, or the learner's tensors are not what was agreed.
        UntrustedError: What came is not what was agreed, or beyond the site's limits.
        UnreachableError: No release came in time.
    """
    if not logging.getLogger("alice").handlers:
        log_events("alice")
    ending = stop or stop_event()
    place = Path(state)
    with alone(place):
        folder = Exchange(Path(exchange))
        folder.tidy()
        if invitation is not None:
            join(place, read_invitation(Path(invitation)), read_offer(folder.incoming))
        elif load_pin(place) is None:
            raise not_agreed(place)
        alice = Alice(folder, place, _Adapted(learner), None, settle_seconds, ending, limits)
        return alice.run(sessions, wait_seconds)


class _Adapted:
    """A learner in the place of Alice's own network."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.class_names: Any = None
        self.table: Any = None
        self.agreed: Mapping[str, Any] | None = None

    @property
    def examples(self) -> int:
        return self._learner.examples

    @property
    def validation_examples(self) -> int:
        return self._learner.validation_examples

    def shapes(self, spec: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """Of what the script has; whether it is what the spec means, the tensors of a release show."""
        return {name: tuple(array.shape) for name, array in self._learner.weights().items()}

    def adopt(
        self, received: Received, plan: Plan, stop: threading.Event | None = None, own: Weights | None = None
    ) -> Local:
        if plan.local != "none":
            raise SettingsError(
                "in this federation batch normalisation stays at the sites, which no script of one's own can do yet",
                "train with `alice train`",
            )
        if plan.calibrate != "none":
            raise SettingsError(
                "in this federation the training loss is calibrated, which no script of one's own can do yet",
                "train with `alice train`",
            )
        if plan.unlabelled != "none":
            raise SettingsError(
                "in this federation images without labels are learned from, which no script of one's own can do yet",
                "train with `alice train`",
            )
        if plan.privacy is not None:
            raise SettingsError(
                "in this federation training is private, which no script of one's own can do yet",
                "train with `alice train`",
            )
        if read_policy(received.standing.policy).split:
            raise SettingsError(
                "in this federation the network is in two rooms, which no script of one's own can train yet",
                "train with `alice train`",
            )
        shapes = self.shapes(received.header.spec)
        match_shapes(received.header.tensors, shapes)
        if (task := task_of(received.header.spec)) != CLASSES:
            raise SettingsError(f"a script trains classes, the federation's task is {task}", "use `alice train`")
        self._learner.load(read_weights(received.model, shapes))
        return Local(*self._learner.evaluate())

    def measure(self, received: Received, loss: float) -> None:
        """A script says loss and accuracy only, and not at which threshold; so nothing is told."""
        return

    def fresh(self, spec: dict[str, Any], known: frozenset[bytes]) -> int:
        raise AssertionError("a script is given no images")

    @property
    def new(self) -> list[bytes]:
        raise AssertionError("a script is given no images")

    def turn(
        self, session: int, plan: Plan, received: Received, id: str, kept: Path, told: Callable[[Past], None],
        decoder: Weights | None = None,
    ) -> SiteTurn:  # fmt: skip
        raise AssertionError("a release of such a federation is not taken over")

    def singled(self) -> list[Singled]:
        return []

    def singled_to_score(self) -> list[Singled]:
        """Nothing: a script's images are not looked at, and what releases score on them is not told."""
        return []

    def membership(self, stop: threading.Event) -> Attacked:
        raise SettingsError("a script's own images cannot be audited (--max-audit-auc)", "train with `alice train`")

    def weights(self) -> Weights:
        return self._learner.weights()

    def staying(self, plan: Plan) -> Weights:
        return {}

    def fit(
        self, session: int, plan: Plan, start: Local, ended: Callable[[Epoch], bool], stop: threading.Event
    ) -> bool:
        running = Session(session, plan, self._learner, start, ended, stop)
        with contextlib.suppress(KeyboardInterrupt):
            self._learner.train(running)
        if stop.is_set():
            raise Stopped(INTERRUPTED)
        if plan.publish == "session" and running.done < plan.epochs:
            raise SettingsError(
                f"the script ended session {session} after {running.done} of {plan.epochs} epochs",
                "where sessions are published, all sites train the agreed number of epochs",
            )
        return running.early
