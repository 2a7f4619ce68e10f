"""The tables of a report, in Markdown. Pure: results in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import median

from experiments.definition.read import Experiment
from experiments.definition.shown import Figure
from experiments.results.file import Result
from experiments.results.measure import Group, Mean, Measured, Row, mean, row_names
from fedssh.errors import SettingsError

NONE = "–"
_METRIC_NAMES = {"auc": "AUC"}


def table_of_scenarios(experiment: Experiment, measured: Measured) -> str:
    """A row per policy, a column per scenario, and in each the centralised training on the same data.

    Raises:
        SettingsError: Two runs of a scenario have the same policy, and differ in nothing that a row's name could tell.
    """
    columns = [
        (scenario.name, measured.with_centralised(groups))
        for scenario in experiment.scenarios
        if (groups := [group for group in measured.groups if fnmatchcase(group.label, scenario.runs)])
    ]
    names = row_names([groups for _, groups in columns])
    shown: list[dict[str, str]] = []
    for scenario_name, groups in columns:
        there: dict[str, Group] = {}
        for group in groups:
            other = there.setdefault(names[group.label], group)
            if other is not group:
                raise SettingsError(
                    f"{experiment.name}: {other.label} and {group.label} would share the cell of "
                    f"{names[group.label]!r} and {scenario_name!r}",
                    "narrow the pattern of that scenario, so that it takes in one of them",
                )
        metrics = {group.run.metric for group in groups if group.run.schedule != "centralised"}
        shown.append({name: _cell(measured, group, metrics) for name, group in there.items()})
    ways = dict.fromkeys(names[group.label] for group in measured.groups if group.label in names)
    rows = [[name, *(column.get(name, NONE) for column in shown)] for name in ways]
    return _table(["policy", *(name for name, _ in columns)], rows) if columns else ""


def published(experiment: Experiment, measured: Measured) -> str:
    """Published figures beside ours."""
    rows = [[one.what, one.published, _ours(one, measured)] for one in experiment.figures]
    source = f"\nPublished: {experiment.source}\n" if experiment.source else ""
    return _table(["figure", "published", "ours"], rows) + source


def table_of_rows(rows: Sequence[Row]) -> str:
    """A row per group; columns that say nothing are left out."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("run", lambda row: row.label),
        ("runs", lambda row: str(row.runs)),
        ("accuracy", lambda row: _spread(row.test["accuracy"])),
        ("AUC", lambda row: _one(row.test["auc"], 4)),
        ("mean absolute error", lambda row: _spread(row.test["mae"])),
        ("R²", lambda row: _one(row.test["r2"], 4)),
        ("loss", lambda row: _one(row.test["loss"], 3)),
        ("holdout accuracy", lambda row: _one(row.holdout["accuracy"], 4)),
        ("converged", lambda row: NONE if row.converged is None else f"{row.converged} of {row.runs}"),
        ("s to conv.", lambda row: _one(row.seconds, 1)),
        ("speed-up", lambda row: _one(row.speedup, 2)),
        ("MB to conv.", lambda row: _one(row.megabytes, 1)),
        ("s in all", lambda row: _one(row.all_seconds, 1)),
        ("MB in all", lambda row: _one(row.all_megabytes, 1)),
        ("wall s", lambda row: _one(row.wall_seconds, 0)),
        ("peak MB", lambda row: _one(row.peak_mb, 0)),
    ]
    cells = [[show(row) for _, show in columns] for row in rows]
    said = [index for index in range(len(columns)) if any(row[index] not in (NONE, "0.0") for row in cells)]
    return _table([columns[index][0] for index in said], [[row[index] for index in said] for row in cells])


def table_of_folds(measured: Measured) -> str:
    """The test accuracy on each fold, and how far that is from centralised training."""
    groups = [group for group in measured.groups if group.run.data["folds"]]
    folds = sorted({result.run.data["fold"] for group in groups for result in group.results})
    rows = [[group.label, *(_fold(measured, group, fold) for fold in folds)] for group in groups]
    said = "Test accuracy on each fold, and in brackets how far that is from centralised training there:\n\n"
    return said + _table(["run", *(f"fold {fold}" for fold in folds)], rows) if rows else ""


def table_of_sites(groups: Sequence[Group]) -> str:
    """What the sites' own models score on the test split, beside the one that came of them; of the first seed."""
    rows = []
    for group in groups:
        result = group.results[0]
        if "confusion" not in result.outcome.final.test:  # numbers are predicted, and nothing is confused
            continue
        for site, scores in result.outcome.site_scores.items():
            rows.append([group.label, site, *_sub_model(scores)])
        if result.outcome.site_scores or result.run.schedule == "centralised":
            rows.append([group.label, "**result**", *_sub_model(result.outcome.final.test)])
    if not any(group.results[0].outcome.site_scores for group in groups):
        return ""
    heading = ["run", "model of", "accuracy", "precision", "recall", "confusion (row: truth)"]
    return "What each site trained by itself, on the test split (first seed):\n\n" + _table(heading, rows)


