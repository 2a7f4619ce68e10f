"""`split`: a site trains the first layers and the coordinator the rest, one site after the other, over a channel.

Gupta and Raskar 2018, algorithm 2: a turn of a relay in which what passes the cut goes to the coordinator for every
batch, and a gradient comes back. At its end the site sends the weights of its layers, signed and sealed; the
coordinator joins them with hers, scores the whole, and the gate has its say. The optimizer goes on from turn to turn,
so that sites in turn learn what one site with all their images would.

With `decoder` it is algorithm 3: the site's layers are the encoder of an autoencoder as well, see `models.decoder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedssh.forms import Expected, Form, number, one_of, whole
from fedssh.rules.options import Option, Values

AUTO = "auto"  # found when a federation begins, and written out
_LAYER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,99}")


def _layer(value: Any) -> str:
    if not isinstance(value, str) or not _LAYER.fullmatch(value):
        raise Expected("expected the name of a layer")
    return value


LAYER = Form(_layer)
DOES = "a site trains the first layers, the coordinator the rest, over a channel; then the gate"
OPTIONS: Mapping[str, Option] = {
    "cut": Option(LAYER, AUTO, "the last layer that is at the site"),
    "labels": Option(one_of("coordinator", "site"), "coordinator", "who has them; at the site, so are the last layers"),
    "tail": Option(LAYER, None, "with labels=site: the last layer that is at the coordinator [auto]"),
    "weights": Option(
        one_of("coordinator", "sites"),
        None,
        "who may open the site's layers: sites alone, then nobody judges [coordinator]",
    ),
    "wire": Option(one_of("f16", "f32", "int8"), "f16", "how numbers go through the channel"),
    "checkpoint": Option(whole(1, 1000), 1, "after how many epochs of a turn both rooms write down where they are"),
    "decoder": Option(number(above=0, most=1000), None, "a decoder at the site, and how much its gradient counts"),
}
BY_GATE = True
SPLIT = True


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """What the two rooms have learned, as it is."""
    return (1.0,)


def cuts(values: Values) -> tuple[str, ...]:
    """The layers after which the network is cut, in its order: one, or two where the labels stay at the site."""
    tail = (str(values.get("tail", AUTO)),) if values["labels"] == "site" else ()
    return (str(values["cut"]), *tail)
