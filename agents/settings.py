"""Settings: frozen dataclasses filled from flags and the environment.

The flag `--wait`, the variable `BOB_WAIT` and the field `wait` are one word; flag beats variable beats
default. A variable with the agent's prefix that no setting knows is an error, so a typing mistake is never
silently ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedssh.errors import SettingsError

Settings = TypeVar("Settings")
REQUIRED: Any = dataclasses.MISSING


def setting(
    default: Any, help: str, metavar: str | None = None, choices: tuple[str, ...] = (), at_least: float | None = None
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: The value when neither flag nor variable is given; `REQUIRED` when there is none.
        help: What it does, in one line, with its unit.
        metavar: How `--help` shows the value.
        choices: The only allowed values.
        at_least: The smallest allowed number.
    """
    metadata = {"help": help, "metavar": metavar, "choices": choices, "at_least": at_least}
    return dataclasses.field(default=default, metadata=metadata)


def load(
    cls: type[Settings], prefix: str, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """Fill a settings dataclass.

    Args:
        cls: A frozen dataclass whose fields were made by `setting`.
        prefix: The agent's name; `bob` reads `BOB_…`.
        flags: Field name to value; None means the flag was not given.

    Raises:
        SettingsError: A value is missing, of the wrong type, or not allowed.
    """
    types = get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        variable = f"{prefix}_{field.name}".upper()
        raw = flags.get(field.name)
        source = f"--{field.name.replace('_', '-')}"
        if raw is None and variable in environ:
            raw, source = environ[variable], variable
        if raw is None:
            if field.default is dataclasses.MISSING:
                raise SettingsError(f"--{field.name.replace('_', '-')} is missing", f"give it, or set {variable}")
            continue
        value = _convert(raw, types[field.name], source)
        _check(value, field.metadata, source)
        values[field.name] = value
    return cls(**values)


def check_environment(prefix: str, known: set[str], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse variables with the agent's prefix that no setting of any of its commands has.

    Raises:
        SettingsError: Names the variable and the nearest known one.
    """
    for name in environ:
        if name.startswith(prefix.upper() + "_") and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise SettingsError(f"{name} is not a setting", f"the nearest is {near[0]}" if near else None)


def variables(cls: type[Any], prefix: str) -> set[str]:
    """The environment variables that a settings dataclass reads."""
    return {f"{prefix}_{field.name}".upper() for field in dataclasses.fields(cls)}


def describe(settings: Any) -> str:
    """All settings on one line, as printed at start. Settings never hold secrets, only paths to them."""
    return ", ".join(f"{field.name}={getattr(settings, field.name)}" for field in dataclasses.fields(settings))


def _convert(raw: Any, wanted: Any, source: str) -> Any:
    if not isinstance(raw, str):
        return raw
    names = [kind for kind in getattr(wanted, "__args__", (wanted,)) if kind is not type(None)]
    kind = names[0]
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[raw.lower()]
        return Path(raw).expanduser() if kind is Path else kind(raw)
    except (ValueError, KeyError):
        expected = {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise SettingsError(f"{source} is {raw!r}, expected {expected}") from None


def _check(value: Any, metadata: Mapping[str, Any], source: str) -> None:
    if metadata["choices"] and value not in metadata["choices"]:
        raise SettingsError(f"{source} is {value!r}, expected one of {', '.join(metadata['choices'])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{source} is {value}, expected a finite number")
    if metadata["at_least"] is not None and value < metadata["at_least"]:
        raise SettingsError(f"{source} is {value}, expected at least {metadata['at_least']}")
