"""The command behind `scripts/experiment`."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from experiments import machine
from experiments.definition.config import ENGINES
from experiments.definition.read import Experiment, find, matching, read, shipped
from fedssh.errors import AgentError, SettingsError
from fedssh.models import own

if TYPE_CHECKING:
    from experiments.results.file import Result

EXAMPLES = """\
examples:
  scripts/experiment --list
  scripts/experiment fedavg-mnist                  again: goes on where the last one ended
  scripts/experiment thesis-nodes --only 'merge*' --seed 7 --out /tmp/merge
  scripts/experiment mine.toml --quick             the reduced version, in seconds
  scripts/experiment pride --help                  sums that nobody sees alone: an experiment with its own options
  scripts/experiment --report results/*            write their pages, docs/explanation/results/NAME.md
"""

_ONE_MACHINE = ("--out", "--data-dir", "--jobs", "--only")


# Experiments that are no federations of our own rooms: a module each, with options of its own.
OWN = {"pride": "experiments.pride.rounds"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/experiment",
        description="Run a named experiment on this machine, and say which policy is worth using when.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("experiment", nargs="?", metavar="NAME|FILE.toml", help="which one")
    add("--list", action="store_true", help="show the experiments that come with the project")
    add(
        "--report",
        nargs="+",
        type=Path,
        metavar="OUT",
        help="write the pages of finished experiments, or of NAME.json.gz",
    )
    add("--out", type=Path, metavar="DIR", help="results, report and plots  [results/NAME]")
    add("--engine", choices=ENGINES, help="without processes and SSH, or the real agents  [the experiment's]")
    data = Path(os.environ.get("FEDSSH_DATA", machine.ROOT / "data"))
    add("--data-dir", type=Path, default=data, metavar="DIR", help="where data sets are  [$FEDSSH_DATA or ./data]")
    add("--seed", type=_seed, nargs="+", default=[], metavar="N", help="one run of each kind per seed  [experiment's]")
    add("--only", metavar="PATTERN", help="only runs whose name contains this, or matches it as a shell pattern")
    add("--jobs", type=_at_least_one, metavar="N", help="runs at once  [one per core; 1 with --engine ssh]")
    add("--quick", action="store_true", help="the reduced version")
    add("--dry-run", action="store_true", help="show the runs and whether they are finished, and do none")
    add("--docs", type=Path, default=machine.ROOT / "docs" / "explanation", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if sum((options.experiment is not None, options.list, options.report is not None)) != 1:
        parser.error("give one of NAME, --list and --report")
    return options


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    own_one = arguments[0] in OWN if arguments else False
    options = None if own_one else parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    own.use(machine.ROOT / "experiments" / "networks")
    try:
        if options is None:
            code: int = importlib.import_module(OWN[arguments[0]]).main(arguments[1:])
            return code
        if options.list:
            return show_list()
        if options.report:
            return report(options.report, options.docs)
        return perform(options, arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone, as in `scripts/experiment --list | head`
        return 1
    except KeyboardInterrupt:
        print("\nstopped; finished runs are kept, the same command goes on from here", file=sys.stderr)
        return 130
    except AgentError as error:
        return _complain(error, error.exit_code)
    except OSError as error:
        return _complain(error, 1)


def show_list() -> int:
    """Name, runs and question of every experiment that is shipped."""
    for name, path in shipped().items():
        experiment = read(path)
        print(f"{name:<18} {len(experiment.trials) + len(experiment.runs):>4} runs   {experiment.question}")
    for name, module in OWN.items():
        print(f"{name:<18}    a command of its own: scripts/experiment {name} --help ({module})")
    return 0


def report(paths: Sequence[Path], docs: Path) -> int:
    """Write the pages of some experiments, and the index of all pages."""
    from experiments.results.file import load
    from experiments.results.report import near, write_pages

    every = [load(path) for path in paths]
    names = [one.experiment.name for one in every]
    if len(set(names)) < len(names):
        raise SettingsError(f"two of these hold the same experiment: {', '.join(sorted(names))}")
    for path in write_pages(every, docs):
        print(near(path))
    return 0


def perform(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Do an experiment's runs, and write what came out."""
    file = find(options.experiment)
    experiment = read(file, options.seed, options.engine, options.quick)
    out = (options.out or _usual_folder(experiment)).resolve()
    failed = asked = 0
    for stage in _stages(experiment, out, options.only):
        if options.dry_run:
            _show_runs(stage, out)
        elif not failed:
            failed, asked = _run(stage, out, options), len(stage.runs)
    if options.dry_run:
        return 0
    _write(experiment, file, out, f"scripts/experiment {shlex.join(_plain(arguments))}")
    if failed:
        return _complain(f"{failed} of {asked} runs failed", 1)
    return 0


def _stages(experiment: Experiment, out: Path, only: str | None) -> Iterator[Experiment]:
    """What is to be done one after the other: where something is chosen, the candidates, then what is to confirm it."""
    if only:
        yield matching(experiment, only)
    elif experiment.choice is None:
        yield experiment
    else:
        from experiments.results.choosing import confirming

        yield dataclasses.replace(experiment, runs=experiment.trials)
        yield dataclasses.replace(experiment, runs=confirming(experiment, _finished(experiment, out)))


def _finished(experiment: Experiment, out: Path) -> list[Result]:
    from experiments.run import finished

    every = (*experiment.trials, *experiment.runs)
    return [one for run in every if (one := finished(out, run, experiment.engine))]


def _run(experiment: Experiment, out: Path, options: argparse.Namespace) -> int:
    from experiments.progress import Screen
    from experiments.run import run_all

    cores = machine.cores()
    jobs = options.jobs or (1 if experiment.engine == "ssh" else cores)
    jobs = min(jobs, len(experiment.runs))
    print(f"{experiment.name}: {len(experiment.runs)} runs, {jobs} at once, into {out}", flush=True)
    if options.out is None:
        _keep_out_of_git(out.parent)
    with Screen(len(experiment.runs)) as screen:
        return len(run_all(experiment, out, options.data_dir.resolve(), jobs, max(1, cores // jobs), screen))


def _write(experiment: Experiment, file: Path, out: Path, command: str) -> None:
    """Results, plots and report of everything that is finished, also by earlier commands."""
    from experiments.results.file import load, save
    from experiments.results.report import near, write_report

    results = _finished(experiment, out)
    if not results:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    save(out, experiment, file, results, command, now)
    print(near(write_report(out, load(out))))


def _show_runs(experiment: Experiment, out: Path) -> None:
    from experiments.run import finished

    for run in experiment.runs:
        done = finished(out, run, experiment.engine) is not None
        print(f"{'finished' if done else 'to do':<10}{run.slug}")


def _usual_folder(experiment: Experiment) -> Path:
    return machine.ROOT / "results" / (experiment.name + "-quick" * experiment.quick)


def _keep_out_of_git(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")


def _plain(arguments: Sequence[str]) -> list[str]:
    """The command line that makes all of the results anywhere: without folders, the number of jobs and `--only`."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word.partition("=")[0] not in _ONE_MACHINE:
            kept.append(word)
        skip = not skip and word in _ONE_MACHINE
    return kept


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(error: object, code: int) -> int:
    print(f"experiment: error: {error}", file=sys.stderr)
    if hint := getattr(error, "hint", None):
        print(f"experiment: hint: {hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
