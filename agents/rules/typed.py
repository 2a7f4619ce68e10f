"""Reading what JSON says into dataclasses, and writing it back: nothing is guessed, nothing is lost.

A member is of its type or the record is refused. One that may be missing has the type `Absent` beside its own and stays
missing when it is written. What a newer program added is kept aside (`more`) and written back, so reading and writing
gives the same JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Self, TypeVar

from fedssh.errors import LedgerError


class Absent(Enum):
    """Stands for a member that is not there."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
Known = TypeVar("Known")
_MOST = 2**53


def said(means: str, *, absent: bool = False) -> Any:
    """A member of a `Typed`, with what it means for whoever reads docs/reference/formats.md.

    Args:
        absent: Whether it may be missing.
    """
    if absent:
        return dataclasses.field(default=ABSENT, metadata={"means": means})
    return dataclasses.field(metadata={"means": means})


def known(value: Known | Absent, otherwise: Known) -> Known:
    """A member's value, or what its absence means."""
    return otherwise if isinstance(value, Absent) else value


@dataclass(frozen=True, kw_only=True)
class Typed:
    """Something that stands in JSON.

    Attributes:
        more: Members that this program does not know.
    """

    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, value: object, where: str) -> Self:
        """Read a JSON object.

        Args:
            where: What it is, for the message.

        Raises:
            LedgerError: It is none, lacks a member, or has one of another type.
        """
        if not isinstance(value, Mapping):
            raise LedgerError(f"{where} is no object")
        found, more = {}, {}
        members = _members(typing.cast(Any, cls))
        for name, (read, needed) in members.items():
            if name in value:
                found[name] = read(value[name], f"{name!r} of {where}")
            elif needed:
                raise LedgerError(f"{where} lacks {name!r}")
        if len(found) < len(value):
            more = {name: one for name, one in value.items() if name not in members}
        return cls(**found, more=more)

    def fields(self) -> dict[str, Any]:
        """The same as JSON."""
        found = dict(self.more)
        for name in _members(typing.cast(Any, type(self))):
            value = getattr(self, name)
            if value is not ABSENT:
                found[name] = plain(value)
        return found


def plain(value: Any) -> Any:
    """A member as JSON."""
    if isinstance(value, Typed):
        return value.fields()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value


def members(cls: type[Any]) -> list[tuple[str, str, str, bool]]:
    """Name, type, meaning and whether it is always there, of each member of a dataclass; for documents."""
    hints = typing.get_type_hints(cls)
    found = [one for one in dataclasses.fields(cls) if one.name != "more"]
    return [(one.name, _shown(hints[one.name]), one.metadata["means"], one.default is not ABSENT) for one in found]


_Read = Callable[[Any, str], Any]


@functools.cache
def _members(cls: Any) -> dict[str, tuple[_Read, bool]]:
    hints = typing.get_type_hints(cls)
    found = (one for one in dataclasses.fields(cls) if one.name != "more")
    return {one.name: (_reader(hints[one.name]), one.default is not ABSENT) for one in found}


def _reader(hint: Any) -> _Read:
    """The function that reads a value of a type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in typing.get_args(hint) if one not in (Absent, types.NoneType)]
        [only] = map(_reader, inner)
        return _or_none(only) if types.NoneType in typing.get_args(hint) else only
    if typing.get_origin(hint) is tuple:
        return _tuple_of(_reader(typing.get_args(hint)[0]))
    if typing.get_origin(hint) is Literal:
        return _one_of(typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Typed):
        return hint.read
    return _SIMPLE[typing.get_origin(hint) or hint]


def _or_none(read: _Read) -> _Read:
    return lambda value, where: None if value is None else read(value, where)


def _tuple_of(read: _Read) -> _Read:
    def every(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise LedgerError(f"{where} is no list")
        return tuple(read(one, where) for one in value)

    return every


def _one_of(words: tuple[str, ...]) -> _Read:
    def one(value: Any, where: str) -> str:
        if value not in words:
            raise LedgerError(f"{where} is {str(value)[:40]!r}, expected one of {', '.join(words)}")
        return str(value)

    return one


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise LedgerError(f"{where} is no text")
    return value


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise LedgerError(f"{where} is {str(value)[:40]}, expected a whole number from 0")
    return value


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise LedgerError(f"{where} is {str(value)[:40]}, expected true or false")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise LedgerError(f"{where} is {str(value)[:40]}, expected a number")
    return typing.cast(float, value)  # 1 stays 1: it is written back as it was


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise LedgerError(f"{where} is no object")
    return value


_SIMPLE: dict[Any, _Read] = {
    str: _text,
    bool: _truth,
    int: _whole,
    float: _number,
    dict: _object,
    typing.get_origin(Mapping[str, Any]): _object,
}


def _shown(hint: Any) -> str:
    """A type in words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_shown(one) for one in typing.get_args(hint) if one is not Absent)
    if typing.get_origin(hint) in (tuple, list):
        return f"list of {_shown(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(repr, typing.get_args(hint)))
    words = {str: "text", bool: "true or false", int: "whole number", float: "number", types.NoneType: "null"}
    if hint in words:
        return words[hint]
    return hint.__name__ if isinstance(hint, type) and dataclasses.is_dataclass(hint) else "object"
