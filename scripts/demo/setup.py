"""Prepare a demonstration: data partitions, keys, a coordinator and its sites, with the agents' own commands.

Does only what is missing, so it can be run again after it was interrupted, and once more before every later run.
Used by `scripts/quickstart` and by the service `setup` of docker-compose.yml. On real machines every site does its
own part: docs/how-to/invite.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from fedssh.charity.judge.own_images import TABLES
from fedssh.models import TABLE
from fedssh.models.data import datasets, images, partition, published
from fedssh.models.tasks import CLASSES
from fedssh.rules.policies import read_policy
from fedssh.rules.vocabulary import GATES
from scripts import terms
from scripts.demo.enrolment import enrol_auditor, enrol_site, name_peers

GENESIS_SHARE = 0.1  # of the training images: what the coordinator trains the first model on


def main() -> int:
    """Do what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepare a demonstration on this machine.")
    add = parser.add_argument
    add("--sites", type=int, default=3, metavar="N", help="how many sites")
    add("--dataset", default="pneumoniamnist", metavar="NAME|FILE|DIR", help="data set; a path may be in --data-dir")
    add("--data-dir", type=Path, required=True, metavar="DIR", help="where data sets are")
    add("--partition", default="iid", metavar="iid|dirichlet:ALPHA|by_patient", help="how training data is spread")
    add("--policy", metavar="POLICY", help="how models become one; empty is the default, as in what follows")
    add("--gate", metavar="|".join(GATES), help="whether a release must hold on the holdout")
    add("--sessions", type=_number, metavar="N", help="sessions per site, or rounds")
    add("--reopen", action="store_true", help="let a finished federation go on for as many sessions more")
    add("--epochs", type=_number, metavar="N", help="epochs per session, at most; or of each round")
    add("--schedule", choices=["free", "relay"], default="free", help="all sites at once, or in turn")
    add("--privacy", metavar="TERMS", help="how single images are hidden, as `charity init --privacy`; empty is not")
    add("--seed", type=int, default=1, metavar="N", help="for partitions and the first model")
    add("--coordinator", type=Path, required=True, metavar="DIR", help="the coordinator's state")
    add("--holdout", type=Path, required=True, metavar="FILE", help="the coordinator's data, .npz")
    add("--sites-folder", type=Path, required=True, metavar="DIR", help="gets NAME/data and NAME/bob")
    add("--keys", type=Path, required=True, metavar="DIR", help="gets the auditor's key and known_hosts")
    add("--address", required=True, metavar="USER@HOST:PORT", help="where sites reach the door")
    add("--known-as", default="localhost", metavar="HOST", help="where a person reaches the door")
    add("--known-port", type=int, metavar="PORT", help="and its port, if it is another one there")
    options = parser.parse_args()
    try:
        prepare(options)
    except (ValueError, OSError) as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd[:3]))
        print(f"setup: error: `{command} …` ended with code {error.returncode}", file=sys.stderr)
        return 1
    return 0


def _number(text: str) -> int | None:
    """A whole number; nothing, as from a variable that is not set, is left to the default."""
    return int(text) if text else None


def prepare(options: argparse.Namespace) -> None:
    """Everything, in the order in which it depends on each other."""
    names = [f"alice-{number}" for number in range(1, options.sites + 1)]
    asked = (options.policy, options.gate, options.schedule, options.sessions, options.epochs, options.sites)
    agreed = terms.agree(*asked)
    spec = divide(options, names)
    begin(options, spec, agreed)
    for name in names:
        if enrol_site(quietly, options.coordinator, options.sites_folder / name):
            print(f"{name} has its key and joined", flush=True)
    if read_policy(agreed.policy).masked:
        name_peers({name: options.sites_folder / name for name in names})
    places = (options.known_as, "localhost", "127.0.0.1")
    enrol_auditor(quietly, options.coordinator, options.keys, places, options.known_port)


