"""From outcomes to numbers and pages: convergence, speed, tables, plots, and what is left out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli
from experiments.definition.config import Point
from experiments.definition.read import Experiment, read, shipped
from experiments.results.choosing import missing
from experiments.results.file import Result, Results, load, save
from experiments.results.index import index, read_entry
from experiments.results.measure import Measured, row_names, way
from experiments.results.plots import curve
from experiments.results.report import CELLS, OLD, PAGE, READING, page, write_pages, write_report
from fedssh.errors import SettingsError
from fedssh.models import own
from tests.harness.outcomes import loaded, result, scores

OTHER = """# NAME

*What | if?*

`scripts/experiment NAME`, 2029-12-31, commit 012 and 345, on Abacus, 2 cores; engine memory, 1 runs.

**1 of the 2 runs that the experiment now asks for is missing here.**

See [tiny](tiny.md), e.g. 0.5 of it. More.

## Which to use when

Each cell says something.

| policy | here |
| --- | --- |
| best | 1 |

## Results

![A picture](tiny-two.png)
"""
ROOT = Path(__file__).resolve().parents[2]
TEXT = """
question = "Does it?"
seeds = [1, 2]
conclusion = "It does, mostly."
[[runs]]
schedule = "centralised"
[[runs]]
policy = ["best", "fedavg"]
sites = [3]
[published]
source = "somebody"
[[published.figures]]
what = "accuracy"
published = "0.9"
ours = "best*"
[[published.figures]]
what = "sub-models"
published = "0.1 to 0.2"
ours = "fedavg*"
of = "sites"
[[published.figures]]
what = "time"
published = "3 times"
ours = "best*"
of = "speedup"
[[scenarios]]
name = "three | sites"
runs = "*"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    (tmp_path / "tiny.toml").write_text(TEXT)
    return read(tmp_path / "tiny.toml")


@pytest.fixture
def results(experiment: Experiment) -> list[Result]:
    runs = {run.slug: run for run in experiment.runs}
    sites = {"alice-1": scores(0.6), "alice-2": scores(0.8)}
    return [
        result(runs["centralised-seed1"], [0.5, 0.8, 0.9], 600),
        result(runs["centralised-seed2"], [0.5, 0.7, 0.8], 600),
        result(runs["best-sites3-seed1"], [0.5, 0.85, 0.89, 0.95], 200),
        result(runs["best-sites3-seed2"], [0.5, 0.6, 0.7, 0.75], 200),
        result(runs["fedavg-sites3-seed1"], [0.5, 0.9], 300, site_scores=sites, attacker={"refused": 2}),
    ]


def test_convergence_is_within_a_hundredth_of_centralised_with_the_same_seed(results: list[Result]) -> None:
    measured = Measured(results)
    best, other = results[2], results[3]
    reached = measured.reached(best)
    assert reached is not None
    assert reached.version == 2  # 0.89 of 0.90
    assert measured.reached(other) is None
    assert measured.speedup(best) == pytest.approx(1200 / 400)
    assert measured.seconds(best, 500) == pytest.approx(1.0)  # 2 ms an image, all runs of the network together

    row = measured.row(measured.groups[1])
    assert (row.label, row.runs, row.converged) == ("best-sites3", 2, 1)
    assert row.seconds is not None
    assert row.seconds.value == pytest.approx(0.8)
    assert row.megabytes is not None
    assert row.megabytes.value == 2
    accuracy = row.test["accuracy"]
    assert accuracy is not None
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0.75, 0.65, 0.85))


def test_nothing_converges_where_nothing_is_centralised(results: list[Result]) -> None:
    row = Measured(results[2:]).row(Measured(results[2:]).groups[0])
    assert row.converged is None
    assert row.seconds is None


def test_an_undefined_auc_is_not_zero(results: list[Result]) -> None:
    run = results[0].run
    points = (Point(0, 1, 0.0, 0, 0, None, scores(0.5, None), scores(0.5, None)),)
    measured = Measured([result(run, [0.5], 1, points=points)])
    assert measured.row(measured.groups[0]).test["auc"] is None


