"""`fedasync:SHARE`: each candidate is mixed in by a share that its age discounts (Xie, Koyejo and Gupta 2019)."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.forms import number
from fedssh.rules.options import SHARE, Option, Values

DOES = "the current model and a share of the candidate, the less, the older it is"
OPTIONS: Mapping[str, Option] = {
    "share": Option(SHARE, 0.6, "the share of a candidate that nothing has come before"),
    "staleness": Option(
        number(least=0), 0.5, "its share in mixes is divided by (1 + changes by others since its start) to this power"
    ),
}
MIXES = True
BY_GATE = True


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """One mix, with the polynomial of section 5.2; share 0.6 and power 0.5 are those of the paper's experiments."""
    return (float(values["share"]) * (1 + staleness) ** -float(values["staleness"]),)
