"""How sure results are: intervals, paired differences, equal work, choices by the holdout, published figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from experiments.definition.attack import read_attack
from experiments.definition.config import Point
from experiments.definition.read import read
from experiments.definition.shown import Figure
from experiments.engines.outcome import work
from experiments.results.choosing import confirming, decisions, missing
from experiments.results.differences import compare
from experiments.results.figures import distances, published, rounds_until, verdict
from experiments.results.file import Result, Results, load
from experiments.results.intervals import half_width, p_of_mean, p_of_signs, t_quantile
from experiments.results.measure import Mean, Measured
from experiments.results.report import measured_of, page, write_pages
from fedssh.errors import SettingsError
from fedssh.rules.events import Record
from tests.harness.outcomes import loaded, result, scores

VALUES = [0.1, 0.2, -0.05, 0.3, 0.15]


# numbers


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 40])
def test_students_t_is_that_of_scipy(freedom: int) -> None:
    for probability in (0.6, 0.975, 0.9995):
        assert t_quantile(probability, freedom) == pytest.approx(scipy.stats.t.ppf(probability, freedom), rel=1e-9)


def test_p_values_are_those_of_scipy() -> None:
    assert p_of_mean(VALUES) == pytest.approx(scipy.stats.ttest_1samp(VALUES, 0).pvalue)
    exact = scipy.stats.permutation_test(
        (VALUES,), lambda one, axis: one.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=999
    )
    assert p_of_signs(VALUES) == exact.pvalue == 0.125
    assert p_of_signs([0.1, 0.2, 0.3, 0.1 + 0.2]) == 2 / 16  # whatever order sums are in
    assert p_of_signs([1.0] * 11) is None
    assert (p_of_mean([0.0, 0.0]), p_of_mean([1.0, 1.0]), half_width([1.0, 1.0])) == (1.0, 0.0, 0.0)


# tables


def table_in(text: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table after some words, by column."""
    lines = text.partition(heading)[2].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    length = next(n for n, line in enumerate([*lines[first:], ""]) if not line.startswith("|"))
    head, _, *rows = rows[:length]
    return [dict(zip(map(str.strip, head), map(str.strip, row), strict=True)) for row in rows]


def with_work(found: Results, **by_group: tuple[float, float]) -> Results:
    """The results with steps and synchronisations, by what their names begin with."""
    results = []
    for one in found.results:
        name = next(name for name in by_group if one.run.slug.startswith(name))
        steps, synchronisations = by_group[name]
        done = dataclasses.replace(one.outcome, steps=steps, synchronisations=synchronisations, examples=3000)
        results.append(dataclasses.replace(one, outcome=done))
    return dataclasses.replace(found, results=tuple(results))


TWO = 'seeds = [1, 2, 3]\n[[runs]]\nschedule = "centralised"\n[[runs]]\npolicy = ["best", "fedavg"]\n'
ACCURACIES = (0.9, 0.9, 0.9, 0.8, 0.82, 0.84, 0.9, 0.7, 0.8)


def test_means_have_intervals_and_the_work_stands_beside_them(tmp_path: Path) -> None:
    found = with_work(loaded(tmp_path, TWO, *ACCURACIES), centralised=(30, 0), best=(10, 2), fedavg=(10, 8))
    _, best, _ = table_in(page(found), "## Results")
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert best["accuracy"] == f"0.7200 ± {half:.4f} (0.7000 to 0.7400)"
    assert (best["seeds"], best["steps"], best["synchronisations"], best["examples"]) == ("3", "10", "2.0", "3,000")


def test_a_mean_of_those_that_converged_alone_says_so(tmp_path: Path) -> None:
    text = page(loaded(tmp_path, TWO + '[[scenarios]]\nname = "all"\nruns = "*"\n', *ACCURACIES))
    centralised, best, fedavg = table_in(text, "## Results")
    assert (fedavg["converged"], fedavg["s to conv."], fedavg["speed-up"]) == (
        "1 of 3",
        "0.2 (1 of 3)",
        "1.00 (1 of 3)",
    )
    assert (best["converged"], best["s to conv."], best["speed-up"]) == ("0 of 3", "–", "–")
    assert (centralised["s to conv."], centralised["speed-up"]) == ("0.2 ± 0.0", "1.00")
    cells = {row["policy"]: row["all"] for row in table_in(text, "## Which")}
    assert cells["fedavg"].endswith("; 0.2 s, 1 MB (1 of 3)")
    assert cells["centralised"].endswith("; **0.2 s, 1 MB**")