def test_ways_name_what_differs_from_the_default(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(
        'question = "?"\n[[runs]]\npolicy = ["polyak:0.5", "merge"]\nschedule = ["free", "relay"]\n'
        '[[runs]]\npolicy = ["fedavg:fraction=0.5", "krum:1"]\ngate = ["off"]\n'
    )
    ways = [way(run) for run in read(path).runs]
    assert ways == [
        "polyak free", "polyak relay", "merge free", "merge relay", "fedavg:fraction=0.5, no gate", "krum, no gate"
    ]  # fmt: skip


def test_a_curve_holds_its_last_score_and_averages_over_seeds(results: list[Result]) -> None:
    measured = Measured(results)
    x, y = curve(measured, measured.groups[0], "examples", "holdout", "accuracy")
    assert x.tolist() == [0, 1800, 3600]
    assert y.tolist() == pytest.approx([0.5, 0.75, 0.85])
    measured = Measured([results[2], result(results[3].run, [0.1], 200)])
    x, y = curve(measured, measured.groups[0], "version", "test", "accuracy")
    assert y.tolist() == pytest.approx([0.2, 0.375, 0.395, 0.425])


def test_a_curve_goes_on_to_the_end_of_the_run(results: list[Result]) -> None:
    measured = Measured([result(results[0].run, [0.5, 0.6], 10, clock=500.0)])
    x, _ = curve(measured, measured.groups[0], "clock", "test", "accuracy")
    assert x[-1] == 500


def test_results_come_back_and_what_is_missing_is_named(
    tmp_path: Path, experiment: Experiment, results: list[Result]
) -> None:
    save(tmp_path, experiment, tmp_path / "tiny.toml", results, "scripts/experiment tiny", "2030-01-02")
    found = load(tmp_path)
    assert list(found.results) == results
    assert missing(experiment, found.results) == ["fedavg-sites3-seed2"]
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SettingsError, match="is damaged"):
        load(tmp_path)


def test_the_report_says_what_is_known(tmp_path: Path, experiment: Experiment, results: list[Result]) -> None:
    save(tmp_path, experiment, tmp_path / "tiny.toml", results, "scripts/experiment tiny", "2030-01-02")
    text = write_report(tmp_path, load(tmp_path)).read_text()
    for said in (
        "# tiny",
        "*Does it?*",
        "`scripts/experiment tiny`, 2030-01-02, commit 0123456789ab, on Abacus, 2 cores",
        "**1 of the 6 runs that the experiment now asks for is missing here.**",
        "It does, mostly.",
        "| accuracy | 0.9 | 0.7500 ± 1.2706 (0.6500 to 0.8500) | – |",
        "| sub-models | 0.1 to 0.2 | 0.6000 to 0.8000, median 0.7000 | – |",
        "| time | 3 times | 3.00 times as fast in 1 of 2 runs | – |",
        "Published: somebody",
        "| fedavg-sites3 | alice-2 | 0.8000 | 0.5000 | 0.2500 | 7 1 / 2 3 |",
        "| fedavg-sites3 | **result** | 0.8000 |",
    ):
        assert said in text, said
    assert "peak MB" not in text  # nobody measured it
    picture = tmp_path / "tiny-does-it.png"
    assert f"]({picture.name})" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_page_has_the_table_of_scenarios_and_its_own_plots(
    tmp_path: Path, experiment: Experiment, results: list[Result]
) -> None:
    save(tmp_path, experiment, tmp_path / "tiny.toml", results, "scripts/experiment tiny", "2030-01-02")
    docs = tmp_path / "docs"
    path, overview = write_pages([load(tmp_path)], docs)
    text = path.read_text()
    assert "## Which to use when" in text
    assert "| centralised | 0.750 ± 0.635; 2.4 s, 2 MB; **2.4 s, 2 MB** |" in text
    assert "| best free | 0.750 ± 1.271; 1.2 s, 3 MB; 0.8 s, 2 MB (1 of 2) |" in text
    assert "| fedavg | 0.800 (one seed); 0.6 s, 1 MB; **0.6 s, 1 MB** |" in text
    assert "](tiny-does-it.png)" in text
    assert (path, overview) == (docs / "results" / "tiny.md", docs / PAGE)
    there = sorted(one.name for one in (docs / "results").iterdir())
    assert there == ["tiny-does-it.png", "tiny.json.gz", "tiny.md"]