def table_of_attacks(groups: Sequence[Group]) -> str:
    """What became of what attackers sent, all seeds together."""
    rows = []
    for group in groups:
        counts: Counter[str] = Counter()
        for result in group.results:
            counts.update(result.outcome.attacker)
        if counts and group.run.attack:
            verdicts = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
            found = [mean(one.outcome.backdoor.get(name) for one in group.results) for name in ("stamped", "plain")]
            rows.append([group.label, group.run.attack.text, verdicts, *map(_spread, found)])
    if all(row[3:] == [NONE, NONE] for row in rows):
        rows = [row[:3] for row in rows]
    heading = (
        ["run", "attack", "verdicts", "backdoor: called so with the patch", "without it"][: len(rows[0])]
        if rows
        else []
    )
    return "What became of the attackers' models:\n\n" + _table(heading, rows) if rows else ""


# cells


def _ours(figure: Figure, measured: Measured) -> str:
    groups = [group for group in measured.groups if fnmatchcase(group.label, figure.ours)]
    if not groups:
        return NONE
    return "; ".join(f"{_figure(figure, group, measured)}" + _named(group, groups) for group in groups)


def _named(group: Group, groups: Sequence[Group]) -> str:
    return f" ({group.label})" if len(groups) > 1 else ""


def _figure(figure: Figure, group: Group, measured: Measured) -> str:
    if figure.of == "speedup":
        found = mean(measured.speedup(result) for result in group.results)
        return NONE if found is None else f"{found.value:.2f} times as fast" + _of(found, group)
    if figure.of == "sites":
        scores = [one[figure.metric] for result in group.results for one in result.outcome.site_scores.values()]
        return f"{min(scores):.4f} to {max(scores):.4f}, median {median(scores):.4f}" if scores else NONE
    return _spread(mean(_score(result, figure) for result in group.results))


def _score(result: Result, figure: Figure) -> float | None:
    for point in reversed(result.outcome.points):
        if figure.version is None or point.version <= figure.version:
            value = point.test[figure.metric]
            return None if value is None else float(value)
    return None


def _of(found: Mean, group: Group) -> str:
    seeds = len(group.results)
    return "" if found.count == seeds else f" in {found.count} of {seeds} runs"


def _sub_model(scores: Mapping[str, object]) -> list[str]:
    confusion = scores["confusion"]
    assert isinstance(confusion, Sequence)
    if len(confusion) > 3:
        shown = f"{len(confusion)} classes"
    else:
        shown = " / ".join(" ".join(str(count) for count in row) for row in confusion)
    return [*(f"{scores[name]:.4f}" for name in ("accuracy", "precision", "recall")), shown]


def _fold(measured: Measured, group: Group, fold: int) -> str:
    """What a group scores on a fold, as the mean of its seeds."""
    scores, differences = [], []
    for result in group.results:
        if result.run.data["fold"] == fold:
            scores.append(float(result.outcome.final.test["accuracy"]))
            reference = measured.reference(result)
            if reference and reference is not result:
                differences.append(scores[-1] - reference.outcome.final.test["accuracy"])
    difference = mean(differences)
    return _one(mean(scores), 4) + (f" ({difference.value:+.4f})" if difference else "")


def _cell(measured: Measured, group: Group, metrics: Collection[str]) -> str:
    """Score, time and bytes of a group, in a scenario whose federations decided by these metrics."""
    row, metric = measured.row(group), group.run.metric
    if metrics and metric not in metrics:  # centralised training, which was decided by another one
        metric = min(metrics)
    score = _one(row.test[metric], 3)
    parts = [score if metric == "accuracy" else f"{_METRIC_NAMES.get(metric, metric)} {score}"]
    parts.append(_cost(row.all_seconds, row.all_megabytes))
    if row.converged and metric == group.run.metric:
        missed = f" ({row.converged}/{row.runs})" if row.converged < row.runs else ""
        parts.append(f"**{_cost(row.seconds, row.megabytes)}**{missed}")
    return "; ".join(parts)


def _cost(seconds: Mean | None, megabytes: Mean | None) -> str:
    """Time and bytes; no bytes for centralised training, which ships no models."""
    time = NONE if seconds is None else f"{_brief(seconds.value)} s"
    return f"{time}, {_brief(megabytes.value)} MB" if megabytes and megabytes.value else time


def _brief(value: float) -> str:
    """Two digits, or all of those before the point."""
    return f"{value:.2g}" if 0.001 <= value < 10 else f"{value:,.0f}"


def _spread(value: Mean | None) -> str:
    if value is None:
        return NONE
    if value.low == value.high:
        return f"{value.value:.4f}"
    return f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"


def _one(value: Mean | None, digits: int) -> str:
    return NONE if value is None else f"{value.value:,.{digits}f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