def test_a_speed_up_is_the_geometric_mean_of_pairs(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, 'seeds = [1, 2]\n[[runs]]\nschedule = "centralised"\n[[runs]]\npolicy = "best"\n', *[0.9] * 4
    )
    slow = [dataclasses.replace(point, clock=point.clock * 4) for point in found.results[3].outcome.points]
    other = dataclasses.replace(found.results[3].outcome, points=tuple(slow))
    measured = Measured([*found.results[:3], dataclasses.replace(found.results[3], outcome=other)])
    speedup = measured.speedups(measured.groups[1])
    assert speedup is not None
    assert speedup.value == pytest.approx(0.5)  # of 1 and 1/4
    assert speedup.interval is not None
    assert math.prod(speedup.interval) == pytest.approx(0.25)


def test_metrics_that_are_reported_come_first(tmp_path: Path) -> None:
    text = 'report = ["balanced_accuracy", "auc"]\n[[runs]]\npolicy = "best"\n[[scenarios]]\nname = "x"\nruns = "*"\n'
    shown = page(loaded(tmp_path, text, 0.9))
    row = table_in(shown, "## Results")[0]
    assert list(row)[:5] == ["run", "seeds", "balanced accuracy", "AUC", "accuracy"]
    assert (row["balanced accuracy"], row["holdout balanced accuracy"], row["seeds"]) == (
        "0.7500",
        "0.8500",
        "one seed",
    )
    assert table_in(shown, "## Which")[0]["x"] == "balanced accuracy 0.750, AUC 0.900 (one seed); 0.2 s"


# differences


def test_differences_are_paired_with_a_baseline_and_corrected(tmp_path: Path) -> None:
    text = 'baseline = "fedavg"\n' + 'seeds = [1, 2, 3]\n[[runs]]\npolicy = ["fedavg", "best", "merge", "median"]\n'
    fedavg, best, merge = (0.8, 0.7, 0.6), (0.9, 0.801, 0.699), (0.81, 0.69, 0.6)
    shown = page(loaded(tmp_path, text, *fedavg, *best, *merge, *(one - 0.1 for one in best)))
    rows = {row["run"]: row for row in table_in(shown, "Differences on the test split")}
    assert "corrected for 3 comparisons" in shown
    assert list(rows) == ["best", "merge", "median"]
    assert [rows[name]["it is"] for name in rows] == ["better", "not told apart", "not told apart"]
    differences = [one - other for one, other in zip(best, fedavg, strict=True)]
    assert rows["best"]["difference"] == f"+0.1000 ± {half_width(differences):.4f}"
    assert rows["best"]["seeds"] == "3"
    assert rows["best"]["p, signs"] == "0.250"
    assert rows["merge"]["p"] == "1.000"


def test_a_lower_error_is_the_better_one_and_a_single_seed_tells_nothing(tmp_path: Path) -> None:
    text = (
        '[[runs]]\npolicy = ["fedavg", "best"]\n[[comparisons]]\nname = "by loss"\nruns = "best"\nbaseline = "fed*"\n'
    )
    text += 'metric = "loss"\n'
    shown = page(loaded(tmp_path, "seeds = [1, 2, 3]\n" + text, 0.7, 0.7, 0.7, 0.8, 0.801, 0.799))
    (row,) = table_in(shown, "by loss: differences")
    assert (row["metric"], row["it is"], row["difference"].split()[0]) == ("loss", "better", "-0.1000")
    (row,) = table_in(page(loaded(tmp_path, text, 0.7, 0.8)), "by loss: differences")
    assert (row["difference"], row["p"], row["it is"]) == ("-0.1000", "–", "one seed")


SETTINGS = 'seeds = [1, 2]\n[[runs]]\npolicy = ["fedavg", "best"]\npartition = ["iid", "dirichlet:1"]\n'


def test_each_run_has_the_baseline_in_its_own_setting(tmp_path: Path) -> None:
    found = loaded(tmp_path, f'baseline = "fedavg-*"\n{SETTINGS}', 0.8, 0.8, 0.7, 0.7, 0.9, 0.9, 0.6, 0.6)
    pairs = [
        (one.label, one.baseline)
        for one in compare(found.experiment, found.experiment.comparisons[0], measured_of(found))
    ]
    assert pairs == [("best-iid", "fedavg-iid"), ("best-dirichlet-1", "fedavg-dirichlet-1")]
    both = loaded(
        tmp_path, f'baseline = "[fm]e*-iid"\n{SETTINGS}'.replace('"fedavg"', '"fedavg", "median"'), *[0.8] * 12
    )
    with pytest.raises(SettingsError, match="fedavg-iid and median-iid could both be the baseline of best-iid"):
        page(both)


