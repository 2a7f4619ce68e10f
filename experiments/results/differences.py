"""How far ways are from centralised training and from each other, with intervals: paired by seed and fold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean

from experiments.definition.config import Run
from experiments.definition.read import Experiment
from experiments.definition.shown import Comparison
from experiments.results.file import Result
from experiments.results.intervals import half_width, p_of_mean, p_of_signs
from experiments.results.measure import Group, Measured, is_lower, means_by_seed
from fedssh.errors import SettingsError
from fedssh.rules.differing import LEVEL, holm

SPREAD = 0.05  # how unlike runs of equal work may be


def table_of_differences(measured: Measured, report: Sequence[str] = ()) -> str:
    """The differences of a metric on the test split; a seed counts once, with the mean of its folds.

    Nothing where no run has two seeds and a centralised training beside it.
    """
    rows = []
    for group in measured.groups:
        metric = report[0] if report else group.run.metric
        found = _by_seed([(one, measured.reference(one)) for one in group.results], metric)
        if len(found) > 1:
            ours, theirs = (fmean(pair) for pair in zip(*found, strict=True))
            differences = [one - other for one, other in found]
            share = f"{100 * fmean(differences) / theirs:+.1f} %" if theirs else "–"
            name = metric.replace("_", " ")
            interval = f"{fmean(differences):+.4f} ± {half_width(differences):.4f}"
            rows.append(
                f"| {group.label} | {name} | {ours:.4f} | {theirs:.4f} | {interval} | {share} | {len(found)} |\n"
            )
    if not rows:
        return ""
    return (
        "How far from centralised training on the test split, paired by seed and fold; a seed counts once, with the "
        "mean of its folds, and the interval is Student's t at 95 %:\n\n"
        "| run | metric | here | centralised | difference | of it | seeds |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "".join(rows)
    )


@dataclass(frozen=True)
class Difference:
    """A run and its baseline, each as means of the seeds that both have.

    Attributes:
        differences: Ours less theirs, one for each of these seeds.
    """

    label: str
    baseline: str
    metric: str
    ours: float
    theirs: float
    differences: tuple[float, ...]

    @property
    def p(self) -> float | None:
        """Of the paired t-test; None with one seed."""
        return p_of_mean(self.differences) if len(self.differences) > 1 else None

    def word(self, corrected: float | None) -> str:
        """What may be said of it, given its p-value after the correction."""
        if corrected is None:
            return "one seed"
        if corrected >= LEVEL:
            return "not told apart"
        return "better" if (fmean(self.differences) < 0) == is_lower(self.metric) else "worse"


def compare(experiment: Experiment, comparison: Comparison, measured: Measured) -> list[Difference]:
    """Every run of a comparison and its baseline; those that have no seed in common are left out.

    Raises:
        SettingsError: Several runs could be the baseline of one, or they have not equally much of what is said.
    """
    groups = [one for one in measured.groups if fnmatchcase(one.label, comparison.runs)]
    baselines = [one for one in measured.groups if fnmatchcase(one.label, comparison.baseline)]
    found = []
    for group in groups:
        other = None if group in baselines else _baseline(experiment, group, baselines)
        if other is None:
            continue
        there = {(one.run.seed, one.run.data["fold"]): one for one in other.results}
        pairs = [(one, there.get((one.run.seed, one.run.data["fold"]))) for one in group.results]
        metric = comparison.metric or (experiment.report[0] if experiment.report else group.run.metric)
        if scores := _by_seed(pairs, metric):
            if comparison.equal:
                check_equal(experiment, comparison.equal, [group, other])
            ours, theirs = (fmean(side) for side in zip(*scores, strict=True))
            differences = tuple(one - its for one, its in scores)
            found.append(Difference(group.label, other.label, metric, ours, theirs, differences))
    return found


def table_of_comparison(experiment: Experiment, comparison: Comparison, measured: Measured) -> str:
    """Paired differences, each with what may be said of it; nothing where nothing was done.

    Raises:
        SettingsError: See `compare`.
    """
    found = compare(experiment, comparison, measured)
    if not found:
        return ""
    known = [one.p for one in found if one.p is not None]
    corrected = iter(holm(known))
    rows = []
    for one in found:
        p = next(corrected) if one.p is not None else None
        mean = f"{fmean(one.differences):+.4f}"
        if p is not None:
            mean += f" ± {half_width(one.differences):.4f}"
        signs = p_of_signs(one.differences) if p is not None else None
        cells = [
            one.label, one.baseline, one.metric.replace("_", " "), f"{one.ours:.4f}", f"{one.theirs:.4f}", mean,
            str(len(one.differences)), _p(p), _p(signs), one.word(p),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |\n")
    equal = f", with equal {comparison.equal} (within {SPREAD:.0%})" if comparison.equal else ""
    many = f"p-values are corrected for {len(known)} comparisons (Holm 1979)" if len(known) > 1 else "one comparison"
    name = f"{comparison.name}: d" if comparison.name else "D"
    return (
        f"{name}ifferences on the test split, paired by seed and fold{equal}; {many}:\n\n"
        "| run | baseline | metric | here | there | difference | seeds | p | p, signs | it is |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n" + "".join(rows)
    )


def check_equal(experiment: Experiment, what: str, groups: Sequence[Group]) -> None:
    """Hold groups against the claim that they have equally much of something; not in the reduced version.

    Raises:
        SettingsError: They have not, or nobody counted.
    """
    if experiment.quick:
        return
    found = {}
    for group in groups:
        if what == "synchronisations" and group.run.schedule == "centralised":
            continue  # it has none
        values = [getattr(one.outcome, what) for one in group.results]
        if any(value is None for value in values):
            hint = "its history is gone, so run it again"
            raise SettingsError(f"{experiment.name}: nobody counted the {what} of {group.label}", hint)
        found[group.label] = fmean(values)
    if not found:
        return
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    if found[most] - found[least] > SPREAD * found[most]:
        raise SettingsError(
            f"{experiment.name}: the {what} are not equal: {found[least]:,.1f} in {least}, "
            f"{found[most]:,.1f} in {most}",
            f"they may differ by {SPREAD:.0%}; change sessions or epochs, or claim nothing",
        )


def _baseline(experiment: Experiment, group: Group, baselines: Sequence[Group]) -> Group | None:
    """The one that a group is compared with: of several, the one in its own setting."""
    there = [one for one in baselines if one.run.data["dataset"] == group.run.data["dataset"]]
    if len(there) > 1:
        there = [one for one in there if _setting(one.run) == _setting(group.run)]
    if len(there) > 1:
        raise SettingsError(
            f"{experiment.name}: {there[0].label} and {there[1].label} could both be the baseline of {group.label}",
            "narrow the pattern of the baseline",
        )
    return there[0] if there else None


def _setting(run: Run) -> tuple[object, ...]:
    """What a run is done with, without how it trains, its seed and its fold."""
    data = {key: value for key, value in run.data.items() if key != "fold"}
    return run.architecture, run.sites, data, run.attack, run.straggler


def _by_seed(pairs: Sequence[tuple[Result, Result | None]], metric: str) -> list[tuple[float, float]]:
    """What both score with each seed, as means of the folds that both have."""
    ours, theirs = [], []
    for one, other in pairs:
        if other is None or other is one:
            continue
        here, there = (result.outcome.final.test.get(metric) for result in (one, other))
        if here is not None and there is not None:
            ours.append((one.run.seed, float(here)))
            theirs.append((one.run.seed, float(there)))
    return list(zip(means_by_seed(ours).values(), means_by_seed(theirs).values(), strict=True))


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
