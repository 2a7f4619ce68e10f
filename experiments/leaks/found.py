"""What runs found, in one JSON file: a row for each, with the settings that tell it from the others.

    {"experiment": …, "date": "2026-11-26", "machine": {…}, "runs": [{"cut": …, "ssim": …}, …]}

The file is whole after every run, so a run that is there is not done again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments import machine
from experiments.results.intervals import half_width
from fedssh.files import write_whole

PAGES = machine.ROOT / "docs" / "explanation" / "results"


def path_of(name: str) -> Path:
    """Where the file lies that the pages are made from."""
    return PAGES / f"{name}.json"


def parse(
    parser: argparse.ArgumentParser, name: str, seeds: Sequence[int], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """What all such commands take."""
    add = parser.add_argument
    add("--seed", type=int, nargs="+", default=list(seeds), metavar="N")
    data = Path(os.environ.get("FEDSSH_DATA", machine.ROOT / "data"))
    add("--data-dir", type=Path, default=data, metavar="DIR", help="where data sets are  [$FEDSSH_DATA or ./data]")
    add("--out", type=Path, default=path_of(name), metavar="FILE", help="what was found")
    add("--tables", action="store_true", help="write the tables of the pages, and do nothing else")
    return parser.parse_args(arguments)


def work(
    name: str,
    out: Path,
    wanted: Sequence[Mapping[str, Any]],
    do: Callable[[dict[str, Any]], Sequence[Mapping[str, Any]]],
) -> None:
    """Do each run that `out` does not have, which gives a row or several; prints a line for each."""
    runs = read(out)["runs"] if out.exists() else []
    for keys in wanted:
        if any(all(run.get(key) == value for key, value in keys.items()) for run in runs):
            continue
        started = time.monotonic()
        rows = [{**keys, **{key: _rounded(value) for key, value in row.items()}} for row in do(dict(keys))]
        runs += rows
        print(f"{', '.join(map(str, keys.values()))}: {time.monotonic() - started:.0f} s", flush=True)
        write(name, out, runs)


def write(name: str, out: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the file, a line for each run."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = {"experiment": name, "date": today, "machine": machine.describe()}
    lines = ",\n".join(f" {json.dumps(run)}" for run in runs)
    write_whole(out, f'{json.dumps(head)[:-1]},\n"runs": [\n{lines}\n]}}\n'.encode(), 0o644)


def read(path: Path) -> dict[str, Any]:
    """What a file says."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def mean(values: Sequence[float], sign: str = "", digits: int = 3) -> str:
    """A mean, with its interval where there are two values or more."""
    text = f"{fmean(values):{sign}.{digits}f}"
    return f"{text} ± {half_width(values):.{digits}f}" if len(values) > 1 else text


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replaced(page: str, name: str, table: str) -> str:
    """A page with another table between the two marks of a name.

    Raises:
        ValueError: It has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page has no place for the table {name}, between {begin.strip()} and {end.strip()}")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{table}{end}{rest.partition(end)[2]}"


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value
