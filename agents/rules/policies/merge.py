"""`merge`: score the candidate and a few mixes with the current model, and keep whichever scores best."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.forms import number, whole
from fedssh.rules.options import Option, Values

MAX_STEPS = 16
DOES = "the candidate or a mix with the current model, whichever scores best"
OPTIONS: Mapping[str, Option] = {
    "steps": Option(whole(1, MAX_STEPS), 4, "how many are scored: the candidate and steps - 1 mixes"),
    "staleness": Option(
        number(least=0), 0.5, "its share in mixes is divided by (1 + changes by others since its start) to this power"
    ),
}
MIXES = True


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """The candidate's share falls in even steps, discounted by the polynomial of FedAsync.

    See Xie, Koyejo and Gupta 2019, section 5.2. The candidate itself is scored as well, so that `merge` never keeps
    less than `best` would.
    """
    steps = int(values["steps"])
    discount = (1 + staleness) ** -float(values["staleness"])
    return (1.0, *(step / steps * discount for step in range(steps - 1, 0, -1)))
