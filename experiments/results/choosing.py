"""Which runs were chosen, by the holdout and with the seeds of the choice alone. Pure.

Nothing here reads a score of the test split, nor a run with another seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.definition.config import Run
from experiments.definition.read import Experiment, group_name
from experiments.results.file import Result
from experiments.results.measure import Mean, is_lower, mean_of_seeds


@dataclass(frozen=True)
class Decision:
    """What was chosen among the candidates of a pattern.

    Attributes:
        scores: By candidate what it scores on the holdout; None where it is not done.
        chosen: One of them; None while some of them are not done.
    """

    pattern: str
    scores: dict[str, Mean | None]
    chosen: str | None


def decisions(experiment: Experiment, results: Sequence[Result]) -> list[Decision]:
    """What was chosen; of equal candidates the first one."""
    choice = experiment.choice
    if choice is None:
        return []
    digests = {run.digest(experiment.engine): group_name(run.slug) for run in experiment.trials}
    by_label: dict[str, list[Result]] = {label: [] for label in digests.values()}
    for result in results:
        if result.digest in digests and result.run.seed in choice.seeds:
            by_label[digests[result.digest]].append(result)
    wanted = list(digests.values())
    found = []
    for pattern, labels in choice.candidates(list(by_label)).items():
        scores = {label: _score(by_label[label], choice.metric) for label in labels}
        whole = all(len(by_label[label]) == wanted.count(label) for label in labels)
        known = {label: score.value for label, score in scores.items() if score is not None}
        best = min if is_lower(choice.metric) else max
        found.append(Decision(pattern, scores, best(known, key=known.__getitem__) if whole and known else None))
    return found


def confirming(experiment: Experiment, results: Sequence[Result]) -> tuple[Run, ...]:
    """The runs with the experiment's own seeds: what is no candidate, and what was chosen."""
    found = decisions(experiment, results)
    candidates = {label for one in found for label in one.scores}
    left_out = candidates - {one.chosen for one in found}
    return tuple(run for run in experiment.runs if group_name(run.slug) not in left_out)


def missing(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """Names of the runs that the experiment asks for and that were not done, or with other settings."""
    done = {result.digest for result in results}
    wanted = (*experiment.trials, *confirming(experiment, results))
    return [run.slug for run in wanted if run.digest(experiment.engine) not in done]


def shown(experiment: Experiment, results: Sequence[Result]) -> list[Result]:
    """The results that tables show: all of them, or where something is chosen, those that confirm it."""
    if experiment.choice is None:
        return list(results)
    wanted = {run.digest(experiment.engine) for run in confirming(experiment, results)}
    return [result for result in results if result.digest in wanted]


def _score(results: Sequence[Result], metric: str) -> Mean | None:
    return mean_of_seeds((one.run.seed, one.outcome.final.holdout.get(metric)) for one in results)
