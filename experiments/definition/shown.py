"""What an experiment's file says about showing results: published figures, scenarios, comparisons and plots.

Patterns are those of a shell, for names of runs without fold and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.definition import settings
from fedssh.forms import Expected, number, one_of, whole, yes_or_no

OF = ("model", "sites", "speedup", "rounds", "curve")
EQUAL = ("steps", "synchronisations")
AXES = ("seconds", "clock", "examples", "version", "megabytes", "site_multiply_adds", "site_megabytes")


@dataclass(frozen=True)
class Figure:
    """A published number and where ours stands.

    Attributes:
        what: The number's name.
        published: As published.
        ours: Pattern of names of runs.
        metric: Of the test scores.
        version: Of which release; None is the last one.
        of: model; sites: lowest and highest of the sites' own models; speedup: centralised's time divided by ours,
            until convergence; rounds: the first round whose score reaches `reaches`; curve: how far the published
            `values` are from ours, release by release.
        reaches: For rounds, in 0..1.
        values, first_version: For curve; the first value is that of release `first_version`.
        value: As published, as a number; of a curve, nothing: there the distance itself is judged.
        tolerance: How far ours may be from it; None is our interval. Of a curve, how far on average.
        why: Where ours does not reproduce it, the reason in one sentence.
        contradictory: The published figures contradict each other, as `why` says; so nothing can reproduce them.
    """

    what: str
    published: str
    ours: str
    metric: str = "accuracy"
    version: int | None = None
    of: str = "model"
    reaches: float | None = None
    values: tuple[float, ...] = ()
    first_version: int = 1
    value: float | None = None
    tolerance: float | None = None
    why: str = ""
    contradictory: bool = False


@dataclass(frozen=True)
class Scenario:
    """A column of the table of policies and scenarios, and the pattern of the runs that belong to it.

    Attributes:
        equal: What these runs have equally much of, one of `EQUAL`; "" claims nothing.
    """

    name: str
    runs: str
    equal: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs that are each compared with a baseline, paired by seed and fold.

    Attributes:
        runs, baseline: Patterns. Where several runs are the baseline, each run has the one in its own setting.
        name: What is compared, in words.
        metric: Of the test scores; "" is the first that the experiment reports.
        equal: What both have equally much of, one of `EQUAL`; "" claims nothing.
    """

    runs: str
    baseline: str
    name: str = ""
    metric: str = ""
    equal: str = ""


@dataclass(frozen=True)
class Plot:
    """Curves of some runs against one of `AXES`."""

    title: str
    runs: str = "*"
    x: str = "seconds"
    metric: str = ""  # the first that the experiment reports


def read_published(value: Any) -> tuple[str, tuple[Figure, ...]]:
    """The table [published]: its source and its figures; ValueError says what is wrong with it."""
    where = "[published]"
    table = settings.table_of(value, where)
    settings.require_known(table, ("source", "figures"), where)
    figures = settings.tables_of(table.get("figures", []), "[[published.figures]]")
    return settings.checked("source", table.get("source", ""), settings.text, where), tuple(map(_figure, figures))


def _figure(table: Mapping[str, Any]) -> Figure:
    where = "[[published.figures]]"
    checks: dict[str, settings.Check] = {
        **dict.fromkeys(("what", "published", "ours", "why"), settings.text),
        "metric": one_of(*settings.SCORES),
        **dict.fromkeys(("version", "first_version"), whole(0)),
        "of": one_of(*OF),
        "reaches": number(0, 1),
        "values": _numbers,
        "value": number(),
        "tolerance": number(0),
        "contradictory": yes_or_no,
    }
    figure = Figure(**settings.all_of(table, checks, ("what", "published", "ours"), where))
    needs = {
        "of rounds needs 'reaches'": figure.of == "rounds" and figure.reaches is None,
        "of curve needs 'values' and 'tolerance'": figure.of == "curve"
        and not (table.keys() >= {"values", "tolerance"}),
        "has values or first_version, which belong to 'of = \"curve\"'": (
            figure.of != "curve" and table.keys() & {"values", "first_version"}
        ),
        "has reaches, which belongs to 'of = \"rounds\"'": figure.of != "rounds" and "reaches" in table,
        "is contradictory and lacks 'why'": figure.contradictory and not figure.why,
    }
    for said, wrong in needs.items():
        if wrong:
            raise ValueError(f"{where} {figure.what!r} {said}")
    return figure


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not value or not all(type(one) in (int, float) for one in value):
        raise Expected("expected a list of numbers")
    return tuple(map(float, value))


def read_scenario(table: Mapping[str, Any]) -> Scenario:
    """A table of [[scenarios]]; ValueError says what is wrong with it."""
    checks: dict[str, settings.Check] = {**dict.fromkeys(("name", "runs"), settings.text), "equal": one_of(*EQUAL)}
    return Scenario(**settings.all_of(table, checks, ("name", "runs"), "[[scenarios]]"))


def read_comparison(table: Mapping[str, Any]) -> Comparison:
    """A table of [[comparisons]]; ValueError says what is wrong with it."""
    checks: dict[str, settings.Check] = {
        **dict.fromkeys(("name", "runs", "baseline"), settings.text),
        "metric": one_of(*settings.SCORES),
        "equal": one_of(*EQUAL),
    }
    return Comparison(**settings.all_of(table, checks, ("runs", "baseline"), "[[comparisons]]"))


def read_plot(table: Mapping[str, Any]) -> Plot:
    """A table of [[plots]]; ValueError says what is wrong with it."""
    checks: dict[str, settings.Check] = {
        **dict.fromkeys(("title", "runs"), settings.text),
        "x": one_of(*AXES),
        "metric": one_of(*settings.SCORES),
    }
    return Plot(**settings.all_of(table, checks, ("title",), "[[plots]]"))
