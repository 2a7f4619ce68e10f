"""Experiments as small TOML files: the runs that they ask for, and what is to be made of the results.

    name, question, engine, seeds, conclusion (or in NAME.md beside NAME.toml)
    [federation] [data] [plan]   what all runs have in common, see `settings`
    [[runs]]                     any of their settings; lists are multiplied out, so two lists of 3 make 9 runs
    report                       metrics of the test split that are shown first  ["accuracy"]
    baseline                     a pattern: every other run is compared with it, paired by seed
    reaches                      scores: a table says what a site computed and sent until each was reached
    [[comparisons]]              the same for some runs: runs and baseline, patterns; name, metric, equal
    [choice]                     which runs are candidates, of which one is chosen by the holdout, see `choice`
    [published]                  `source`, and `figures`: what, published, and where ours stands, see `shown`
    [[scenarios]]                name and runs, a pattern: a column of the experiment's table of policies and scenarios;
                                 centralised training on the same data belongs to it anyway. `equal`: what these runs
                                 have equally much of, steps or synchronisations; it is an error if they have not
    [[plots]]                    title, runs and x
    [quick]                      settings and seeds of the reduced version; `only`, patterns of the runs that it has

A run's name is made of its table's `label`, of the settings there that have a list of values or tell what they are,
then of its fold and its seed. Patterns are those of a shell, for names without fold and seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from experiments.definition import settings
from experiments.definition.attack import read_attack, settled
from experiments.definition.choice import Choice, read_choice
from experiments.definition.config import Run
from experiments.definition.control import check_control
from experiments.definition.settings import TELLING
from experiments.definition.shown import (
    Comparison,
    Figure,
    Plot,
    Scenario,
    read_comparison,
    read_plot,
    read_published,
    read_scenario,
)
from fedssh.errors import SettingsError
from fedssh.forms import nearest
from fedssh.rules.policies import read_policy
from fedssh.rules.terms import (
    LATER,
    check_calibrate,
    check_local,
    check_momentum,
    check_private,
    check_weight_decay,
    gate_of,
    later_than,
    publish_of,
)

SHIPPED = Path(__file__).resolve().parents[1]
MOST_RUNS = 2000


@dataclass(frozen=True)
class Experiment:
    """A question, and the runs that answer it.

    Attributes:
        name: Fit for a folder.
        question: In one sentence.
        engine: memory or ssh.
        runs: In order of the file; all seeds of a setting follow each other.
        conclusion: What to make of the results; written after they were there, so it may be empty.
        source: Where the published figures are from.
        quick: Whether this is the reduced version.
        reaches: Scores of the first metric that a table asks for, see `results.sited`.
        report: Metrics that are shown first; empty is accuracy, or what the runs are decided by.
        choice: How some of the runs are chosen; `trials` are the candidates with its seeds.
    """

    name: str
    question: str
    engine: str
    runs: tuple[Run, ...]
    conclusion: str = ""
    source: str = ""
    figures: tuple[Figure, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    plots: tuple[Plot, ...] = ()
    quick: bool = False
    report: tuple[str, ...] = ()
    reaches: tuple[float, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    choice: Choice | None = None
    trials: tuple[Run, ...] = ()


def shipped() -> dict[str, Path]:
    """The experiments that come with the project, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find(name: str) -> Path:
    """The file of an experiment: a path, or the name of one that is shipped.

    Raises:
        SettingsError: There is none.
    """
    known = shipped()
    if name in known:
        return known[name]
    if name.endswith(".toml") or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise SettingsError(f"{name} does not exist", "give a file, or a name from scripts/experiment --list")
    raise SettingsError(f"no experiment is called {name!r}{nearest(name, known)}")


