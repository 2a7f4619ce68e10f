"""What federations are measured against: one training on all the data, in one place.

From the same first model, with the same plan, for as many epochs at most as all sessions of one site together. When the
plan publishes what improved, the epoch that is best on the holdout is kept, and training ends early by the plan's
patience; when it publishes the end of a session, every epoch counts and the last one is the result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.definition.config import HISTORY, Outcome, Point, Prepared, Progress, Run
from experiments.engines.memory.history import History
from experiments.engines.memory.models import ModelFiles, Weights, first_model, scores_on
from experiments.engines.memory.trainers import TimedTrainer, divided, pool_for
from fedssh.alice.fitting import Epoch, fit
from fedssh.alice.session import session_seed
from fedssh.models.training import Trainer, resident
from fedssh.rules.gate import best
from fedssh.rules.plan import read_plan


def train_centralised(
    run: Run, prepared: Prepared, terms: Mapping[str, Any], folder: Path, progress: Progress, cores: int
) -> Outcome:
    """Train once on the data of all.

    Args:
        terms: What a federation would have agreed on.
        cores: How many trainers the process keeps; one of them is used.
    """
    weights, examples = first_model(prepared, terms["plan"], run.seed)
    plan = dataclasses.replace(read_plan(terms["plan"]), epochs=run.sessions * run.plan["epochs"])
    seed = run.site_seed(1)
    train, held = divided(prepared.parts[run.site_names[0]], run.validation, seed)
    every = plan.publish == "session"
    with History(folder / HISTORY) as history:
        kept = _Kept(run, prepared, weights, len(train), every, history)
        kept.begin(terms, weights, examples)

        def job(trainer: Trainer) -> tuple[float, int]:
            def ended(epoch: Epoch) -> bool:
                kept.consider(epoch.number, trainer.weights())
                progress(epoch.number / plan.epochs, f"epoch {epoch.number} of {plan.epochs}")
                return True

            timed, images = TimedTrainer(trainer), resident(train, prepared.spec)
            trainer.load(weights)
            scored = images if held is train else resident(held, prepared.spec)
            fit(timed, images, scored, plan, session_seed(seed, 1), None, ended)
            return timed.seconds, kept.epochs * len(train)

        [(seconds, trained)] = pool_for(prepared.spec, plan, cores).run([job])
        records = history.records
    steps = kept.epochs * math.ceil(len(train) / plan.batch_size)
    return Outcome(
        points=tuple(kept.points),
        submissions=kept.epochs,
        verdicts={event: count for event, count in kept.verdicts.items() if count},
        records=records,
        steps=float(steps),
        synchronisations=0.0,
        examples=trained,
        train_seconds=seconds,
        trained_examples=trained,
        clock=float(trained),
        bytes=0,
    )


class _Kept:
    """The epochs so far: every one is a candidate, and those that are kept are points."""

    def __init__(
        self, run: Run, prepared: Prepared, weights: Weights, examples: int, every: bool, history: History
    ) -> None:
        self._run = run
        self._examples = examples
        self._every = every
        self._history = history
        self._files = ModelFiles(weights, prepared.spec)
        self._holdout = scores_on(prepared.spec, prepared.holdout)
        self._test = scores_on(prepared.spec, prepared.test)
        self.epochs = 0
        self.verdicts = {"accepted": 0, "refused": 0}
        self.points: list[Point] = []

    def begin(self, terms: Mapping[str, Any], weights: Weights, examples: int) -> None:
        """Record the first model."""
        metrics = self._holdout(weights)
        model = self._files.blob(weights).fields()
        fields = {**terms, "model": model, "metrics": metrics, "examples": examples, "seed": self._run.seed}
        self._history.append("genesis", 0, **fields)
        self.points.append(Point(0, 1, 0.0, 0, 0, None, metrics, self._test(weights)))

    def consider(self, epoch: int, weights: Weights) -> None:
        """Keep the weights at the end of an epoch, or not."""
        self.epochs = epoch
        current = self.points[-1].holdout
        metrics: dict[str, Any] | None = None
        try:
            metrics = self._holdout(weights)
            accept, reason = (True, "every epoch counts") if self._every else best(metrics, current, self._run.metric)
        except ValueError as error:
            accept, reason = False, f"the judge cannot do it: {error}"
        event, done = "accepted" if accept else "refused", epoch * self._examples
        self.verdicts[event] += 1
        record = self._history.append(
            event, done, site=self._run.site_names[0], session=1, epoch=epoch, examples=self._examples, metrics=metrics,
            model=self._files.blob(weights).fields(), current_metrics=current, reason=reason,
        )  # fmt: skip
        if accept and metrics is not None:
            version, site = len(self.points), self._run.site_names[0]
            self.points.append(
                Point(version, record.sequence, float(done), done, 0, site, metrics, self._test(weights))
            )
