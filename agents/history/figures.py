"""Figures with their intervals as text: what `rules.figures` and `rules.differing` found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedssh.history.table import decimal, few, table

Row = dict[str, Any]
SHOWN = 20  # recalls in a table
COLUMNS = 8  # sites in a matrix


def text(value: Row | None, where: str) -> str:
    """What was found on some images, as tables; empty where nothing was.

    Args:
        where: Which images, as the head of the first column.
    """
    if value is None:
        return ""
    parts = [_table(f"{where}, {value['images']:,} EXAMPLES", value["figures"])]
    if at := value["threshold"]:
        rule = f" ({at['rule']})" if at["rule"] else ""
        parts.append(_table(f"CALLED {at['class']} FROM {at['value']:.4g} ON{rule}", at["figures"]))
    if line := calibration(value["calibration"]):
        parts.append(f"{line}\n")
    return "\n" + "\n".join(parts)


def calibration(found: Row | None) -> str:
    """The calibration error in a line; empty where there is none."""
    if found is None:
        return ""
    line = f"expected calibration error {_with_interval(found)}, 15 bins of equal width"
    if found["tempered"]:
        return f"{line}; {_with_interval(found['tempered'])} after the temperature {found['temperature']:.4g}"
    return line + (f"; temperature {found['temperature']:.4g}" if found["temperature"] else "")


def _with_interval(found: Row) -> str:
    low, high = found["low"], found["high"]
    return decimal(found["error"]) + ("" if low is None else f" ({decimal(low)} to {decimal(high)})")


def _table(head: str, figures: Sequence[Row]) -> str:
    rows = [
        (one["of"], decimal(one["value"]), f"{decimal(one['low'])} to {decimal(one['high'])}",
         "–" if one["right"] is None else f"{one['right']:,} of {one['images']:,}")
        for one in figures
    ]  # fmt: skip
    more = [one for one in figures if one["of"].startswith("recall of ")][SHOWN:]
    kept = [row for row, one in zip(rows, figures, strict=True) if one not in more]
    told = f"and {few([one['of'].removeprefix('recall of ') for one in more])}\n" if more else ""
    return table((head, "VALUE", "95 % INTERVAL", "RIGHT"), kept, right=(1, 3)) + told


def scores(value: Row) -> str:
    """The matrix of releases and sites, and on how many images each score is."""
    if not value["agreed"]:
        return "no scores of sites were agreed: charity init --site-scores on\n"
    if not value["releases"]:
        return "no site has said what a release scores there yet\n"
    metric, sites, more = value["metric"], value["sites"][:COLUMNS], value["sites"][COLUMNS:]
    rows = [
        (row["release"], row["of"], decimal(row["holdout"].get(metric)),
         *(_at_site(row["sites"].get(site), metric) for site in sites))
        for row in value["releases"]
    ]  # fmt: skip
    left = f"and {few(more)}: --json shows all\n" if more else ""
    columns = ("RELEASE", "OF", "HOLDOUT", *sites)
    heading = f"{metric.replace('_', ' ')} by each site's own word, and on how many of its images\n\n"
    return heading + table(columns, rows, right=tuple(range(len(columns)))) + left


def privacy(value: Row) -> str:
    """What is agreed, in a line, and the account of each site."""
    agreed = value["agreed"]
    if agreed is None:
        return "no privacy was agreed: charity init --privacy\n"
    rate = f"each step at the rate {agreed['rate']:g}, " if "rate" in agreed else ""
    heading = (
        f"hides one {agreed['unit']}: gradients up to {agreed['clip']:g}, {rate}noise {agreed['noise']:g}, epsilon at "
        f"most {agreed['budget']:g} at delta {agreed['delta']:g}; a rollback gives nothing back\n\n"
    )
    rows = [
        (row["site"], row["state"], row["sessions"], decimal(row["spent"]), decimal(row["left"]),
         decimal(row["price"]), decimal(row["budget"]))
        for row in value["sites"]
    ]  # fmt: skip
    columns = ("SITE", "STATE", "SESSIONS", "SPENT", "LEFT", "NEXT COSTS", "BUDGET")
    return heading + table(columns, rows, right=tuple(range(2, len(columns))))


def _at_site(said: Row | None, metric: str) -> str:
    return "–" if said is None else f"{decimal(said[metric])} ({said['examples']:,})"
