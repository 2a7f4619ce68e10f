"""Settings: frozen dataclasses filled from flags and the environment, and from a file where a command takes one.

The flag `--wait`, the variable `BOB_WAIT` and the field `wait` are one word; flag beats variable beats file
beats default. A variable with the agent's prefix that no setting knows is an error, and so is such a name in
a file: a typing mistake is never silently ignored.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fedssh.errors import SettingsError
from fedssh.forms import Expected, Form, checked, nearest, number, one_of, text, whole, yes_or_no

Settings = TypeVar("Settings")
REQUIRED: Any = dataclasses.MISSING


def setting(
    default: Any,
    help: str,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    form: Form[Any] | None = None,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: The value when neither flag nor variable is given; `REQUIRED` when there is none.
        help: What it does, in one line, with its unit.
        metavar: How `--help` shows the value.
        choices: The only allowed values.
        at_least: The smallest allowed number.
        form: What it may be, where the field's type does not say it.
    """
    metadata = {
        "help": help, "metavar": metavar, "form": one_of(*choices) if choices else form, "at_least": at_least,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def settings_file(help: str) -> Any:
    """A field that names a TOML file with values for the other fields, under their own names."""
    return dataclasses.field(default=None, metadata={"help": help, "metavar": "FILE", "form": _PATH, "file": True})


def load(
    cls: type[Settings], prefix: str, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """Fill a settings dataclass.

    Args:
        cls: A frozen dataclass whose fields were made by `setting`, or have a form of their own and, where it is not
            met, a hint.
        prefix: The agent's name; `bob` reads `BOB_…`.
        flags: Field name to value; None means the flag was not given.

    Raises:
        SettingsError: A value is missing, of the wrong type, or not allowed.
    """
    types = get_type_hints(cls)
    path, table = _file(cls, prefix, flags, environ)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        form = field.metadata["form"] or _form(types[field.name], field.metadata.get("at_least"))
        raw, source = _given(field, prefix, flags, environ)
        take = form.read if isinstance(raw, str) else form
        if raw is None and field.name in table:
            raw, source, take = table[field.name], f"{path}: {field.name}", form
        if raw is None:
            if field.default is dataclasses.MISSING:
                variable = f"{prefix}_{field.name}".upper()
                raise SettingsError(f"--{field.name.replace('_', '-')} is missing", f"give it, or set {variable}")
            continue
        try:
            values[field.name] = checked(source, raw, take)
        except ValueError as error:
            raise SettingsError(str(error), field.metadata.get("hint")) from None
    return cls(**values)


def check_environment(prefix: str, known: set[str], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse variables with the agent's prefix that no setting of any of its commands has.

    Raises:
        SettingsError: Names the variable and the nearest known one.
    """
    for name in environ:
        if name.startswith(prefix.upper() + "_") and name not in known:
            import difflib  # only where something is wrong

            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise SettingsError(f"{name} is not a setting", f"the nearest is {near[0]}" if near else None)


def variables(cls: type[Any], prefix: str) -> set[str]:
    """The environment variables that a settings dataclass reads."""
    return {f"{prefix}_{field.name}".upper() for field in dataclasses.fields(cls)}


def describe(settings: Any) -> str:
    """All settings on one line, as printed at start. Settings hold no secret but what a `Via` does not show."""
    return ", ".join(f"{field.name}={getattr(settings, field.name)}" for field in dataclasses.fields(settings))


def _given(
    field: dataclasses.Field[Any], prefix: str, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Any, str]:
    """What a field's flag or variable says, and which of them; None where neither does."""
    variable = f"{prefix}_{field.name}".upper()
    if (raw := flags.get(field.name)) is None and variable in environ:
        return environ[variable], variable
    return raw, f"--{field.name.replace('_', '-')}"


def _file(
    cls: type[Any], prefix: str, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Path | None, Mapping[str, Any]]:
    """The file with values that is given, and what stands in it; nothing where there is none.

    Raises:
        SettingsError: It cannot be read, or has a name that is no setting.
    """
    for field in dataclasses.fields(cls):
        raw, source = _given(field, prefix, flags, environ)
        if not field.metadata.get("file") or raw is None:
            continue
        import tomllib

        path, names = _PATH(raw), {other.name for other in dataclasses.fields(cls)} - {field.name}
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{source}: {path} cannot be read: {error}") from None
        for name in table:
            if name not in names:
                raise SettingsError(f"{path}: {name!r} is not a setting{nearest(name, sorted(names))}")
        return path, table
    return None, {}


def _form(wanted: Any, at_least: float | None) -> Form[Any]:
    """What a field of a type may be that says nothing else."""
    kind = next(kind for kind in getattr(wanted, "__args__", (wanted,)) if kind is not type(None))
    if kind is int:
        return whole(None if at_least is None else int(at_least), None)
    if kind is float:
        return number(at_least)
    return {bool: yes_or_no, Path: _PATH, str: text}[kind]


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise Expected("expected the name of a file or folder")
    return Path(value).expanduser()


_PATH = Form(_path)