def test_a_page_comes_again_from_its_runs_in_brief(
    tmp_path: Path, experiment: Experiment, results: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    longer = dataclasses.replace(results[2].outcome.points[-1], test=scores(0.849998765))
    outcome = dataclasses.replace(results[2].outcome, points=(*results[2].outcome.points[:-1], longer))
    results[2] = dataclasses.replace(results[2], outcome=outcome)
    save(tmp_path, experiment, tmp_path / "tiny.toml", results, "scripts/experiment tiny", "2030-01-02")
    docs = tmp_path / "docs"
    write_pages([load(tmp_path)], docs)
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    (docs / "results" / "tiny.toml").write_text(TEXT)
    assert command(capsys, "--report", str(docs / "results" / "tiny.json.gz"), "--docs", str(docs))[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    found = load(docs / "results" / "tiny.json.gz").results[2]
    assert found.run == results[2].run
    assert found.outcome.points[-1].test == {**scores(0.85), "loss": 0.15, "balanced_accuracy": 0.8}
    assert "confusion" not in found.outcome.points[0].test  # of the result alone
    assert found.outcome.points[0].test["accuracy"] == 0.4
    content = (docs / "results" / "tiny.json.gz").read_bytes()
    (docs / "results" / "tiny.json.gz").write_bytes(content[:-9])
    with pytest.raises(SettingsError, match="is damaged"):
        load(docs / "results" / "tiny.json.gz")


def test_a_new_page_leaves_the_others_and_takes_away_pictures_that_are_no_more(
    tmp_path: Path, experiment: Experiment, results: list[Result]
) -> None:
    save(tmp_path, experiment, tmp_path / "tiny.toml", results, "scripts/experiment tiny", "2030-01-02")
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    other = OTHER.replace("NAME", "tiny-two")
    (folder / "tiny-two.md").write_text(other)
    (folder / "tiny.md").write_text(OTHER.replace("NAME", "tiny").replace("two.png", "gone.png"))
    for name in ("tiny-two.png", "tiny-gone.png"):
        (folder / name).touch()
    text = write_pages([load(tmp_path)], tmp_path / "docs")[-1].read_text()
    assert (folder / "tiny-two.md").read_text() == other
    assert (folder / "tiny-two.png").exists() and not (folder / "tiny-gone.png").exists()
    rows = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| [")]
    assert rows == [
        "| [tiny](results/tiny.md) | Does it? | It does, mostly. | 2030-01-02 | 0123456789ab |",
        "| [tiny-two](results/tiny-two.md) | What / if? | See [tiny](results/tiny.md), e.g. 0.5 of it. "
        "| 2029-12-31 | 012 and 345 |",
    ]
    assert "**[tiny-two](results/tiny-two.md)**\n\n| policy | here |\n| --- | --- |\n| best | 1 |\n\n## R" in text


def test_the_index_has_every_published_figure_with_its_page() -> None:
    old = "| figure | published | ours |\n| --- | --- | --- |\n| speed | 3 times | 2 times (a) |\n\nPublished: X\n"
    new = old.replace("ours |", "ours | verdict |").replace("(a) |", "(a) | reproduced |")
    pages = {name: OTHER.replace("NAME", name) + "\n" + table for name, table in (("a", old), ("b", new), ("c", ""))}
    rows = [line for line in index(pages, "", "").splitlines() if "speed" in line]
    assert rows == [
        "| [a](results/a.md) | speed | 3 times | 2 times (a) | – |",
        "| [b](results/b.md) | speed | 3 times | 2 times (a) | reproduced |",
    ]
    assert "## Published figures" not in index({"c": pages["c"]}, "", "")


def test_the_index_takes_no_page_that_is_none_of_results() -> None:
    with pytest.raises(SettingsError, match=r"results/x\.md is no page of results: it has no question"):
        read_entry("x", "# x\n\nwords\n")
    with pytest.raises(SettingsError, match="no line with its command"):
        read_entry("x", "# x\n\n*Why?*\n\nwords\n")


def test_the_index_that_is_there_is_of_the_pages_that_are_there(root: Path) -> None:
    folder = root / "docs" / "explanation"
    pages = {path.stem: path.read_text() for path in (folder / "results").glob("*.md")}
    assert len(pages) >= 9
    assert (folder / PAGE).read_text() == index(pages, f"{CELLS}\n{OLD}", READING)


def test_pages_are_what_their_runs_in_brief_give(root: Path) -> None:
    own.use(root / "experiments" / "networks")
    folder = root / "docs" / "explanation" / "results"
    printed = {"merge-options", "poison", "polyak-cats-dogs"}
    printed |= {f"thesis-{name}" for name in ("depth", "kfold", "nodes", "seeds")}
    for path in folder.glob("*.md"):
        brief = path.with_suffix(".json.gz")
        assert brief.exists() or path.stem in printed, f"{path.name} has no runs beside it"
        if brief.exists():
            said = "scripts/experiment --report docs/explanation/results/*.json.gz makes them anew"
            assert path.read_text() == page(load(brief)), said


def table(folder: Path, found: Results) -> list[str]:
    text = write_pages([found], folder / "docs")[0].read_text()
    lines = text.partition("## Which to use when")[2].partition("## Results")[0].splitlines()
    return [line for line in lines if line.startswith("|") and "---" not in line]


def test_a_scenario_has_the_centralised_training_on_its_data(tmp_path: Path) -> None:
    text = """
[[runs]]
schedule = "centralised"
outliers = [0, 0.05]
[[runs]]
policy = "best"
partition = ["iid", "dirichlet:0.3"]
[[runs]]
policy = "best"
outliers = [0.05]
label = "clean"
[[scenarios]]
name = "IID"
runs = "best-iid"
[[scenarios]]
name = "skewed"
runs = "best-dirichlet*"
[[scenarios]]
name = "without outliers"
runs = "clean-*"
[[scenarios]]
name = "not done"
runs = "merge*"
"""
    assert table(tmp_path, loaded(tmp_path, text, 0.9, 0.8, 0.7, 0.6, 0.75)) == [
        "| policy | IID | skewed | without outliers |",
        "| centralised | "
        + " | ".join(f"{score} (one seed); 0.2 s; **0.2 s, 1 MB**" for score in ("0.800", "0.800", "0.700"))
        + " |",
        "| best free | 0.600 (one seed); 0.2 s | 0.500 (one seed); 0.2 s | 0.650 (one seed); 0.2 s |",
    ]


BY_AUC = """
[[runs]]
schedule = "centralised"
[[runs]]
policy = "best"
metric = ["accuracy", "auc"]
[[scenarios]]
name = "as usual"
runs = "best-metric-accuracy"
[[scenarios]]
name = "by AUC"
runs = "best-metric-auc"
"""


def test_a_scenario_shows_the_metric_that_it_was_decided_by(tmp_path: Path) -> None:
    assert table(tmp_path, loaded(tmp_path, BY_AUC, 0.9, 0.9, 0.9)) == [
        "| policy | as usual | by AUC |",
        # decided by accuracy: no comparison
        "| centralised | 0.800 (one seed); 0.2 s; **0.2 s, 1 MB** | AUC 0.900 (one seed); 0.2 s |",
        "| best free | 0.800 (one seed); 0.2 s; **0.2 s, 1 MB** | AUC 0.900 (one seed); 0.2 s |",
    ]


def test_centralised_training_by_the_same_metric_goes_first(tmp_path: Path) -> None:
    text = BY_AUC + '[[runs]]\nschedule = "centralised"\nmetric = "auc"\nlabel = "auc"\n'
    assert table(tmp_path, loaded(tmp_path, text, 0.9, 0.9, 0.9, 0.8)) == [
        "| policy | as usual | by AUC |",
        # every release has that AUC
        "| centralised | 0.800 (one seed); 0.2 s; **0.2 s, 1 MB** | AUC 0.900 (one seed); 0.2 s; **0 s** |",
        "| best free | 0.800 (one seed); 0.2 s; **0.2 s, 1 MB** | AUC 0.900 (one seed); 0.2 s; **0 s** |",
    ]


def test_rows_name_what_tells_two_runs_of_a_scenario_apart(tmp_path: Path) -> None:
    text = """
[[runs]]
policy = "fedavg"
proximal = [0.0, 1.0]
epochs = [10, 3]
[[runs]]
policy = "best"
gate = "ladder"
margin = [0.01, 0.02]
[[scenarios]]
name = "all"
runs = "*"
"""
    found = loaded(tmp_path, text, *[0.9] * 6)
    assert [line.split(" | ")[0] for line in table(tmp_path, found)[1:]] == [
        "| fedavg", "| fedavg, epochs=3", "| fedavg, proximal=1", "| fedavg, epochs=3, proximal=1",
        "| best free, ladder", "| best free, ladder, margin=0.02",
    ]  # fmt: skip
    groups = Measured(found.results).groups
    assert set(row_names([[one] for one in groups]).values()) == {"fedavg", "best free, ladder"}  # never side by side


def test_two_runs_never_share_a_cell(tmp_path: Path) -> None:
    text = '[[runs]]\npolicy = "best"\nsites = [2, 5]\n[[scenarios]]\nname = "all"\nruns = "*"\n'
    picture = tmp_path / "docs" / "results" / "old.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    with pytest.raises(SettingsError) as caught:
        table(tmp_path, loaded(tmp_path, text, 0.9, 0.8))
    assert str(caught.value) == "other: best-sites2 and best-sites5 would share the cell of 'best free' and 'all'"
    assert picture.exists()


def test_folds_are_shown_beside_centralised_training_on_the_same_fold(tmp_path: Path) -> None:
    text = '[data]\nfolds = 2\n[[runs]]\nschedule = "centralised"\nfold = [1, 2]\n'
    text += '[[runs]]\npolicy = "merge"\nfold = [1, 2]\n'
    found = loaded(tmp_path, text, 0.9, 0.8, 0.85, 0.84)
    shown = page(found)
    assert "| run | fold 1 | fold 2 |\n| --- | --- | --- |\n| centralised | 0.8000 | 0.7000 |\n" in shown
    assert "| merge | 0.7500 (-0.0500) | 0.7400 (+0.0400) |" in shown


def test_a_difference_is_paired_by_seed_and_its_interval_is_students(tmp_path: Path) -> None:
    text = 'seeds = [1, 2]\n[data]\nfolds = 2\n[[runs]]\nschedule = "centralised"\nfold = [1]\n'
    found = loaded(tmp_path, text + '[[runs]]\npolicy = "merge"\nfold = [1]\n', 0.9, 0.8, 0.85, 0.84)
    shown = page(found)
    # of -0.05 and 0.04: t(0.975, 1) = 12.7062, times 0.09 / 2
    assert "| merge | accuracy | 0.7450 | 0.7500 | -0.0050 ± 0.5718 | -0.7 % | 2 |" in shown
    one = loaded(tmp_path, 'seeds = [1]\n[[runs]]\nschedule = "centralised"\n[[runs]]\npolicy = "best"\n', 0.9, 0.8)
    assert "How far" not in page(one)


def test_contributions_and_backdoors_have_tables(tmp_path: Path) -> None:
    text = 'seeds = [1, 2]\n[[runs]]\nsites = 2\npolicy = "best"\nattack = "backdoor:0"\n'
    found = loaded(tmp_path, text, 0.9, 0.8)
    assert "contributed" not in page(found) and "backdoor: called so" not in page(found)
    gains = ({"alice-1": {"accuracy": 0.3}}, {"alice-1": {"accuracy": 0.1}, "alice-2": {"accuracy": -0.04}})
    both = [
        dataclasses.replace(
            one,
            outcome=dataclasses.replace(
                one.outcome, contributed=by, attacker={"accepted": 2}, backdoor={"stamped": 0.75, "plain": 0.25}
            ),
        )
        for one, by in zip(found.results, gains, strict=True)
    ]
    shown = page(dataclasses.replace(found, results=tuple(both)))
    assert "| best-backdoor-0 | accuracy | alice-1 +0.200, alice-2 (attacks) -0.020 |" in shown
    assert "| best-backdoor-0 | backdoor:0 | 4 accepted | 0.7500" in shown and "| 0.2500" in shown


def test_what_the_last_models_tell_of_members_has_a_table(tmp_path: Path) -> None:
    privacy = 'privacy = { unit = "image", clip = 1, noise = 1.5, delta = 1e-4, budget = 2 }'
    text = '[federation]\npolicy = "fedavg"\nmembership = true\n[[runs]]\nlabel = "none"\n[[runs]]\nlabel = "private"\n'
    found = loaded(tmp_path, f"seeds = [1, 2]\n{text}{privacy}\n", 0.9, 0.8, 0.7, 0.6)
    assert "AUC of membership" not in page(found)
    told = [
        {"auc": auc, "advantage": 0.25, **({"epsilon": auc + 1} if one.run.plan.get("privacy") else {})}
        for auc, one in zip((0.75, 0.5, 0.5, 0.5), found.results, strict=True)
    ]
    results = [
        dataclasses.replace(one, outcome=dataclasses.replace(one.outcome, audited=each))
        for one, each in zip(found.results, told, strict=True)
    ]
    shown = page(dataclasses.replace(found, results=tuple(results)))
    # of 0.75 and 0.5: t(0.975, 1) = 12.7062, times 0.25 / 2
    assert "| none | – | – | 0.6250 ± 1.5883 (0.5000 to 0.7500) | 0.2500" in shown
    assert "| private | 1.5 | 1.50 at 0.0001 | 0.5000" in shown


def test_of_attacks_it_is_told_how_far_the_holdout_is_above_the_test_split(tmp_path: Path) -> None:
    text = 'seeds = [1, 2]\n[[runs]]\nsites = 1\npolicy = "best"\nattack = "perturb:0.1"\n'
    found = loaded(tmp_path, text, 0.9, 0.8)
    gaps = ((0.5, 0.45, 0.9, 0.7), (0.5, 0.53, 0.8, 0.9))
    results = []
    for one, (start, tested, end, last) in zip(found.results, gaps, strict=True):
        first, final = one.outcome.points[0], one.outcome.points[-1]
        points = (
            dataclasses.replace(first, holdout={"accuracy": start}, test={**first.test, "accuracy": tested}),
            dataclasses.replace(final, holdout={"accuracy": end}, test={**final.test, "accuracy": last}),
        )
        outcome = dataclasses.replace(one.outcome, points=points, attacker={"refused": 3})
        results.append(dataclasses.replace(one, outcome=outcome))
    shown = page(dataclasses.replace(found, results=tuple(results)))
    assert "| run | attack | verdicts | holdout better than test, at first | in the end |" in shown
    row = next(line for line in shown.splitlines() if line.startswith("| best-perturb-0.1 | perturb:0.1 |"))
    assert "6 refused | 0.0100" in row and "| 0.0500" in row  # of 0.05 and -0.03, of 0.2 and -0.1
    assert "backdoor" not in shown


# the command


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = cli.main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_mistakes_end_with_two_and_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, error = command(capsys, "fedavg-mnits")
    assert (code, error) == (
        2,
        "experiment: error: no experiment is called 'fedavg-mnits'; did you mean 'fedavg-mnist'?\n",
    )
    code, _, error = command(capsys, "--report", str(tmp_path / "none"))
    assert code == 2
    assert error.splitlines()[1] == "experiment: hint: scripts/experiment NAME makes it"
    for words in ([], ["ladder", "--list"], ["ladder", "--jobs", "0"], ["ladder", "--seed", "-1"]):
        assert command(capsys, *words)[0] == 2


def test_list_and_dry_run_show_without_doing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = command(capsys, "--list")
    assert code == 0
    assert len(out.splitlines()) == len(shipped()) + len(cli.OWN)
    code, out, _ = command(capsys, "ladder", "--quick", "--dry-run", "--out", str(tmp_path))
    assert code == 0
    assert out.splitlines()[0] == "to do     gate-on-seed1"
    assert not list(tmp_path.iterdir())


def test_the_command_in_a_report_belongs_to_no_machine() -> None:
    words = ["ladder", "--out", "/tmp/x", "--seed", "1", "2", "--data-dir=/d", "--jobs", "2", "--quick", "--only", "a"]
    assert cli._plain(words) == ["ladder", "--seed", "1", "2", "--quick"]


def test_help_loads_nothing_heavy_and_ends_with_examples() -> None:
    probe = "import json, sys; from experiments import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    probe += "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    *page, loaded = done.stdout.splitlines()
    assert not {"numpy", "keras", "tensorflow", "matplotlib", "rich"} & set(json.loads(loaded))
    assert len(page) <= 45
    assert "examples:" in page
