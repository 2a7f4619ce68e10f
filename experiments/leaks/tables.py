"""The tables of the pages, from what was found; and the pages with them.

A table stands between two marks, `<!-- NAME -->` and `<!-- end of NAME -->`; the words around it are people's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.leaks import found
from experiments.machine import ROOT
from fedssh.files import write_whole

Row = Mapping[str, Any]
NEEDED = ("noticed", "noticed_as_published")


def reconstruction(rows: Sequence[Row]) -> str:
    """What was seen at each cut: means over seeds, with their intervals."""
    plain = {(row["cut"], row["seed"]): row for row in rows if (row["wire"], row["noise"]) == ("f16", 0)}
    lines = []
    for key, some in grouped(rows, "cut", "wire", "noise"):
        cost = [100 * (row["holdout_accuracy"] - plain[key[0], row["seed"]]["holdout_accuracy"]) for row in some]
        itself = key[1:] == ("f16", 0)
        lines.append([
            f"`{key[0]}`", key[1], f"{key[2]:g}", str(len(some)), found.mean([row["ssim"] for row in some]),
            found.mean([row["mse"] for row in some], digits=4),
            found.mean([row["holdout_accuracy"] for row in some]),
            "–" if itself else found.mean(cost, "+", 1),
        ])  # fmt: skip
    seeds = {row["seed"]: row for row in rows}.values()
    mean = [found.mean([row[f"mean_image_{name}"] for row in seeds], digits=digits)
            for name, digits in (("ssim", 3), ("mse", 4))]  # fmt: skip
    lines.append(["the holdout's mean image", "", "", str(len(seeds)), *mean, "", ""])
    heads = ("cut", "wire", "noise", "seeds", "SSIM", "squared error", "accuracy", "cost, points")
    return found.markdown(heads, lines)


def hijacking(rows: Sequence[Row]) -> str:
    """How many sessions each rule stopped, and after how many steps."""
    lines = []
    for (data, site, session), some in grouped(rows, "data", "site", "session"):
        cells = [data, site, session, str(sum(row["steps"] for row in some) // len(some))]
        for name in NEEDED:
            steps = sorted(row[name] for row in some if row[name] is not None)
            after = f" (step {', '.join(map(str, steps))})" if steps else ""
            cells.append(f"{len(steps)} of {len(some)}{after}")
        lines.append([*cells, *(seen(some, name) for name in ("ssim_when_noticed", "ssim_at_the_end"))])
    heads = ("data", "sites", "session", "steps", "stopped", "stopped by the published rule", "seen by then (SSIM)",
             "seen at the end")  # fmt: skip
    return found.markdown(heads, lines)


def rates(rows: Sequence[Row]) -> str:
    """In a sentence: how many of the hijacked and of the honest sessions were stopped."""
    said = []
    for name, rule in zip(NEEDED, ("the watch", "the published rule"), strict=True):
        stopped = {True: "", False: ""}
        for honest in stopped:
            some = [row for row in rows if (row["session"] == "honest") == honest]
            stopped[honest] = f"{sum(row[name] is not None for row in some)} of {len(some)}"
        said.append(f"{rule} {stopped[False]} hijacked sessions and {stopped[True]} honest ones")
    return f"Stopped were by {', by '.join(said)}.\n"


def seen(rows: Iterable[Row], name: str) -> str:
    """The mean of what was seen, of the sessions in which something was."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{sum(values) / len(values):.3f}" if values else "–"


def grouped(rows: Iterable[Row], *keys: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows with the same values of `keys`, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    order = {"pool1": 0, "pool2": 1, "dense": 2}
    return sorted(groups.items(), key=lambda group: order.get(group[0][0], 0))


TABLES: Mapping[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
    "reconstruction": ("SECURITY.md", reconstruction),
    "hijacking": ("docs/explanation/attacks.md", lambda rows: f"{hijacking(rows)}\n{rates(rows)}"),
}


def page_with(name: str) -> tuple[str, str]:
    """The page that has a table, as it should be: its path in the checkout, and its text.

    Raises:
        ValueError: It has no place for it.
    """
    path, table = TABLES[name]
    rows = found.read(found.path_of(name))["runs"]
    return path, found.replaced((ROOT / path).read_text(), name, table(rows))


def write(name: str) -> int:
    """Write the table of a name into its page; returns the exit code."""
    path, text = page_with(name)
    write_whole(ROOT / path, text.encode(), 0o644)
    print(f"{path} has the table of {found.path_of(name).relative_to(ROOT)}", file=sys.stderr)
    return 0