def read(path: Path, seeds: Sequence[int] = (), engine: str | None = None, quick: bool = False) -> Experiment:
    """Read an experiment.

    Args:
        path: A TOML file.
        seeds: Instead of the file's.
        engine: Instead of the file's.
        quick: The reduced version.

    Raises:
        SettingsError: It cannot be read, or says something that makes no sense; the message names file and key.
    """
    try:
        fields = tomllib.loads(path.read_text())
        written = path.with_suffix(".md")  # a conclusion of several sentences reads better as a page of its own
        if written.is_file():
            fields = {"conclusion": written.read_text().strip(), **fields}
        return _experiment(fields, path.stem, tuple(seeds), engine, quick)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise SettingsError(
            f"{path.name}: {error}", "experiments/definition/settings.py lists what may be said"
        ) from None


def matching(experiment: Experiment, pattern: str) -> Experiment:
    """The experiment with only those runs, trials too, whose whole name matches a pattern, or contains the text.

    Raises:
        SettingsError: None does.
    """
    wanted = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    runs = tuple(run for run in (*experiment.trials, *experiment.runs) if fnmatchcase(run.slug, wanted))
    if not runs:
        raise SettingsError(f"no run of {experiment.name} matches {pattern!r}", f"one is {experiment.runs[0].slug}")
    return dataclasses.replace(experiment, runs=runs)


def _experiment(
    fields: Mapping[str, Any], stem: str, seeds: tuple[int, ...], engine: str | None, quick: bool
) -> Experiment:
    parts = ("published", "runs", "scenarios", "comparisons", "choice", "plots", "quick")
    settings.require_known(fields, (*settings.TOP, *settings.SECTIONS, *parts), "")
    top = {key: settings.checked(key, fields[key], check, "") for key, check in settings.TOP.items() if key in fields}
    for key in ("question", "runs"):
        if not fields.get(key):
            raise ValueError(f"{key!r} is missing")
    changes = _changes(fields.get("quick", {}))
    seeds = seeds or (quick and changes.get("seeds")) or top.get("seeds", (1,))
    name = top.get("name", stem)
    tables = settings.tables_of(fields["runs"], "[[runs]]")
    source, figures = read_published(fields.get("published", {}))
    reduced = {key: value for key, value in changes.items() if key in settings.SETTINGS} if quick else {}
    only = changes["only"] if quick and "only" in changes else ("*",)

    def every(seeds: Sequence[int]) -> tuple[Run, ...]:
        runs = _all_runs(name, tables, _common(fields), reduced, seeds)
        return tuple(run for run in runs if any(fnmatchcase(group_name(run.slug), one) for one in only))

    runs = every(seeds)
    if not runs:
        raise ValueError(f"no run is any of the [quick] only {', '.join(only)}")
    choice = read_choice(settings.table_of(fields["choice"], "[choice]")) if "choice" in fields else None
    if choice and quick:
        choice = dataclasses.replace(choice, seeds=choice.seeds[:1])
    comparisons = [read_comparison(one) for one in settings.tables_of(fields.get("comparisons", []), "[[comparisons]]")]
    if "baseline" in top:
        comparisons.insert(0, Comparison("*", top["baseline"]))
    if not quick:
        _require_some(runs, comparisons)
    return Experiment(
        name=name,
        question=top["question"],
        engine=engine or top.get("engine", "memory"),
        runs=runs,
        conclusion=top.get("conclusion", ""),
        source=source,
        figures=figures,
        scenarios=tuple(read_scenario(one) for one in settings.tables_of(fields.get("scenarios", []), "[[scenarios]]")),
        plots=tuple(read_plot(one) for one in settings.tables_of(fields.get("plots", []), "[[plots]]")),
        quick=quick,
        report=top.get("report", ()),
        reaches=top.get("reaches", ()),
        comparisons=tuple(comparisons),
        choice=choice,
        trials=_trials(choice, runs, every) if choice else (),
    )


# the runs


