"""Results for people: one experiment's report, and the page that all of them make together."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.results.differences import table_of_differences
from experiments.results.file import Results
from experiments.results.measure import SLACK, Measured
from experiments.results.plots import draw_all
from experiments.results.tables import (
    published,
    table_of_attacks,
    table_of_folds,
    table_of_rows,
    table_of_scenarios,
    table_of_sites,
)
from fedssh.files import write_whole

PAGE = "results.md"
READING = f"""\
Scores are those of the last release on the test split, on which nobody trained, decided or selected: means over seeds
or folds, with the lowest and the highest in brackets. A run has *converged* with the first release whose holdout score
is within {SLACK:g} of what centralised training reaches in the end.

Seconds are simulated: each site has a machine of its own, an image takes it as long as it took here on average, and
the network costs nothing. So sites that wait for each other cost what they would cost. MB are the model files that
travelled, up and down; centralised training ships none, it needs the images themselves in one place. `wall` is what
the whole run took here, scoring included.
"""

CELLS = """\
Each cell: what the last release scores on the test split (accuracy, or the metric named, where the federation decided
by that one); simulated seconds and megabytes shipped in all; and in bold those until it had
[converged](#reading-the-tables), if it did and there is centralised training by the same metric to compare it with.
Cells are means over the seeds; `(2/3)` says how many of these converged, if not all did.
"""


def write_report(out: Path, found: Results) -> Path:
    """Write `report.md` and its plots into the folder of an experiment's results."""
    measured = Measured(found.results)
    plots = draw_all(found.experiment, measured, out)
    text = (
        f"# {found.experiment.name}\n\n"
        + "\n".join(section(found, measured, plots))
        + f"\n## Reading this\n\n{READING}"
    )
    write_whole(out / "report.md", text.encode(), 0o644)
    return out / "report.md"


def write_page(every: Sequence[Results], docs: Path) -> Path:
    """Write `docs/explanation/results.md` and its plots: which policy to use when, then a section per experiment.

    Raises:
        SettingsError: Two runs want the same cell of a table of scenarios; nothing is written.
    """
    both = [(found, Measured(found.results)) for found in every]
    parts = ["# What each policy is worth\n", _made_by(every), "## Which to use when\n", scenarios(both)]
    folder = docs / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for found, measured in both:
        plots = [(title, f"results/{name}") for title, name in draw_all(found.experiment, measured, folder)]
        parts += [f"## {found.experiment.name}\n", *section(found, measured, plots)]
    parts += [f"## Reading the tables\n\n{READING}"]
    write_whole(docs / PAGE, "\n".join(parts).encode(), 0o644)
    return docs / PAGE


def section(found: Results, measured: Measured, plots: Sequence[tuple[str, str]]) -> list[str]:
    """An experiment's question, conclusion, numbers and plots, as Markdown."""
    experiment = found.experiment
    parts = [f"*{experiment.question}*\n", _origin(found)]
    if experiment.conclusion:
        parts.append(f"{_wrapped(experiment.conclusion)}\n")
    if experiment.figures:
        parts.append(published(experiment, measured))
    parts.append(table_of_rows([measured.row(group) for group in measured.groups]))
    more = (
        table_of_differences(measured), table_of_folds(measured), table_of_sites(measured.groups),
        table_of_attacks(measured.groups),
    )  # fmt: skip
    parts += [table for table in more if table]
    parts += [f"![{title}]({name})\n" for title, name in plots]
    return parts


def scenarios(both: Sequence[tuple[Results, Measured]]) -> str:
    """Policies and scenarios, a table per experiment; scenarios of which nothing was done are left out."""
    tables = []
    for found, measured in both:
        if table := table_of_scenarios(found.experiment, measured):
            tables.append(f"**[{found.experiment.name}](#{found.experiment.name})**\n\n{table}")
    return "\n".join([CELLS, *tables]) if tables else ""


def _origin(found: Results) -> str:
    """Command, commit, machine and date, and what the reader should know about them."""
    made = [result.made for result in found.results]
    commits = Counter(_commit(one) for one in made)
    machines = Counter(f"{one['machine']['processor']}, {one['machine']['cores']} cores" for one in made)
    lines = [
        f"`{found.command}`, {found.date[:10]}, commit {' and '.join(commits)}, on {' and '.join(machines)}; "
        f"engine {found.experiment.engine}, {len(found.results)} runs."
    ]
    if found.experiment.quick:
        lines.append("**This is the reduced version: it shows that all works, not what is worth using.**")
    if found.missing:
        number, of = len(found.missing), len(found.experiment.runs)
        are = "is" if number == 1 else "are"
        lines.append(f"**{number} of the {of} runs that the experiment now asks for {are} missing here.**")
    return "\n\n".join(lines) + "\n"


def _commit(made: Mapping[str, object]) -> str:
    commit = made["commit"]
    return "unknown" if commit is None else str(commit)[:12] + (" with changes" if made["dirty"] else "")


def _made_by(every: Sequence[Results]) -> str:
    names = ", ".join(f"[{found.experiment.name}](#{found.experiment.name})" for found in every)
    return (
        "Made by `scripts/experiment --report` from finished experiments; change nothing here by hand. Every number\n"
        f"comes from runs that anyone can repeat: {names}.\n"
    )


def _wrapped(text: str) -> str:
    """Paragraphs as they are, in lines of at most 120 letters."""
    import textwrap

    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(textwrap.fill(" ".join(one.split()), 120, break_long_words=False) for one in paragraphs)


def near(path: Path) -> str:
    """A path as a person would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
