"""A site's own, smaller learning rate and batches, within what the federation allows. Pure.

The plan's `site_rates` is the smallest part of either that a site may take; without it, all train by the same. What a
site takes is in its log, and no claim or record says it: who reads the plan knows that sites may.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from fedssh.errors import SettingsError
from fedssh.rules.plan import Plan

_HINT = "leave it out, or ask the coordinator what was agreed: `alice terms`"


@dataclass(frozen=True)
class OwnRates:
    """What a site's operator asks for.

    Attributes:
        learning_rate_factor: Of the agreed learning rate, in 0..1.
        batch_size: Images per step; None is as agreed.
    """

    learning_rate_factor: float = 1.0
    batch_size: int | None = None

    def of(self, plan: Plan) -> Plan:
        """The plan as this site trains by it.

        Raises:
            SettingsError: It asks for what the federation does not allow.
        """
        factor, size, least = self.learning_rate_factor, self.batch_size or plan.batch_size, plan.site_rates
        if least == 1 and (factor != 1 or size != plan.batch_size):
            raise SettingsError("this federation has all sites train with the agreed rate and batch size", _HINT)
        if not least <= factor <= 1:
            raise SettingsError(f"--learning-rate-factor is {factor:g}, the federation allows {least:g}..1", _HINT)
        smallest = max(1, math.ceil(least * plan.batch_size))
        if not smallest <= size <= plan.batch_size:
            raise SettingsError(f"--batch-size is {size}, the federation allows {smallest}..{plan.batch_size}", _HINT)
        return dataclasses.replace(plan, learning_rate=plan.learning_rate * factor, batch_size=size)

    def told(self, agreed: Plan) -> str | None:
        """One line on what is not as agreed."""
        plan = self.of(agreed)
        if plan == agreed:
            return None
        return (
            f"trains here with a learning rate of {plan.learning_rate:g} and {plan.batch_size} images per step, agreed "
            f"are {agreed.learning_rate:g} and {agreed.batch_size}"
        )
