"""What this site allows, whatever is agreed and whoever signed it. Pure; no release can widen it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedssh.errors import UntrustedError
from fedssh.rules.events import Local
from fedssh.rules.metrics import FIRST, task_of
from fedssh.rules.plan import Plan
from fedssh.rules.privacy import Privacy

_HINT = "the limits are this site's own: `alice train --help`"


@dataclass(frozen=True)
class Limits:
    """The bounds that a site's operator sets.

    Attributes:
        architectures: Names that may be built; none names all that are installed.
        max_weights: Of a network.
        max_learning_rate: Of a plan.
        min_batch_size: Images per step, at least.
        max_batch_size: Images per step, at most.
        max_epochs: Of a session.
        max_sessions: Of one federation, in all.
        min_steps: Of a session, before a model of it may leave. After one step a model is the one received and a
            gradient, which tells more of single images than many steps do.
        min_accuracy: On the validation images, that a model must have to leave.
        max_audit_auc: How well an attack by loss may tell training images from validation images by a model that
            leaves, as the area under its curve; 1 does not look.
        privacy_budget: The most that may be spent, as epsilon at the plan's delta, whatever federation it goes to; None
            is as the plan says. With it, nothing is trained without privacy.
    """

    architectures: tuple[str, ...] = ()
    max_weights: int = 100_000_000
    max_learning_rate: float = 1.0
    min_batch_size: int = 2
    max_batch_size: int = 1024
    max_epochs: int = 1000
    max_sessions: int = 1000
    min_steps: int = 2
    min_accuracy: float = 0.0
    max_audit_auc: float = 1.0
    privacy_budget: float | None = None

    @property
    def audits(self) -> bool:
        """Whether models are attacked before they leave."""
        return self.max_audit_auc < 1

    def check(self, spec: Mapping[str, Any], plan: Plan) -> None:
        """Check what a federation asks for.

        Raises:
            UntrustedError: Names the limit.
        """
        if self.architectures and spec["name"] not in self.architectures:
            allowed = ", ".join(self.architectures)
            raise UntrustedError(f"the federation trains {spec['name']}, this site allows {allowed}", _HINT)
        if self.min_accuracy and FIRST.get(task := task_of(spec)) != "accuracy":
            raise UntrustedError(f"the task is {task}, of which no --min-accuracy can be asked; leave it out", _HINT)
        if self.privacy_budget is not None and plan.privacy is None:
            raise UntrustedError("the federation trains without privacy, this site has a budget of it", _HINT)
        if plan.privacy is not None and (self.min_accuracy or self.audits):
            flag = "--min-accuracy" if self.min_accuracy else "--max-audit-auc"
            raise UntrustedError(
                f"{flag} has images decide what leaves, and the federation's training is private; leave it out", _HINT
            )
        _at_most("a learning rate", plan.learning_rate, self.max_learning_rate, "--max-learning-rate")
        _at_most("a batch size", plan.batch_size, self.max_batch_size, "--max-batch-size")
        _at_most("a number of epochs", plan.epochs, self.max_epochs, "--max-epochs")
        if plan.batch_size < self.min_batch_size:
            raise UntrustedError(
                f"the federation asks for a batch size of {plan.batch_size}, this site allows at least "
                f"{self.min_batch_size} (--min-batch-size)",
                _HINT,
            )

    def check_drawn(self, privacy: Privacy, examples: int) -> None:
        """Check how many images a step takes in the mean, where a rate is agreed and not a number.

        Raises:
            UntrustedError: Names the limit.
        """
        if privacy.rate is None:
            return
        drawn, what = round(privacy.rate * examples), f"the rate {privacy.rate:g}, with our images a batch size"
        _at_most(what, drawn, self.max_batch_size, "--max-batch-size")
        if drawn < self.min_batch_size:
            raise UntrustedError(
                f"the federation asks for {what} of {drawn}, this site allows at least {self.min_batch_size} "
                "(--min-batch-size)",
                _HINT,
            )

    def check_weights(self, count: int) -> None:
        """Check the size of a network, counted before anything is built.

        Raises:
            UntrustedError: Names the limit.
        """
        _at_most("a network of", count, self.max_weights, "--max-weights", " weights")

    def keeps_back(self, plan: Plan, examples: int, epoch: int, metrics: Local) -> str | None:
        """Why the model at the end of an epoch (from 1) must not leave, or None when it may."""
        steps = epoch * math.ceil(examples / plan.batch_size)
        if plan.privacy is not None:
            steps = epoch * plan.privacy.steps_of(examples, plan.batch_size)
        if steps < self.min_steps:
            return f"{steps} of the {self.min_steps} steps that a model takes here before it leaves (--min-steps)"
        if metrics.measure == "accuracy" and metrics.value < self.min_accuracy:
            return f"accuracy {metrics.value:.4f} is below {self.min_accuracy:g} (--min-accuracy)"
        return None


def _at_most(what: str, found: float, limit: float, flag: str, unit: str = "") -> None:
    if found > limit:
        of = "" if what.endswith(" of") else " of"
        raise UntrustedError(
            f"the federation asks for {what}{of} {found:,}{unit}, this site allows at most {limit:,} ({flag})", _HINT
        )
