"""Prometheus' text format as its specification has it, strictly, and the real programs where they are installed."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_VALUE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|NaN|[+-]Inf")
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """The samples of a file for the textfile collector; an AssertionError says what is wrong with it.

    Stricter than the format: each name has its HELP and TYPE once, before its samples, which stand together; no
    timestamp, which the collector would refuse; no label or sample twice; counters end with `_total`.
    """
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    found: Samples = {}
    helped, now = "", ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, help = line.removeprefix("# HELP ").partition(" ")
            assert _NAME.fullmatch(name) and name not in kinds and help, line
            assert re.fullmatch(r"(?:[^\\]|\\[\\n])*", help), line
            helped = name
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == helped and name not in kinds and kind in ("counter", "gauge"), line
            assert (kind == "counter") == name.endswith("_total"), line
            kinds[name], now = kind, name
        else:
            sample = re.fullmatch(r"([^{ ]+)(?:\{(.+)\})? (\S+)", line)
            assert sample and sample[1] == now, line
            labels: dict[str, str] = {}
            rest = sample[2] or ""
            while rest:
                label = _LABEL.match(rest)
                assert label and label[1] not in labels, line
                labels[label[1]] = re.sub(r"\\.", lambda one: _UNESCAPED[one[0]], label[2])
                rest = rest[label.end() :]
            key = (now, frozenset(labels.items()))
            assert _VALUE.fullmatch(sample[3]) and key not in found, line
            found[key] = float(sample[3].replace("Inf", "inf"))
            assert not now.endswith("_total") or found[key] >= 0 or math.isnan(found[key])
    assert {name for name, _ in found} == set(kinds), "a name without a sample"
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """One sample, by its name without the prefix, and its labels without the federation, which all have."""
    found = {
        frozenset(told - {label}): number
        for (called, told), number in samples.items()
        for label in told
        if called == f"fedssh_{name}" and label[0] == "federation"
    }
    return found.get(frozenset(labels.items()))


def promtool() -> str:
    """The path of Prometheus' own checker."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool (on Debian and Ubuntu: apt install prometheus)")
    return found


def read(path: Path) -> Samples:
    """A file's samples."""
    return parse(path.read_text())
