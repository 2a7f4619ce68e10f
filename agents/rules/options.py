"""Options of policies, and of others written like these: forms, defaults, meanings; those of all rounds, too. Pure.

`sites`, `fraction`, `minimum` and `deadline` are told in `rounds`, `server` and what belongs to it in
`server_optimizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedssh.forms import Form, checked, nearest, number, one_of, whole

Value = float | int | str
Values = Mapping[str, Value]


@dataclass(frozen=True)
class Option:
    """What one of them may be.

    Attributes:
        form: How it is read.
        default: Its value unless another is given; None: then it is absent.
        means: In a line.
    """

    form: Form[Value]
    default: Value | None
    means: str


SHARE = number(above=0, most=1)
POSITIVE = number(above=0)
SMALL = number(least=0, below=1)

# Server optimizers, and what of theirs has which default.
SERVERS: Mapping[str, Values] = {
    "momentum": {"rate": 1.0, "momentum": 0.9},
    "adam": {"rate": 0.01, "momentum": 0.9, "beta2": 0.99, "tau": 0.001},
    "yogi": {"rate": 0.01, "momentum": 0.9, "beta2": 0.99, "tau": 0.001},
}
# How updates may be sealed from the coordinator, likewise; `masks` is told in `masking`.
SEALS: Mapping[str, Values] = {"masks": {"reach": 1.0}}
SEALING = ("seal", "groups", "cap", *SEALS["masks"])
ROUNDS: Mapping[str, Option] = {
    "fraction": Option(SHARE, 1.0, "share of the sites that is selected for a round"),
    "minimum": Option(SHARE, 0.5, "share of the selected sites that suffices at the deadline"),
    "deadline": Option(POSITIVE, 600.0, "seconds after which a round closes without the missing ones"),
    "sites": Option(whole(1, 10_000), 1, "sites that must be enrolled before the first round"),
    "clip": Option(POSITIVE, None, "the longest step (L2 norm) that an update may make"),
    "server": Option(one_of(*SERVERS), None, f"what makes a step of a round's result: {', '.join(SERVERS)}"),
    "rate": Option(POSITIVE, None, "its learning rate [momentum 1, adam and yogi 0.01]"),
    "momentum": Option(SMALL, None, "how much of the last step stays [0.9]"),
    "beta2": Option(SMALL, None, "adam and yogi: the same for the squares [0.99]"),
    "tau": Option(POSITIVE, None, "adam and yogi: keeps small squares from making large steps [0.001]"),
}
FAULTY = Option(whole(0, 1000), 1, "how many sites may send anything")  # of those that look at distances


def read_options(whose: str, parts: str, known: Mapping[str, Option]) -> dict[str, Value]:
    """What `OPTION=VALUE,…` gives; an empty text gives nothing.

    Args:
        whose: As a message names it, such as `the policy best`.

    Raises:
        ValueError: No such option, one twice, or a value is out of range.
    """
    given: dict[str, Value] = {}
    for part in parts.split(",") if parts else ():
        key, equals, text = part.strip().partition("=")
        if not equals:
            raise ValueError(f"{part!r} of {whose} is not OPTION=VALUE")
        if key not in known:
            raise ValueError(f"{whose} has no option {key!r}{nearest(key, known)}")
        if key in given:
            raise ValueError(f"{whose} has {key} twice")
        given[key] = checked(f"{key} of {whose}", text, known[key].form.read)
    return given


def written_out(name: str, known: Mapping[str, Option], given: Values) -> dict[str, Value]:
    """Every option of the policy `name` that counts, in the order of `known`.

    Raises:
        ValueError: One belongs to another server optimizer than the chosen one; says which.
    """
    own: dict[str, Value] = {}
    for chooser, kinds, what in (("server", SERVERS, "server optimizer"), ("seal", SEALS, "seal")):
        chosen = given.get(chooser)
        its = kinds[str(chosen)] if chosen is not None else {}
        others = {key for options in kinds.values() for key in options} - its.keys() if chooser in known else set()
        for key in given:
            if key in others:
                raise ValueError(f"{key} of the policy {name} belongs to another {what} than {chosen or 'none'}")
        own |= its
    if "groups" in given and "seal" not in given:
        raise ValueError(f"groups of the policy {name} belong to seal=masks")
    if "seal" in given and "clip" in given:
        raise ValueError(f"clip of the policy {name} looks at each update, and seal={given['seal']} shows none")
    defaults = {key: option.default for key, option in known.items() if option.default is not None}
    found = {**defaults, **own, **given}
    return {key: found[key] for key in known if key in found}


def server_start(values: Values) -> list[float]:
    """What each set of the server optimizer's state is filled with before the first round; as long as there are sets.

    Args:
        values: A policy's options; without `server` there is no state.
    """
    server = values.get("server")
    if server is None:
        return []
    return [0.0] if server == "momentum" else [0.0, float(values["tau"]) ** 2]
