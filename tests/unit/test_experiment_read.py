"""Experiments as TOML: what is refused and how, what is multiplied out, how runs are called."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from experiments.definition.attack import Attack, read_attack
from experiments.definition.read import SHIPPED, find, group_name, matching, read, shipped
from fedssh.errors import SettingsError
from fedssh.models import own

START = 'question = "Does it?"\n'


SCAFFOLD = "[federation]\ncontrol = 'scaffold'\n[plan]\noptimizer = 'sgd'\n[[runs]]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(START + text)
    return path


def slugs(folder: Path, text: str, quick: bool = False) -> list[str]:
    return [run.slug for run in read(write(folder, text), quick=quick).runs]


def test_lists_are_multiplied_out_and_single_values_are_not_named(tmp_path: Path) -> None:
    text = '[[runs]]\npolicy = ["best", "merge"]\nsites = [2, 5]\nepochs = 3\n'
    assert slugs(tmp_path, text) == [
        "best-sites2-seed1",
        "best-sites5-seed1",
        "merge-sites2-seed1",
        "merge-sites5-seed1",
    ]
    runs = read(write(tmp_path, text), seeds=[4, 9]).runs
    assert [(run.sites, run.seed, run.plan["epochs"]) for run in runs[:3]] == [(2, 4, 3), (2, 9, 3), (5, 4, 3)]


def test_common_settings_reach_every_run_and_a_table_overrules_them(tmp_path: Path) -> None:
    common = "[federation]\nrounds = 7\n[plan]\nlearning_rate = 0.5\n[data]\nvalidation = 0\n"
    first, second = read(write(tmp_path, common + '[[runs]]\n[[runs]]\nlabel = "more"\nsessions = 9\n')).runs
    assert (first.sessions, second.sessions) == (7, 9)
    assert first.plan["learning_rate"] == 0.5
    assert first.validation == 0


def test_policies_decide_schedule_and_what_is_published(tmp_path: Path) -> None:
    best, fedavg = read(write(tmp_path, '[[runs]]\npolicy = ["best", "fedavg:fraction=0.5"]\n')).runs
    assert (best.schedule, best.plan["publish"]) == ("free", "improved")
    assert (fedavg.schedule, fedavg.plan["publish"]) == ("rounds", "session")
    assert "fraction=0.5" in fedavg.policy
    assert "deadline=" in fedavg.policy  # written out, as a release tells it


def test_centralised_is_one_run_whatever_it_stands_beside(tmp_path: Path) -> None:
    text = '[federation]\nsites = 7\nattack = "nan"\n[[runs]]\nschedule = "centralised"\n'
    (run,) = read(write(tmp_path, text)).runs
    assert (run.slug, run.sites, run.attack, run.policy) == ("centralised-seed1", 1, None, "best")


def test_the_same_choice_in_two_tables_is_one_run(tmp_path: Path) -> None:
    assert slugs(tmp_path, '[[runs]]\npolicy = "best"\n[[runs]]\npolicy = ["best", "merge"]\n') == [
        "best-seed1",
        "merge-seed1",
    ]


def test_folds_and_seeds_come_last_and_are_no_part_of_a_groups_name(tmp_path: Path) -> None:
    text = '[data]\nfolds = 2\n[[runs]]\nfold = [1, 2]\npolicy = ["best"]\n'
    assert slugs(tmp_path, text) == ["best-fold1-seed1", "best-fold2-seed1"]
    assert group_name("best-fold2-seed1") == "best"


def test_names_of_sites_sort_by_their_number(tmp_path: Path) -> None:
    (run,) = read(write(tmp_path, '[[runs]]\nsites = 11\nattack = "nan,sites=2"\n')).runs
    assert list(run.site_names) == sorted(run.site_names)
    assert run.attackers == ("alice-10", "alice-11")
    assert len({run.site_seed(number) for number in range(1, 12)}) == 11


def test_quick_replaces_settings_and_keeps_what_both_list(tmp_path: Path) -> None:
    text = "[[runs]]\nsites = [2, 3, 5]\nepochs = 9\n[quick]\nsites = [3, 4]\nepochs = 1\nseeds = [8]\n"
    (run,) = read(write(tmp_path, text), quick=True).runs
    assert (run.slug, run.plan["epochs"]) == ("sites3-seed8", 1)
    assert len(slugs(tmp_path, text)) == 3


def test_quick_may_pick_runs(tmp_path: Path) -> None:
    text = '[[runs]]\npolicy = ["best", "merge", "fedavg"]\n[quick]\nonly = ["m*"]\n'
    assert slugs(tmp_path, text, quick=True) == ["merge-seed1"]


def test_without_control_variates_a_run_has_the_digest_that_it_ever_had(tmp_path: Path) -> None:
    text = "[plan]\noptimizer = 'sgd'\n[[runs]]\npolicy = 'fedavg'\ncontrol = ['none', 'scaffold']\n"
    without, scaffold = read(write(tmp_path, text)).runs
    assert without.slug == "fedavg-control-none-seed1" and "control" not in without.settings()
    assert scaffold.settings() == without.settings() | {"control": "scaffold"}
    beside = read(write(tmp_path, SCAFFOLD + "policy = 'fedavg'\n[[runs]]\nschedule = 'centralised'\n")).runs
    assert [run.control for run in beside] == ["scaffold", "none"]


def test_without_an_audit_a_run_has_the_digest_that_it_ever_had(tmp_path: Path) -> None:
    without, audited = read(write(tmp_path, "[[runs]]\nmembership = [false, true]\n")).runs
    assert "membership" not in without.settings()
    assert audited.settings() == without.settings() | {"membership": True}
    assert audited.slug == "membership-seed1"


def test_where_all_images_have_labels_a_run_has_the_digest_that_it_ever_had(tmp_path: Path) -> None:
    every, few = read(write(tmp_path, "[[runs]]\nlabelled = [1.0, 0.1]\n")).runs
    assert "labelled" not in every.settings()["data"]
    assert few.settings()["data"] == every.settings()["data"] | {"labelled": 0.1}


def test_settings_change_the_digest_and_names_do_not(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path, "[[runs]]\n")).runs
    (same,) = read(write(tmp_path, '[[runs]]\nlabel = "other"\n')).runs
    (other,) = read(write(tmp_path, "[[runs]]\nbatch_size = 8\n")).runs
    assert one.digest("memory") == same.digest("memory")
    assert len({one.digest("memory"), other.digest("memory"), one.digest("ssh")}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[runs]]\nsitse = 3\n", "'sitse'; did you mean 'sites'?"),
        ("[plan]\nsites = 3\n[[runs]]\n", "[plan] has no 'sites'"),
        ("sede = [1]\n[[runs]]\n", "'sede' is nothing that an experiment says"),
        ("[[runs]]\nsites = 0\n", "[[runs]] sites is 0, expected a whole number in 1..10,000"),
        ("[[runs]]\nsites = []\n", "sites is an empty list"),
        ("[[runs]]\nsites = true\n", "sites is true, expected a whole number"),
        ('[[runs]]\npolicy = "fedagv"\n', "no policy is called 'fedagv'; did you mean 'fedavg'?"),
        ('[[runs]]\nattack = "noise:-1"\n', "the value of the attack noise is '-1'"),
        ('[[runs]]\npartition = "dirichlet"\n', "expected iid, dirichlet:ALPHA, skew:ALPHA, classes:K, shards:N or"),
        ('[[runs]]\narchitecture = "cnnn"\n', "no architecture is called 'cnnn'"),
        ("[[runs]]\narchitecture = { name = 'cnn', depth = 5 }\n", "cnn has depth 4 or 8, found 5"),
        ('[[runs]]\npolicy = "fedavg"\nschedule = "relay"\n', "fedavg does not go with the schedule relay"),
        ('[[runs]]\npolicy = "fedavg"\npublish = "improved"\n', "takes one update per round"),
        ("[[runs]]\nmomentum = 0.5\n", "momentum belongs to sgd, not to adam"),
        (SCAFFOLD + "policy = 'gather'\n", "the policies fedavg and fednova, not with gather"),
        (SCAFFOLD + "policy = 'fedavg:server=momentum'\n", "no server of the policy, found momentum"),
        (SCAFFOLD + "policy = 'fednova'\noptimizer = 'adam'\n", "control scaffold goes with plain sgd, not with adam"),
        (SCAFFOLD + "policy = 'fedavg'\nproximal = 0.1\n", "goes with plain sgd, found proximal 0.1"),
        (SCAFFOLD + "policy = 'fedavg'\nclip_norm = 1\n", "goes with plain sgd, found clip_norm 1"),
        (SCAFFOLD + "policy = 'fedavg'\nattack = 'nan'\n", "goes with honest sites, found the attack nan"),
        ("[[runs]]\ncontrol = 'scafold'\n", "control is 'scafold', expected"),
        ('[[runs]]\ngate = "ladder"\nmargin = 0\n', "above 0 for a ladder"),
        ("[[runs]]\nsessions = 2\nrounds = 3\n", "the same setting"),
        ("[[runs]]\nsites = 1\nattack = 'nan,sites=2'\n", "2 of 1 sites cannot attack"),
        ("[[runs]]\nsites = 5\nattack = 'alie'\n", "has no cover among 5 sites with 1 of them its own"),
        ("[data]\nfolds = 3\n[[runs]]\nfold = 4\n", "fold is 4, expected 1..3"),
        ("[[runs]]\nsites = 2\n[[runs]]\nsites = 3\n", "two different runs would be called seed1"),
        ("seeds = []\n[[runs]]\n", "expected a list of whole numbers"),
        ("runs = 3\n", "[[runs]] is no list of tables"),
        ("", "'runs' is missing"),
        ("[[runs]]\n[[published.figures]]\nwhat = 'x'\n", "[[published.figures]] lacks 'published'"),
        ("[[runs]]\n[[plots]]\ntitle = 'x'\nx = 'time'\n", "x is 'time', expected one of"),
        ('baseline = "fedagv"\n[[runs]]\n', "[[comparisons]]: no run matches 'fedagv'"),
        ("[[runs]]\n[[comparisons]]\nruns = '*'\n", "[[comparisons]] lacks 'baseline'"),
        (
            "[[runs]]\n[[scenarios]]\nname = 'x'\nruns = '*'\nequal = 'time'\n",
            "expected one of steps, synchronisations",
        ),
        ('report = ["acuracy"]\n[[runs]]\n', "report is"),
        ("[[runs]\n", "cannot be read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(write(tmp_path, text))
    assert said in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'fedavg-mnist'"):
        find("fedavg-mnits")
    with pytest.raises(SettingsError, match="does not exist"):
        find(str(tmp_path / "none.toml"))


def test_only_takes_patterns_and_parts_of_names(tmp_path: Path) -> None:
    experiment = read(write(tmp_path, '[[runs]]\npolicy = ["best", "merge"]\nsites = [2, 3]\n'))
    assert [run.slug for run in matching(experiment, "merge").runs] == ["merge-sites2-seed1", "merge-sites3-seed1"]
    assert [run.slug for run in matching(experiment, "*sites2*").runs] == ["best-sites2-seed1", "merge-sites2-seed1"]
    with pytest.raises(SettingsError, match="no run of mine matches 'fedavg'"):
        matching(experiment, "fedavg")


@pytest.mark.parametrize("name", sorted(shipped()))
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_experiments_can_be_read(name: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own.VARIABLE, str(SHIPPED / "networks"))  # as `scripts/experiment` does
    experiment = read(shipped()[name], quick=quick)
    assert experiment.name == name
    groups = {group_name(run.slug) for run in experiment.runs}
    if not quick:
        patterns = [one.runs for one in experiment.scenarios] + [one.runs for one in experiment.plots]
        patterns += [figure.ours for figure in experiment.figures]
        patterns += [one for each in experiment.comparisons for one in (each.runs, each.baseline)]
        for pattern in patterns:
            assert any(fnmatchcase(group, pattern) for group in groups), f"nothing matches {pattern}"


@pytest.mark.parametrize(
    "text",
    [
        "sign-flip:4",
        "noise:0.5,sites=2",
        "nan",
        "label-flip,sites=3",
        "perturb:0.1",
        "alie",
        "alie:1.5,sites=2",
        "ipm:0.5",
        "backdoor:0",
        "backdoor:7,share=0.25,boost=5,sites=2",
    ],
)
def test_attacks_are_written_as_they_are_read(text: str) -> None:
    assert read_attack(text).text == text


def test_what_only_a_backdoor_has_leaves_the_digests_of_older_runs_as_they_were(tmp_path: Path) -> None:
    text = "[[runs]]\nsites = 5\nattack = ['nan', 'alie,sites=2', 'backdoor:3', 'backdoor:3,boost=5']\n"
    found = [run.settings()["attack"] for run in read(write(tmp_path, text)).runs]
    assert found[0] == {"kind": "nan", "value": 0.0, "sites": 1}
    assert found[1] == {"kind": "alie", "value": pytest.approx(0.4307, abs=1e-4), "sites": 2}
    assert found[2:] == [
        {"kind": "backdoor", "value": 3.0, "sites": 1}, {"kind": "backdoor", "value": 3.0, "sites": 1, "boost": 5.0},
    ]  # fmt: skip


def test_attacks_have_defaults() -> None:
    assert read_attack("sign-flip") == Attack("sign-flip", 4.0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "sing-flip",
        "nan:3",
        "noise:x",
        "noise:inf",
        "noise,site=1",
        "noise,sites=0",
        "",
        "backdoor",
        "backdoor:0.5",
        "backdoor:0,share=0",
        "backdoor:0,share=2",
        "backdoor:0,boost=0.5",
        "noise:1,boost=2",
        "alie:-1",
    ],
)
def test_attacks_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="attack"):
        read_attack(text)


def test_the_documented_example_can_be_read(tmp_path: Path, root: Path) -> None:
    text = (root / "docs/how-to/experiments.md").read_text()
    example = text.split("```toml\n")[-1].partition("```")[0]
    path = tmp_path / "mine.toml"
    path.write_text(example)
    assert len(read(path).runs) == 12
    assert all(run.data["train"] == 200 for run in read(path, quick=True).runs)