@pytest.mark.parametrize("where", ["comparisons", "scenarios"])
def test_equal_work_is_held_against_the_runs(tmp_path: Path, where: str) -> None:
    parts = {
        "comparisons": '[[comparisons]]\nruns = "best"\nbaseline = "fedavg"\nequal = "EQUAL"\n',
        "scenarios": '[[scenarios]]\nname = "three"\nruns = "[bf]*"\nequal = "EQUAL"\n',
    }
    found = loaded(tmp_path, TWO + parts[where].replace("EQUAL", "steps"), *ACCURACIES)
    said = {"comparisons": "with equal steps (within 5%)", "scenarios": "three (equal steps)"}
    assert said[where] in page(with_work(found, centralised=(30, 0), best=(96, 2), fedavg=(100, 8)))
    with pytest.raises(SettingsError, match=r"the steps are not equal: 94.0 in best, 100.0 in fedavg"):
        page(with_work(found, centralised=(30, 0), best=(94, 2), fedavg=(100, 8)))
    with pytest.raises(SettingsError, match="nobody counted the steps of"):
        page(found)
    found = loaded(tmp_path, TWO + parts[where].replace("EQUAL", "synchronisations"), *ACCURACIES)
    with pytest.raises(SettingsError, match=r"the synchronisations are not equal: 2.0 in best, 8.0 in fedavg"):
        page(with_work(found, centralised=(30, 0), best=(100, 2), fedavg=(100, 8)))