def _common(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of [federation], [data] and [plan], each in its own section."""
    found: dict[str, Any] = {}
    for section, known in settings.SECTIONS.items():
        where = f"[{section}]"
        table = _without_aliases(settings.table_of(fields.get(section, {}), where))
        checks = {key: check for key, (check, _) in known.items()}
        found |= settings.all_of(table, checks, (), where)
    return found


def _changes(table: Any) -> dict[str, Any]:
    """The settings of [quick], its seeds, and which runs it is."""
    return _settings(
        settings.table_of(table, "[quick]"), "[quick]", {"seeds": settings.TOP["seeds"], "only": settings.patterns}
    )


def _settings(table: Mapping[str, Any], where: str, others: Mapping[str, settings.Check]) -> dict[str, Any]:
    """Settings of any section, or lists of their values; and `others` as they are."""
    table = _without_aliases(table)
    settings.require_known(table, (*settings.SETTINGS, *others), where)
    result: dict[str, Any] = {}
    for key, value in table.items():
        check = others[key] if key in others else settings.SETTINGS[key][0]
        if isinstance(value, list) and key not in others:
            if not value:
                raise ValueError(f"{where} {key} is an empty list")
            result[key] = [settings.checked(key, one, check, where) for one in value]
        else:
            result[key] = settings.checked(key, value, check, where)
    return result


def _without_aliases(table: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in table.items():
        name = settings.ALIASES.get(key, key)
        if name in result:
            raise ValueError(f"{key} and {name} are the same setting; give one of them")
        result[name] = value
    return result


def _all_runs(
    name: str,
    tables: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any],
    changes: Mapping[str, Any],
    seeds: Sequence[int],
) -> tuple[Run, ...]:
    """Every choice of every table, with every seed; a choice that stands in two tables is made once."""
    defaults = {key: default for key, (_, default) in settings.SETTINGS.items()}
    runs: dict[str, Run] = {}
    for table in tables:
        own = _settings(table, "[[runs]]", {"label": settings.text})
        label = own.pop("label", "")
        varied = {key for key, value in own.items() if isinstance(value, list)}
        values = {**defaults, **common, **{key: _first(value) for key, value in changes.items()}}
        for chosen in _product(_reduced(own, changes)):
            for seed in seeds:
                slug = _slug(label, {key: chosen[key] for key in chosen if key in varied or key in TELLING}, seed)
                run = _run(name, slug, seed, {**values, **chosen})
                if slug in runs and runs[slug].settings() != run.settings():
                    raise ValueError(f"two different runs would be called {slug}; give one of them a label")
                runs[slug] = run
    if len(runs) > MOST_RUNS:
        raise ValueError(f"these are {len(runs):,} runs, at most {MOST_RUNS:,} are allowed")
    return tuple(runs.values())


def _reduced(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A [[runs]] table in the reduced version: of a list what [quick] lists too, or else what [quick] says."""
    result = dict(own)
    for key in own.keys() & changes.keys():
        given, wanted = (value if isinstance(value, list) else [value] for value in (own[key], changes[key]))
        result[key] = [value for value in given if value in wanted] or wanted
    return result


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _trials(choice: Choice, runs: Sequence[Run], every: Callable[[Sequence[int]], tuple[Run, ...]]) -> tuple[Run, ...]:
    """The candidates with the seeds of the choice."""
    if shared := {run.seed for run in runs} & set(choice.seeds):
        raise ValueError(f"[choice] seeds {sorted(shared)} are the experiment's, too: what chose cannot confirm")
    federated = [group_name(run.slug) for run in runs if run.schedule != "centralised"]
    found = choice.candidates(list(dict.fromkeys(federated)))
    wanted = {label for labels in found.values() for label in labels}
    if lacking := [pattern for pattern, labels in found.items() if not labels]:
        raise ValueError(f"[choice] runs: no candidate matches {lacking[0]!r}")
    return tuple(run for run in every(choice.seeds) if group_name(run.slug) in wanted)


def _require_some(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> None:
    """Raise ValueError for a comparison of no run, or with none."""
    labels = {group_name(run.slug) for run in runs}
    for comparison in comparisons:
        for pattern in (comparison.runs, comparison.baseline):
            if not any(fnmatchcase(label, pattern) for label in labels):
                raise ValueError(f"[[comparisons]]: no run matches {pattern!r}")


def _product(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every choice of one value per key; the first key changes slowest."""
    values = [value if isinstance(value, list) else [value] for value in table.values()]
    for chosen in itertools.product(*values):
        yield dict(zip(table, chosen, strict=True))


def _run(name: str, slug: str, seed: int, values: dict[str, Any]) -> Run:
    if values["schedule"] == "centralised":  # so that the same training is one run, whatever it stands beside
        values |= {"sites": 1, "policy": "best", "partition": "iid", "straggler": 1.0, "attack": "none"}
        values |= {"local": "none", "control": "none", "privacy": None}
    policy = read_policy(values["policy"])
    attack = read_attack(values["attack"]) if values["attack"] != "none" else None
    schedule = values["schedule"] or ("rounds" if policy.rounds else "free")
    if policy.rounds != (schedule == "rounds"):
        raise ValueError(f"{slug}: the policy {policy.name} does not go with the schedule {schedule}")
    if attack and attack.sites > values["sites"]:
        raise ValueError(f"{slug}: {attack.sites} of {values['sites']} sites cannot attack")
    try:
        attack = settled(attack, values["sites"]) if attack else None
    except ValueError as error:
        raise ValueError(f"{slug}: {error}") from None
    if values["folds"] and not 1 <= values["fold"] <= values["folds"]:
        raise ValueError(f"{slug}: fold is {values['fold']}, expected 1..{values['folds']}")
    try:
        publish = publish_of(values["publish"], policy)
        check_momentum(values["momentum"], values["optimizer"])
        check_weight_decay(values["weight_decay"], values["optimizer"])
        check_local(values["local"], policy)
        check_calibrate(values["calibrate"], values["class_weights"])
        check_private(values, policy)
        check_control(values, policy)
        if gate_of(values["gate"], values["margin"]).paired and values["metric"] != "accuracy":
            raise ValueError(f"the gate {values['gate']} is for accuracy, not for {values['metric']}")
        if values["evidence"] == "on" and not policy.rounds:
            raise ValueError(f"evidence is about rounds, and {policy.name} has none")
    except ValueError as error:
        raise ValueError(f"{slug}: {error}") from None
    plan = {key: values[key] for key in settings.PLAN if key not in LATER}
    plan |= {**later_than(values), "publish": publish}  # where nothing of it is asked for, a run is what it ever was
    as_they_are = ("architecture", "sites", "gate", "margin", "metric", "sessions", "validation", "straggler")
    return Run(
        experiment=name,
        slug=slug,
        seed=seed,
        schedule=schedule,
        policy=policy.text,
        plan={**plan, "loss": "auto", "metric": values["metric"]},
        attack=attack,
        score_sites=values["score_sites"],
        evidence=values["evidence"],
        control=values["control"],
        membership=values["membership"],
        data={key: values[key] for key in settings.DATA if values[key] != settings.AS_EVER.get(key)},
        **{key: values[key] for key in as_they_are},
    )


def group_name(slug: str) -> str:
    """A run's name without fold and seed: what it has in common with its repetitions."""
    return re.sub(r"(-fold\d+)?-seed\d+$", "", slug)


def _slug(label: str, chosen: Mapping[str, Any], seed: int) -> str:
    last = [f"fold{chosen['fold']}"] if chosen.get("fold") else []
    words = [label, *(_word(key, value) for key, value in chosen.items() if key != "fold"), *last, f"seed{seed}"]
    text = "-".join(word for word in words if word)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.replace("=", "")).strip("-.")


def _word(key: str, value: Any) -> str:
    """A setting in a run's name."""
    if value is False or value == "":
        return ""
    if key == "architecture":
        own = (f"{name}{number}" for name, number in value.items() if name != "name")
        return "-".join([value["name"], *own])
    if key in TELLING:
        return str(value)
    if value is True:
        return key
    return f"{key}-{value}" if isinstance(value, str) else f"{key}{value:g}"
