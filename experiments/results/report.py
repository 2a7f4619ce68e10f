"""Results for people: an experiment's report, its page among the docs, and the index of these pages."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.results.brief import SUFFIX
from experiments.results.choosing import confirming, decisions, missing, shown
from experiments.results.contributed import table_of_contributions
from experiments.results.differences import table_of_comparison, table_of_differences
from experiments.results.figures import published
from experiments.results.file import Results, in_brief, read_brief
from experiments.results.index import FOLDER, USE, index, pictures_of
from experiments.results.measure import SLACK, Measured
from experiments.results.plots import draw, pictures
from experiments.results.sited import table_of_costs
from experiments.results.tables import (
    table_of_attacks,
    table_of_choice,
    table_of_folds,
    table_of_members,
    table_of_rows,
    table_of_scenarios,
    table_of_sites,
)
from fedssh.files import write_whole

PAGE = "results.md"
READING = f"""\
Scores are those of the last release on the test split, on which nobody trained, decided or chose: means over seeds, and
a seed counts once, with the mean of its folds. `±` is half the interval of Student's t at 95 %; one seed has none, and
is called so. In brackets stand the lowest and the highest run.

Where ways are compared, they are paired by seed and fold: `difference` is the mean of ours less the baseline's with the
same seed. `p` is that of the paired t-test, corrected by Holm for the number of comparisons in the table; `p, signs`
that of the exact test by sign flips, for at most ten seeds and not corrected (with n seeds it is never below 2 / 2^n).
*Better* and *worse* have a corrected p below 0.05; everything else is *not told apart*.

A run has *converged* with the first release whose holdout score is within {SLACK:g} of what centralised training
reaches in the end. `26.4 (2 of 5)` is a mean of those that converged alone: the others would have taken longer. A
speed-up is centralised training's seconds until convergence divided by ours, paired by seed and fold; it is the
geometric mean of these ratios, and its interval, in square brackets, that of their logarithms.

Steps are gradient steps of a site until the end, synchronisations the releases that a site began a session from, both
as means of all sites; examples are what all sites together trained on, once per epoch. Ways that differ in them do not
do equal work.

Seconds are simulated: each site has a machine of its own, an image takes it as long as it took here on average, and
the network costs nothing. So sites that wait for each other cost what they would cost. MB are the model files that
travelled, up and down; centralised training ships none, it needs the images themselves in one place. `wall` is what
the whole run took here, scoring included.

A published figure is *reproduced* where ours lies within the tolerance that the experiment's file gives, or, without
one, where it lies in our interval. Rounds until a score are counted as McMahan et al. 2017 do: the best score so far,
with straight lines between.
"""

CELLS = """\
Each cell: what the last release scores on the test split (accuracy, or the metrics named); simulated seconds and
megabytes shipped in all; and those until it had *converged*, if it did and there is centralised training by the same
metric to compare it with: in bold where every run did, else `(2 of 3)` says how many, and the mean is theirs alone.
Cells are means over the seeds, `±` half the interval of Student's t at 95 %.
"""

# What the index says more, for the pages whose runs are gone: they stand as they were printed.
OLD = """\
Pages from before 26 November 2026 stand as they were printed: means without intervals, the lowest and the highest run
in brackets, and bold times until convergence also where `(2/3)` says that not all converged.
"""


def write_report(out: Path, found: Results) -> Path:
    """Write `report.md` and its plots into the folder of an experiment's results."""
    text = page(found)
    _draw_all(found, out)
    write_whole(out / "report.md", text.encode(), 0o644)
    return out / "report.md"


