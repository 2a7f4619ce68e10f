"""How images without labels are learned from, as a plan says it: `fixmatch[:OPTION=VALUE,…]`. Pure.

What each option does, and the papers, stand in `models.fixmatch`. The paper's values are threshold 0.95, weight 1,
ratio 7 and decay 0.999, for hundreds of thousands of steps on large networks; the defaults here are for thousands of
steps of small ones. A plan has every option written out, so it means the same when defaults change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedssh.forms import Expected, Form, number, whole
from fedssh.rules.options import Option, read_options

NONE, FIXMATCH = "none", "fixmatch"
OPTIONS: Mapping[str, Option] = {
    "threshold": Option(number(above=0, most=1), 0.8, "how sure of a class the teacher must be"),
    "weight": Option(number(above=0), 1.0, "what the loss of images without labels counts"),
    "ratio": Option(whole(1, 64), 3, "how many of them come with each labelled image"),
    "decay": Option(number(least=0, below=1), 0.9, "how much of the teacher stays in a step"),
}


def read_unlabelled(value: Any) -> str:
    """The text with every option written out, or `none`.

    Raises:
        ValueError: There is no such way to learn, or an option is out of range.
    """
    name, colon, rest = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
    if name == NONE and not colon:
        return NONE
    if name != FIXMATCH or (colon and not rest):
        raise Expected(f"expected {NONE} or {FIXMATCH}, perhaps with options as in {FIXMATCH}:threshold=0.9,ratio=3")
    given = read_options(FIXMATCH, rest, OPTIONS)
    every = (f"{key}={given.get(key, option.default):.9g}" for key, option in OPTIONS.items())
    return f"{FIXMATCH}:{','.join(every)}"


UNLABELLED: Form[str] = Form(read_unlabelled)
