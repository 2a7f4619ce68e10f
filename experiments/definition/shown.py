"""What an experiment's file says about showing results: published figures, scenarios and plots.

Patterns are those of a shell, for names of runs without fold and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.definition import settings
from fedssh.forms import one_of, whole

OF = ("model", "sites", "speedup")
AXES = ("seconds", "clock", "examples", "version", "megabytes")


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
            until convergence.
    """

    what: str
    published: str
    ours: str
    metric: str = "accuracy"
    version: int | None = None
    of: str = "model"


@dataclass(frozen=True)
class Scenario:
    """A column of the table of policies and scenarios, and the pattern of the runs that belong to it."""

    name: str
    runs: str


@dataclass(frozen=True)
class Plot:
    """Curves of some runs against one of `AXES`."""

    title: str
    runs: str = "*"
    x: str = "seconds"
    metric: str = "accuracy"


def read_published(value: Any) -> tuple[str, tuple[Figure, ...]]:
    """The table [published]: its source and its figures; ValueError says what is wrong with it."""
    where = "[published]"
    table = settings.table_of(value, where)
    settings.require_known(table, ("source", "figures"), where)
    figures = settings.tables_of(table.get("figures", []), "[[published.figures]]")
    return settings.checked("source", table.get("source", ""), settings.text, where), tuple(map(_figure, figures))


def _figure(table: Mapping[str, Any]) -> Figure:
    checks: dict[str, settings.Check] = {
        **dict.fromkeys(("what", "published", "ours"), settings.text),
        "metric": one_of(*settings.SCORES),
        "version": whole(0),
        "of": one_of(*OF),
    }
    return Figure(**settings.all_of(table, checks, ("what", "published", "ours"), "[[published.figures]]"))


def read_scenario(table: Mapping[str, Any]) -> Scenario:
    """A table of [[scenarios]]; ValueError says what is wrong with it."""
    checks = dict.fromkeys(("name", "runs"), settings.text)
    return Scenario(**settings.all_of(table, checks, ("name", "runs"), "[[scenarios]]"))


def read_plot(table: Mapping[str, Any]) -> Plot:
    """A table of [[plots]]; ValueError says what is wrong with it."""
    checks: dict[str, settings.Check] = {
        **dict.fromkeys(("title", "runs"), settings.text),
        "x": one_of(*AXES),
        "metric": one_of(*settings.SCORES),
    }
    return Plot(**settings.all_of(table, checks, ("title",), "[[plots]]"))
