"""The vendor's own schema of Linode's API, as the `linode-cli` wheel carries it, and what breaks it.

Schema().check_body("post", "/linode/instances", {...})   ["unknown field flavour", "missing field region"]

The wheel's file is a pickle of plain nodes. It is read without importing the package, which would ask for a token;
every class in it becomes a node of ours, so reading it runs nothing.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# What the API documents and the wheel's schema leaves out, and where.
NOT_IN_THE_SCHEMA: dict[str, str] = {
    "query page": "https://techdocs.akamai.com/linode-api/reference/pagination: every list takes it",
    "query page_size": "the same page",
}
# What a field's own schema calls "json": where its elements are described instead.
ELEMENTS = {
    ("post", "/networking/firewalls", "rules.inbound"): ("firewalls", "ruleset-create", "rules."),
    ("post", "/networking/firewalls", "rules.outbound"): ("firewalls", "ruleset-create", "rules."),
    ("put", "/networking/firewalls/{firewallId}/rules", "inbound"): ("firewalls", "ruleset-create", "rules."),
    ("put", "/networking/firewalls/{firewallId}/rules", "outbound"): ("firewalls", "ruleset-create", "rules."),
}
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict, list),  # "json" in the schema's words: either
}  # fmt: skip


class Node:
    """Any object of the wheel's file: its fields, and nothing that it does."""

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            vars(self).update(part or {})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return Node


@cache
def _operations() -> dict[str, dict[str, Any]]:
    found = importlib.util.find_spec("linodecli")
    assert found is not None and found.submodule_search_locations is not None, "linode-cli is not installed"
    with open(Path(found.submodule_search_locations[0]) / "data-3", "rb") as file:
        commands = _Reader(file).load()
    return {name: actions for name, actions in commands.items() if not name.startswith("_")}


@cache
def _by_path() -> dict[tuple[str, str], Any]:
    operations = (operation for actions in _operations().values() for operation in actions.values())
    return {(one.method, one.url_path.removeprefix("/{apiVersion}")): one for one in operations}


@cache
def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    return [(method, pattern, re.compile(re.sub(r"\{\w+\}", "[^?]+?", pattern))) for method, pattern in _by_path()]


class Schema:
    """What each operation takes and gives, by its method and path."""

    def __init__(self) -> None:
        self.operations = _by_path()

    def path(self, method: str, path: str) -> str | None:
        """The schema's form of a request's path, "/linode/instances/{linodeId}"; None if there is no such operation.

        Of several that fit, the one with the fewest variables.
        """
        fitting = [pattern for known, pattern, fits in _patterns() if known == method and fits.fullmatch(path)]
        return min(fitting, key=lambda pattern: (pattern.count("{"), -len(pattern)), default=None)

    def check_body(self, method: str, pattern: str, body: Any) -> list[str]:
        """What of a request's body the schema does not allow, in words."""
        request = self.operations[method, pattern].request if method != "get" else None  # a GET's describes its filter
        fields = {field.path: field for field in (request.attrs if request else [])}
        if body is None:
            body = {}
        if not isinstance(body, dict):
            return [f"the body is {type(body).__name__}"]
        wrong = list(_wrong(body, "", fields))
        for (*at, path), (command, action, prefix) in ELEMENTS.items():
            if at == [method, pattern]:
                inner = _operations()[command][action].request.attrs
                known = {field.path.removeprefix(prefix): field for field in inner if field.path.startswith(prefix)}
                for number, element in enumerate(_at(body, path) or []):
                    wrong += [f"{path}[{number}]: {one}" for one in _wrong(element, "", known)]
        return wrong

    def check_query(self, method: str, pattern: str, query: Mapping[str, Sequence[str]]) -> list[str]:
        """What of a request's query the schema does not know: `?tag=`, which the API silently ignores."""
        known = {one.name for one in self.operations[method, pattern].params}
        return [
            f"unknown query {name}" for name in query if name not in known and f"query {name}" not in NOT_IN_THE_SCHEMA
        ]

    def filterable(self, pattern: str) -> set[str]:
        """The fields of a list that X-Filter takes."""
        return {field.name for field in self.operations["get", pattern].response_model.attrs if field.filterable}

    def check_answer(self, method: str, pattern: str, answer: Any) -> list[str]:
        """Fields of an answer that the schema does not have, so that a fake invents none."""
        model = self.operations[method, pattern].response_model
        if model is None or not answer:
            return []
        known = {field.name for field in model.attrs}
        listed = isinstance(answer, dict) and set(answer) == {"data", "page", "pages", "results"}
        return sorted(set(_unknown(answer["data"] if listed else answer, "", known)))


def _wrong(body: Mapping[str, Any], prefix: str, fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in body.items():
        path = f"{prefix}{name}"
        if path in fields:
            yield from _wrong_value(path, value, fields[path])
        elif any(known.startswith(f"{path}.") for known in fields):
            if isinstance(value, dict):
                yield from _wrong(value, f"{path}.", fields)
            else:
                yield f"{path} is {type(value).__name__}, not object"
        else:
            yield f"unknown field {path}"
    for path, field in fields.items():
        parent, _, name = path.rpartition(".")
        if field.required and not field.parent and f"{parent}." == prefix + "." * (not prefix) and name not in body:
            yield f"missing field {path}"


def _wrong_value(path: str, value: Any, field: Any) -> Iterator[str]:
    if field.read_only:
        yield f"{path} is read-only"
    if value is None:
        if not field.nullable:
            yield f"{path} is null"
        return
    if not _fits(value, field.datatype):
        yield f"{path} is {type(value).__name__}, not {field.datatype}"
    elif field.datatype == "array":
        yield from (
            f"{path}[{number}] is {type(one).__name__}, not {field.item_type}"
            for number, one in enumerate(value)
            if not _fits(one, field.item_type)
        )


def _fits(value: Any, datatype: str) -> bool:
    return isinstance(value, TYPES[datatype]) and (datatype == "boolean" or not isinstance(value, bool))


def _unknown(answer: Any, prefix: str, known: set[str]) -> Iterator[str]:
    if isinstance(answer, list):
        for element in answer:
            yield from _unknown(element, prefix, known)
    elif isinstance(answer, dict):
        for name, value in answer.items():
            path = f"{prefix}{name}"
            if any(one.startswith(f"{path}.") for one in known):
                yield from _unknown(value, f"{path}.", known)
            elif path not in known:
                yield f"unknown field {path}"


def _at(body: Any, path: str) -> Any:
    for name in path.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return body
