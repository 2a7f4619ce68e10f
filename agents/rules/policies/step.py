"""`step`: add a part of what the site learned to the current model, and keep whichever part has the lowest loss."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.forms import number, whole
from fedssh.rules.options import Option, Values

MAX_PARTS = 8
DOES = "the current model and a part of the candidate's own step, whichever part has the lowest loss"
OPTIONS: Mapping[str, Option] = {
    "parts": Option(whole(1, MAX_PARTS), 3, "how many are scored: the whole step, a half, a quarter …"),
    "staleness": Option(
        number(least=0), 0.5, "its share in mixes is divided by (1 + changes by others since its start) to this power"
    ),
}
MIXES = True
STEPS = True
BY_LOSS = True


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """The part of the step halves from one to the next, discounted by the polynomial of FedAsync.

    See Xie, Koyejo and Gupta 2019, section 5.2. A mix with the current model goes towards the candidate and so back
    towards what the candidate started from; a step adds only what the site changed, however the model moved meanwhile.
    """
    discount = (1 + staleness) ** -float(values["staleness"])
    return tuple(discount / 2**part for part in range(int(values["parts"])))
