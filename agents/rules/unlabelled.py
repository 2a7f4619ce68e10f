"""How images without labels are learned from, as a plan says it: `fixmatch[:…]` or `autoencoder[:…]`. Pure.

What each option does, and the papers, stand in `models.fixmatch` and `models.autoencoder`. FixMatch's paper has the
threshold 0.95, weight 1, ratio 7 and decay 0.999, for hundreds of thousands of steps on large networks; the defaults
here are for thousands of steps of small ones. A plan has every option written out, so it means the same when defaults
change; the cut, which depends on the network, when a federation begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedssh.forms import Expected, Form, number, whole
from fedssh.rules.options import Option, read_options

NONE, FIXMATCH, AUTOENCODER = "none", "fixmatch", "autoencoder"
AUTO = "auto"
_NAME = re.compile(r"[A-Za-z0-9][\w./-]{0,99}")


def _layer(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Expected("expected the name of a layer")
    return value


KINDS: Mapping[str, Mapping[str, Option]] = {
    FIXMATCH: {
        "threshold": Option(number(above=0, most=1), 0.8, "how sure of a class the teacher must be"),
        "weight": Option(number(above=0), 1.0, "what the loss of images without labels counts"),
        "ratio": Option(whole(1, 64), 3, "how many of them come with each labelled image"),
        "decay": Option(number(least=0, below=1), 0.9, "how much of the teacher stays in a step"),
    },
    AUTOENCODER: {
        "weight": Option(number(above=0), 1.0, "what the squared error of the images counts"),
        "cut": Option(Form(_layer), AUTO, "the last layer that is trained as an encoder"),
    },
}


def read_unlabelled(value: Any) -> str:
    """The text with every option written out, or `none`.

    Raises:
        ValueError: There is no such way to learn, or an option is out of range.
    """
    name, colon, rest = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
    if name == NONE and not colon:
        return NONE
    if name not in KINDS or (colon and not rest):
        raise Expected(f"expected {NONE}, {' or '.join(KINDS)}, perhaps with options as in {FIXMATCH}:threshold=0.9")
    given = {key: option.default for key, option in KINDS[name].items()} | read_options(name, rest, KINDS[name])
    every = (f"{key}={one if isinstance(one, str) else format(one, '.9g')}" for key, one in given.items())
    return f"{name}:{','.join(every)}"


UNLABELLED: Form[str] = Form(read_unlabelled)