def divide(options: argparse.Namespace, names: list[str]) -> str:
    """Write the coordinator's and every site's data, and return the network that fits it.

    A tenth of train goes to the coordinator, whole patients where they are known, the rest to the sites. Val becomes
    the holdout; test is written beside it for reporting and nobody selects on it.
    """
    spec_path = options.holdout.with_suffix(".json")
    paths = {name: options.sites_folder / name / "data" / "site.npz" for name in names}
    if spec_path.exists() and all(path.exists() for path in paths.values()):
        known: str = spec_path.read_text()
        return known
    dataset = datasets.open_or_digits(*_source(options), _Progress())
    if dataset.note:
        print(dataset.note)
    train = dataset.splits["train"]
    rest, own = images.hold_out(train.labels, GENESIS_SHARE, options.seed, train.patients)
    shared = train.take(rest)
    labels = shared.labels if shared.labels.ndim == 1 else shared.labels[:, 0]
    parts = partition.split(options.partition, labels, len(names), options.seed, shared.patients)
    options.holdout.parent.mkdir(parents=True, exist_ok=True)
    for path, part in zip(paths.values(), parts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.save(path, {"train": shared.take(part)}, dataset.class_names, dataset.columns)
    splits = {**dataset.splits, "train": train.take(own)}
    datasets.save(options.holdout, splits, dataset.class_names, dataset.columns)
    made = {
        "dataset": dataset.name,
        "sites": {name: len(part) for name, part in zip(names, parts, strict=True)},
        "holdout": len(dataset.splits["val"]),
        "test": len(dataset.splits["test"]),
    }
    options.holdout.with_name("divided.json").write_text(json.dumps(made, indent=2) + "\n")
    network = {"name": "cnn", "depth": 4} if dataset.columns is None else {**TABLES, "kind": TABLE}
    of_task = {"classes": dataset.classes} if dataset.task == CLASSES else {"task": dataset.task}
    spec = json.dumps({**network, "input": list(dataset.input), **of_task})
    spec_path.write_text(spec)  # last: it says that the rest is whole
    sizes = " + ".join(str(len(part)) for part in parts)
    unit = "images" if dataset.columns is None else "rows"
    print(
        f"{dataset.name}: {sizes} {unit} at the sites ({options.partition}); the coordinator has {len(own)} "
        f"to begin with, {len(dataset.splits['val'])} as holdout and {len(dataset.splits['test'])} for the final test"
    )
    return spec


def begin(options: argparse.Namespace, spec: str, agreed: terms.Terms) -> None:
    """Make the federation, or open it again for as many sessions or rounds more."""
    state = f"--state={options.coordinator}"
    if not (options.coordinator / "outbox" / "ledger.jsonl").exists():
        charity(
            "init", state, f"--data={options.holdout}", f"--architecture={spec}", f"--policy={agreed.policy}",
            f"--gate={agreed.gate}", f"--sessions={agreed.sessions}", f"--epochs={agreed.epochs}",
            f"--schedule={agreed.schedule}", f"--seed={options.seed}", f"--address={options.address}", "--if-needed",
            *([f"--privacy={options.privacy}"] if options.privacy else []),
        )  # fmt: skip
    status = json.loads(charity("status", state, "--json", show=False))
    if options.reopen and status["state"] == "finished":
        charity("reopen", state, f"--sessions={status['sessions'] + agreed.sessions}", "--reason=another run")


def charity(*words: str, show: bool = True) -> str:
    """Run one of the coordinator's commands and return what it printed."""
    return agent("charity", *words, show=show)


def quietly(program: str, *words: str) -> str:
    """Run an agent's command and show nothing of it."""
    return agent(program, *words, show=False)


def agent(program: str, *words: str, show: bool = True) -> str:
    """Run an agent's command, as a person would, and return what it printed."""
    command = [str(Path(sys.executable).with_name(program)), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    if show and done.stdout.strip():
        print(done.stdout.rstrip(), flush=True)
    return done.stdout


def _source(options: argparse.Namespace) -> tuple[str, Path]:
    """The data set's name or path, and the folder to find it in or to download it to."""
    folder: Path = options.data_dir
    near = folder / options.dataset
    if options.dataset in datasets.NAMES:
        source = published.SOURCES.get(options.dataset)
        there = source is not None and (folder / source.file).exists()
        # A read-only data folder cannot keep a download; the coordinator's own can.
        return options.dataset, folder if there or os.access(folder, os.W_OK) else options.holdout.parent
    return str(near if near.exists() else options.dataset), folder


class _Progress:
    """Says how far a download is, at every tenth."""

    def __init__(self) -> None:
        self._said = -1

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total if total else -1
        if tenth > self._said:
            self._said = tenth
            print(f"downloading: {done / 1e6:.1f} of {total / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