def test_work_is_counted_from_a_history(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('question = "?"\n[plan]\nbatch_size = 32\n[[runs]]\nsites = 2\n')
    run = read(tmp_path / "e.toml").runs[0]
    said: list[dict[str, Any]] = [
        {"event": "genesis", "examples": 500},
        {"event": "accepted", "site": "alice-1", "session": 1, "epoch": 1, "examples": 100, "builds_on": 2},
        {"event": "report", "site": "alice-1", "session": 1, "epochs": 3, "examples": 100, "builds_on": 2},
        {"event": "refused", "site": "alice-1", "session": 2, "epoch": 2, "examples": 100, "builds_on": 2},
        {"event": "report", "site": "alice-2", "session": 1, "epochs": 1, "examples": 64, "builds_on": 2},
    ]
    records = [Record(number, "", json.dumps(fields).encode(), "") for number, fields in enumerate(said, 1)]
    done = work(run, records)
    assert (done.steps, done.synchronisations, done.examples) == ((3 * 4 + 2 * 4 + 2) / 2, 1.5, 564)
    idle = dataclasses.replace(run, attack=read_attack("perturb"))
    assert work(idle, records).steps == (3 * 4 + 2 * 4) / 2


# choices


CHOICE = """
seeds = [1, 2]
[choice]
by = "holdout balanced_accuracy"
seeds = [11, 12]
[[runs]]
schedule = "centralised"
[[runs]]
policy = ["best", "merge", "fedavg"]
"""


class Unread(dict[str, Any]):
    """Scores of a test split that nobody may look at."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError(f"the test split's {key} was read")

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


def trials_of(experiment: Any, test: Any, *accuracies: float) -> list[Result]:
    """The candidates' runs with the seeds of the choice."""
    found = []
    for run, one in zip(experiment.trials, accuracies, strict=True):
        whole = result(run, [0.5, one], 100)
        points = tuple(dataclasses.replace(point, test=test) for point in whole.outcome.points)
        found.append(dataclasses.replace(whole, outcome=dataclasses.replace(whole.outcome, points=points)))
    return found


def test_a_choice_never_reads_the_test_split_nor_other_seeds(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('question = "?"' + CHOICE)
    experiment = read(tmp_path / "e.toml")
    assert [run.slug for run in experiment.trials] == [
        f"{policy}-seed{seed}" for policy in ("best", "merge", "fedavg") for seed in (11, 12)
    ]
    trials = trials_of(experiment, Unread(), 0.7, 0.72, 0.8, 0.82, 0.9, 0.5)
    others = [result(run, [0.5, 0.99 if "best" in run.slug else 0.1], 100) for run in experiment.runs]
    (decision,) = decisions(experiment, [*trials, *others])
    assert decision.chosen == "merge"
    assert [run.slug for run in confirming(experiment, trials)] == [
        "centralised-seed1", "centralised-seed2", "merge-seed1", "merge-seed2"
    ]  # fmt: skip
    assert decisions(experiment, trials[:-1])[0].chosen is None
    assert missing(experiment, trials[:-1])[0] == "fedavg-seed12"


def test_the_page_shows_of_the_candidates_what_was_chosen_and_its_confirmation(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('question = "?"' + CHOICE)
    experiment = read(tmp_path / "e.toml")
    trials = trials_of(experiment, scores(0.12345), 0.7, 0.72, 0.8, 0.82, 0.9, 0.5)
    others = [result(run, [0.5, 0.9], 100) for run in experiment.runs]
    shown = page(Results(experiment, (*trials, *others), "scripts/experiment e", "2030-01-02"))
    rows = table_in(shown, "## What was chosen")
    assert [(row["candidate"], row[""]) for row in rows] == [("best", ""), ("merge", "**chosen**"), ("fedavg", "")]
    assert rows[1]["holdout balanced accuracy"].startswith("0.7600 ± ")
    assert [(row["run"], row["seeds"]) for row in table_in(shown, "## Results")] == [
        ("centralised", "2"),
        ("merge", "2"),
    ]
    assert "0.1234" not in shown
    path = write_pages([Results(experiment, (*trials, *others), "scripts/experiment e", "2030-01-02")], tmp_path)[0]
    assert path.read_text() == shown
    (tmp_path / "e.toml").rename(path.with_suffix(".toml"))
    kept = load(path.with_suffix(".json.gz"))
    assert [bool(one.outcome.final.test) for one in kept.results] == [False] * 6 + [True] * 8


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"holdout balanced_accuracy"', '"test accuracy"', "for the report and never for a choice"),
        ('"holdout balanced_accuracy"', '"holdout acuracy"', "did you mean 'accuracy'"),
        ("seeds = [11, 12]", "seeds = [2, 3]", r"\[choice\] seeds \[2\] are the experiment's, too"),
        ("seeds = [11, 12]", 'seeds = [11]\nruns = ["cent*"]', "no candidate matches 'cent\\*'"),
    ],
)
def test_a_choice_that_could_not_be_confirmed_is_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    (tmp_path / "e.toml").write_text('question = "?"' + CHOICE.replace(before, after))
    with pytest.raises(SettingsError, match=said):
        read(tmp_path / "e.toml")


# published figures


def curve(*tests: float) -> tuple[Point, ...]:
    return tuple(Point(n, n, n, n, n, None, {}, {"accuracy": one}) for n, one in enumerate(tests))


@pytest.mark.parametrize(
    ("tests", "rounds"),
    [
        ((0.1, 0.9, 0.96, 0.98), 2.5),
        ((0.1, 0.96, 0.5, 0.95, 0.98), 3.5),  # from the best so far, not from what came last
        ((0.1, 0.97, 0.5), 1.0),
        ((0.98,), 0.0),
        ((0.1, 0.96, 0.9), None),
    ],
)
def test_rounds_are_counted_on_the_best_score_so_far(tests: Sequence[float], rounds: float | None) -> None:
    assert rounds_until(curve(*tests), "accuracy", 0.97) == (None if rounds is None else pytest.approx(rounds))


def test_a_curve_is_as_far_away_as_its_points() -> None:
    assert distances([0.5, 0.7], 2, curve(0, 0, 0.6, 0.6), "accuracy") == pytest.approx([0.1, 0.1])
    assert distances([0.5, 0.7], 3, curve(0, 0, 0.6, 0.6), "accuracy") is None


@pytest.mark.parametrize(
    ("more", "ours", "said"),
    [
        ({"value": 0.9}, Mean(0.89, 0.8, 1, 3, (0.87, 0.91)), "reproduced"),
        ({"value": 0.9, "why": "more steps"}, Mean(0.8, 0.8, 1, 3, (0.78, 0.82)), "not reproduced: more steps"),
        ({"value": 0.9}, Mean(0.8, 0.8, 1, 3, (0.78, 0.82)), "not reproduced: no reason is given yet"),
        ({"value": 0.9, "tolerance": 0.02}, Mean(0.885, 0.8, 1, 1), "reproduced"),
        ({"value": 0.9}, Mean(0.9, 0.9, 0.9, 1), "cannot be told: one seed, and no tolerance is given"),
        ({"value": 87.0}, None, "not reproduced: no reason is given yet"),
        ({"contradictory": True, "why": "93 and 99"}, Mean(0.9, 0.9, 0.9, 1), "contradictory: 93 and 99"),
        ({"of": "curve", "tolerance": 0.002}, Mean(0.0016, 0, 1, 1), "reproduced"),
        ({}, Mean(0.9, 0.9, 0.9, 1), "–"),
    ],
)
def test_a_figure_has_a_verdict(more: dict[str, Any], ours: Mean | None, said: str) -> None:
    assert verdict(Figure("accuracy", "0.9", "*", **more), ours) == said


FIGURES = """
seeds = [1, 2]
[[runs]]
policy = "fedavg"
gate = "off"
[[published.figures]]
what = "rounds until 0.97"
published = "2"
ours = "fedavg"
of = "rounds"
reaches = 0.7
value = 1.2
[[published.figures]]
what = "rounds until 0.99"
published = "9"
ours = "fedavg"
of = "rounds"
reaches = 0.99
value = 9
[[published.figures]]
what = "curve"
published = "two points"
ours = "fedavg"
of = "curve"
first_version = 0
values = [0.4, 0.8]
tolerance = 0.03
"""


def test_figures_stand_beside_ours(tmp_path: Path) -> None:
    found = loaded(tmp_path, FIGURES, 0.85, 0.95)
    rows = table_in("\n" + published_of(found), "\n")
    # the tests' scores go from 0.4 to 0.75 and 0.85: 0.7 is reached after 0.857 and 0.667 of the only round
    assert rows[0]["ours"] == "0.8 ± 1.2" and rows[0]["verdict"] == "reproduced"
    assert rows[1]["ours"] == "– (best 0.8000)" and rows[1]["verdict"].startswith("not reproduced")
    assert rows[2]["ours"] == "0.0250 ± 0.0000 away on average, 0.0500 at most, of 2 points"
    assert rows[2]["verdict"] == "reproduced"
    some = FIGURES.replace("reaches = 0.99", "reaches = 0.8")
    assert "1.0 (1 of 2; best of the others 0.7500)" in published_of(
        loaded(tmp_path, some.replace("0.8\n", "0.85\n"), 0.85, 0.95)
    )
    longer = loaded(tmp_path, FIGURES.replace("[0.4, 0.8]", "[0.4, 0.8, 0.9]"), 0.85, 0.95)
    assert "| – (ends with release 1) | not done |" in published_of(longer)
    with pytest.raises(SettingsError, match="the rounds of fedavg cannot be counted, for the gate is on"):
        published_of(loaded(tmp_path, FIGURES.replace('"off"', '"on"'), 0.85, 0.95))


def published_of(found: Results) -> str:
    return published(found.experiment, measured_of(found))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('of = "rounds"', "needs 'reaches'"),
        ('of = "curve"\nvalues = [1]', "needs 'values' and 'tolerance'"),
        ("values = [1]", "belong to"),
        ("reaches = 0.9", "belongs to"),
        ("contradictory = true", "lacks 'why'"),
        ('of = "curve"\nvalues = []\ntolerance = 1', "expected a list of numbers"),
    ],
)
def test_a_figure_that_means_nothing_is_refused(tmp_path: Path, more: str, said: str) -> None:
    text = f'[[runs]]\n[[published.figures]]\nwhat = "x"\npublished = "1"\nours = "*"\n{more}\n'
    with pytest.raises(SettingsError, match=said):
        loaded(tmp_path, text, 0.9)


def test_what_the_page_shows_of_it_can_be_read(tmp_path: Path, root: Path) -> None:
    examples = (root / "docs/how-to/experiments.md").read_text().split("```toml\n")[1:]
    ask, choose, figures = (one.partition("```")[0] for one in examples[:3])
    seeds, choose = choose.split("\n", 1)
    runs = '[[runs]]\npolicy = ["fedavg", "step"]\npartition = ["iid", "dirichlet:1"]\n'
    runs += '[[runs]]\npolicy = ["fedavg"]\ngate = ["off"]\n'
    text = f'question = "?"\n{seeds}\n{ask}\n{runs}\n{choose}\n[published]\n{figures}'
    (tmp_path / "e.toml").write_text(text)
    experiment = read(tmp_path / "e.toml")
    assert (len(experiment.comparisons), len(experiment.figures), experiment.report[0]) == (2, 2, "balanced_accuracy")
    assert experiment.choice is not None and len(experiment.trials) == 5 * 5