def write_pages(every: Sequence[Results], docs: Path) -> list[Path]:
    """Write the pages of these experiments, each with its plots and its runs in brief, and the index of all pages.

    The other pages are left as they are. What is said is what the runs in brief say, so that they give the page again.

    Args:
        docs: The folder of `results.md`; pages are in its `results/`.

    Returns:
        The pages, and last the index.

    Raises:
        SettingsError: Two runs want the same cell of a table of scenarios, or a page that is there is none of results;
            that experiment's page and the index are as they were.
    """
    folder = docs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write_page(found, folder) for found in every]
    texts = {path.stem: path.read_text() for path in folder.glob("*.md")}
    write_whole(docs / PAGE, index(texts, f"{CELLS}\n{OLD}", READING).encode(), 0o644)
    return [*written, docs / PAGE]


def _write_page(found: Results, folder: Path) -> Path:
    content = in_brief(found)
    found = read_brief(found, content)
    name = found.experiment.name
    path = folder / f"{name}.md"
    before = pictures_of(path.read_text()) if path.exists() else set()
    text = page(found)
    _draw_all(found, folder)
    write_whole(folder / f"{name}{SUFFIX}", content, 0o644)
    write_whole(path, text.encode(), 0o644)
    for picture in before - pictures_of(text):
        (folder / picture).unlink(missing_ok=True)
    return path


def measured_of(found: Results) -> Measured:
    """The results that a page shows; without the trials of a choice and what was not chosen."""
    return Measured(shown(found.experiment, found.results))


def _draw_all(found: Results, folder: Path) -> None:
    measured = measured_of(found)
    for picture in pictures(found.experiment, measured):
        draw(picture.plot, measured, picture.groups, folder / picture.name)


def page(found: Results) -> str:
    """An experiment's question, conclusion, numbers and the names of its plots, as Markdown.

    Raises:
        SettingsError: Two runs want the same cell of a table of scenarios, or what the experiment claims is not so.
    """
    experiment, measured = found.experiment, measured_of(found)
    parts = [f"# {experiment.name}\n", f"*{experiment.question}*\n", _origin(found)]
    if experiment.conclusion:
        parts.append(f"{_wrapped(experiment.conclusion)}\n")
    if use := table_of_scenarios(experiment, measured):
        parts += [f"## {USE}\n", CELLS, use]
    if experiment.figures:
        parts += ["## Published figures\n", published(experiment, measured)]
    if experiment.choice:
        parts += ["## What was chosen\n", table_of_choice(decisions(experiment, found.results), experiment.choice)]
    rows = [measured.row(group) for group in measured.groups]
    parts += ["## Results\n", *([table_of_rows(rows, experiment.report)] if rows else [])]
    more = (
        table_of_costs(measured.groups, experiment.report[0] if experiment.report else "accuracy", experiment.reaches),
        *(table_of_comparison(experiment, one, measured) for one in experiment.comparisons),
        table_of_differences(measured, experiment.report), table_of_folds(measured), table_of_sites(measured.groups),
        table_of_attacks(measured.groups), table_of_contributions(measured.groups),
        table_of_members(measured.groups),
    )  # fmt: skip
    parts += [table for table in more if table]
    parts += [f"![{one.plot.title}]({one.name})\n" for one in pictures(experiment, measured)]
    return "\n".join([*parts, f"## Reading this\n\n{READING}"])


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
    experiment = found.experiment
    if lacking := missing(experiment, found.results):
        number, of = len(lacking), len(experiment.trials) + len(confirming(experiment, found.results))
        are = "is" if number == 1 else "are"
        lines.append(f"**{number} of the {of} runs that the experiment now asks for {are} missing here.**")
    return "\n\n".join(lines) + "\n"


def _commit(made: Mapping[str, object]) -> str:
    commit = made["commit"]
    return "unknown" if commit is None else str(commit)[:12] + (" with changes" if made["dirty"] else "")


def _wrapped(text: str) -> str:
    """Paragraphs as they are, in lines of at most 120 letters."""
    import textwrap

    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(textwrap.fill(" ".join(one.split()), 120, break_long_words=False) for one in paragraphs)


def near(path: Path) -> str:
    """A path as a person would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
