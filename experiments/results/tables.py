"""The tables of a report, in Markdown. Pure: results in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from experiments.definition.choice import Choice
from experiments.definition.read import Experiment
from experiments.results.choosing import Decision
from experiments.results.differences import check_equal
from experiments.results.file import Result
from experiments.results.measure import Group, Mean, Measured, Row, mean, mean_of_seeds, row_names
from fedssh.errors import SettingsError
from fedssh.rules.metrics import gain

NONE = "–"
_NAMES = {"auc": "AUC", "mae": "mean absolute error", "rmse": "RMSE", "r2": "R²", "f1": "F1"}
_USUAL = ("accuracy", "auc", "mae", "r2", "loss")  # what is shown of every experiment, where there is any


def table_of_scenarios(experiment: Experiment, measured: Measured) -> str:
    """A row per policy, a column per scenario, and in each the centralised training on the same data.

    Raises:
        SettingsError: Two runs of a scenario have the same policy, and differ in nothing that a row's name could tell;
            or they have not equally much of what the scenario says.
    """
    columns = [
        (scenario, measured.with_centralised(groups))
        for scenario in experiment.scenarios
        if (groups := [group for group in measured.groups if fnmatchcase(group.label, scenario.runs)])
    ]
    names = row_names([groups for _, groups in columns])
    shown: list[dict[str, str]] = []
    for scenario, groups in columns:
        there: dict[str, Group] = {}
        for group in groups:
            other = there.setdefault(names[group.label], group)
            if other is not group:
                raise SettingsError(
                    f"{experiment.name}: {other.label} and {group.label} would share the cell of "
                    f"{names[group.label]!r} and {scenario.name!r}",
                    "narrow the pattern of that scenario, so that it takes in one of them",
                )
        metrics = {group.run.metric for group in groups if group.run.schedule != "centralised"}
        shown.append({name: _cell(measured, group, experiment.report, metrics) for name, group in there.items()})
        if scenario.equal:
            asked = [group for group in groups if fnmatchcase(group.label, scenario.runs)]
            check_equal(experiment, scenario.equal, asked)
    ways = dict.fromkeys(names[group.label] for group in measured.groups if group.label in names)
    rows = [[name, *(column.get(name, NONE) for column in shown)] for name in ways]
    heads = [one.name + (f" (equal {one.equal})" if one.equal else "") for one, _ in columns]
    return table(["policy", *heads], rows) if columns else ""


def table_of_rows(rows: Sequence[Row], report: Sequence[str] = ()) -> str:
    """A row per group; columns that say nothing are left out.

    Args:
        report: Metrics that come first.
    """
    metrics = tuple(dict.fromkeys((*report, *_USUAL)))
    most = {report[0]} if report else {"accuracy", "mae"}  # what has lowest and highest beside its interval
    first = report[0] if report else "accuracy"

    def score(metric: str) -> tuple[str, Callable[[Row], str]]:
        digits = 3 if metric == "loss" else 4
        if metric in most:
            return named(metric), lambda row: spread(row.test[metric])
        return named(metric), lambda row: interval(row.test[metric], digits)

    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("run", lambda row: row.label),
        ("seeds", _seeds),
        *map(score, metrics),
        (f"holdout {named(first)}", lambda row: interval(row.holdout[first], 4)),
        ("converged", lambda row: NONE if row.converged is None else f"{row.converged} of {row.runs}"),
        ("s to conv.", lambda row: _survivors(row, row.seconds, 1)),
        ("speed-up", lambda row: _survivors(row, row.speedup, 2, ratio=True)),
        ("MB to conv.", lambda row: _survivors(row, row.megabytes, 1)),
        ("steps", lambda row: _one(row.steps, 0)),
        ("synchronisations", lambda row: _one(row.synchronisations, 1)),
        ("examples", lambda row: _one(row.all_examples, 0)),
        ("s in all", lambda row: _one(row.all_seconds, 1)),
        ("MB in all", lambda row: _one(row.all_megabytes, 1)),
        ("wall s", lambda row: _one(row.wall_seconds, 0)),
        ("peak MB", lambda row: _one(row.peak_mb, 0)),
    ]
    cells = [[show(row) for _, show in columns] for row in rows]
    said = [
        index for index in range(len(columns)) if any(row[index].split(" ")[0] not in (NONE, "0.0") for row in cells)
    ]
    return table([columns[index][0] for index in said], [[row[index] for index in said] for row in cells])


def table_of_choice(found: Sequence[Decision], choice: Choice) -> str:
    """What each candidate scores on the holdout with the seeds of the choice, and which one was chosen."""
    rows = []
    for decision in found:
        for label, score in decision.scores.items():
            taken = "**chosen**" if label == decision.chosen else ""
            rows.append([decision.pattern, label, interval(score, 4), taken])
    seeds = ", ".join(map(str, choice.seeds))
    said = (
        f"Chosen by {named(choice.metric)} on the holdout, with the seeds {seeds} alone; the test split took no part. "
        "What follows is of other seeds: what was chosen, and what was no candidate.\n\n"
    )
    if any(decision.chosen is None for decision in found):
        said += "**Not all candidates are done, so nothing is chosen yet.**\n\n"
    return said + table(["of", "candidate", f"holdout {named(choice.metric)}", ""], rows)


def named(metric: str) -> str:
    """What a metric is called in a table."""
    return _NAMES.get(metric, metric.replace("_", " "))


def table_of_folds(measured: Measured) -> str:
    """The test accuracy on each fold, and how far that is from centralised training."""
    groups = [group for group in measured.groups if group.run.data["folds"]]
    folds = sorted({result.run.data["fold"] for group in groups for result in group.results})
    rows = [[group.label, *(_fold(measured, group, fold) for fold in folds)] for group in groups]
    said = "Test accuracy on each fold, and in brackets how far that is from centralised training there:\n\n"
    return said + table(["run", *(f"fold {fold}" for fold in folds)], rows) if rows else ""


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
    return "What each site trained by itself, on the test split (first seed):\n\n" + table(heading, rows)


def table_of_attacks(groups: Sequence[Group]) -> str:
    """What became of what attackers sent, all seeds together."""
    rows = []
    for group in groups:
        counts: Counter[str] = Counter()
        for result in group.results:
            counts.update(result.outcome.attacker)
        if counts and group.run.attack:
            verdicts = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
            found = [
                mean_of_seeds((one.run.seed, one.outcome.backdoor.get(name)) for one in group.results)
                for name in ("stamped", "plain")
            ]
            gaps = [mean_of_seeds((one.run.seed, _above(one, at)) for one in group.results) for at in (0, -1)]
            rows.append([group.label, group.run.attack.text, verdicts, *map(spread, [*found, *gaps])])
    heading = ["run", "attack", "verdicts", "backdoor: called so with the patch", "without it"]
    heading += ["holdout better than test, at first", "in the end"]
    if all(row[3:5] == [NONE, NONE] for row in rows):
        heading, rows = heading[:3] + heading[5:], [row[:3] + row[5:] for row in rows]
    return "What became of the attackers' models:\n\n" + table(heading, rows) if rows else ""


def table_of_members(groups: Sequence[Group]) -> str:
    """What the last models tell of who was trained on, and the epsilon that bounds it."""
    rows = []
    for group in groups:
        found = [
            mean_of_seeds((one.run.seed, one.outcome.audited.get(name)) for one in group.results)
            for name in ("epsilon", "auc", "advantage")
        ]
        if found[1] is not None:
            agreed = group.run.plan.get("privacy") or {}
            spent = NONE if found[0] is None else f"{found[0].high:.2f} at {agreed['delta']:g}"
            noise = f"{agreed['noise']:g}" if agreed else NONE
            rows.append([group.label, noise, spent, *map(spread, found[1:])])
    heading = ["run", "noise", "epsilon spent, at most, at delta", "AUC of membership", "advantage"]
    return (
        "What an attacker by loss (Yeom et al. 2018) tells of who was trained on, members of all sites against the "
        "holdout; guessing has an AUC of 0.5 and an advantage of 0:\n\n" + table(heading, rows)
        if rows
        else ""
    )


# cells


def _above(result: Result, at: int) -> float | None:
    """By how much the main metric of a point is better on the holdout, which decides, than on the test split."""
    metric, point = result.run.metric, result.outcome.points[at]
    holdout, test = point.holdout.get(metric), point.test.get(metric)
    return None if holdout is None or test is None else gain(metric, holdout) - gain(metric, test)


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


def _cell(measured: Measured, group: Group, report: Sequence[str], metrics: Collection[str]) -> str:
    """Score, time and bytes of a group.

    Args:
        report: Metrics that are shown, whatever the group was decided by.
        metrics: What the federations of its scenario were decided by.
    """
    row, metric = measured.row(group), group.run.metric
    if metrics and metric not in metrics:  # centralised training, which was decided by another one
        metric = min(metrics)
    scores = [interval(row.test[one], 3) for one in report or (metric,)]
    names = [f"{named(one)} " if one != "accuracy" or report else "" for one in report or (metric,)]
    parts = [", ".join(f"{name}{score}" for name, score in zip(names, scores, strict=True))]
    if row.seeds == 1:
        parts[0] += " (one seed)"
    parts.append(_cost(row.all_seconds, row.all_megabytes))
    if row.converged and metric == group.run.metric:
        until = _cost(row.seconds, row.megabytes)
        parts.append(f"**{until}**" if row.converged == row.runs else f"{until} ({row.converged} of {row.runs})")
    return "; ".join(parts)


def _cost(seconds: Mean | None, megabytes: Mean | None) -> str:
    """Time and bytes; no bytes for centralised training, which ships no models."""
    time = NONE if seconds is None else f"{_brief(seconds.value)} s"
    return f"{time}, {_brief(megabytes.value)} MB" if megabytes and megabytes.value else time


def _brief(value: float) -> str:
    """Two digits, or all of those before the point."""
    return f"{value:.2g}" if 0.001 <= value < 10 else f"{value:,.0f}"


def _seeds(row: Row) -> str:
    seeds = "one seed" if row.seeds == 1 else str(row.seeds)
    return seeds if row.runs == row.seeds else f"{seeds}, {row.runs} runs"


def _survivors(row: Row, value: Mean | None, digits: int, *, ratio: bool = False) -> str:
    """A mean until convergence; of those that converged alone it says so, and has no interval."""
    if value is None:
        return NONE
    if value.count < row.runs:
        return f"{value.value:,.{digits}f} ({value.count} of {row.runs})"
    if ratio and value.interval:
        least, most = value.interval
        if most - least < 10**-digits:
            return f"{value.value:.{digits}f}"
        return f"{value.value:.{digits}f} [{least:.{digits}f} to {most:.{digits}f}]"
    return interval(value, digits)


def interval(value: Mean | None, digits: int) -> str:
    """A mean, and the half width of its interval where it has one."""
    if value is None:
        return NONE
    half = f" ± {value.value - value.interval[0]:,.{digits}f}" if value.interval else ""
    return f"{value.value:,.{digits}f}{half}"


def spread(value: Mean | None) -> str:
    """The same with the lowest and the highest, of a score."""
    if value is None or value.low == value.high:
        return interval(value, 4)
    return f"{interval(value, 4)} ({value.low:.4f} to {value.high:.4f})"


def _one(value: Mean | None, digits: int) -> str:
    return NONE if value is None else f"{value.value:,.{digits}f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
