"""How often the view `sites` says to look at a site that is faulty, and at one that is not.

    scripts/experiment faulty --out OUT
    python -m tests.benchmarks.faulty_sites OUT

Reads the histories of finished runs, as a person at the door would. A row per policy, partition and attack: of
how many faulty sites something was said, of how many of the others, and by which rules.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.definition.config import HISTORY
from experiments.results.file import read_result
from experiments.run import RESULT
from fedssh.history.published import row_of
from fedssh.history.sites import sites
from fedssh.history.table import table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="what scripts/experiment faulty wrote")
    parser.add_argument("--seed", type=int, nargs="+", help="only these")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for path in sorted(options.out.glob(f"runs/*/{RESULT}")):
        run = read_result("faulty", json.loads(path.read_text())).run
        if options.seed and run.seed not in options.seed:
            continue
        with path.with_name(HISTORY).open("rb") as lines:
            value = sites(map(row_of, lines))
        key = run.policy.partition(":")[0], run.data["partition"], run.attack.text if run.attack else "none"
        counted(found.setdefault(key, Counter()), value, set(run.attackers))
    if options.json:
        print(
            json.dumps([{"policy": key[0], "partition": key[1], "attack": key[2], **of} for key, of in found.items()])
        )
        return
    rows = [
        (*key, of["runs"], _of(of["hit"], of["faulty"]), _of(of["wrong"], of["honest"]),
         ", ".join(f"{name[5:]} {count}" for name, count in sorted(of.items()) if name.startswith("rule ")))
        for key, of in found.items()
    ]  # fmt: skip
    print(
        table(("POLICY", "DATA", "ATTACK", "RUNS", "FAULTY FOUND", "OTHERS NAMED", "BY (OF THE FAULTY)"), rows), end=""
    )
    every = sum(found.values(), Counter[str]())
    print(f"in all {_of(every['hit'], every['faulty'])} faulty sites, {_of(every['wrong'], every['honest'])} others")


def counted(of: Counter[str], value: dict[str, Any], faulty: set[str]) -> None:
    """Add what one federation's view says."""
    of["runs"] += 1
    for row in value["sites"]:
        said = bool(row["findings"])
        bad = row["site"] in faulty
        of["faulty" if bad else "honest"] += 1
        of["hit" if bad else "wrong"] += said
        if bad:
            of.update(f"rule {one['rule']}" for one in row["findings"])


def _of(count: int, every: int) -> str:
    return f"{count} of {every}"


if __name__ == "__main__":
    main()
