"""Train one model across several sites on this machine: keys, data, coordinator, sites, and the history at the end.

Standard library only, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fedssh.history.report import page
from fedssh.rules.policies import read_policy
from fedssh.rules.vocabulary import GATES
from scripts import environment, terms
from scripts.demo import chart, learned
from scripts.demo.bar import Work
from scripts.demo.federation import Federation, free_port
from scripts.demo.live import Live, drawable
from scripts.demo.processes import STOPS, AgentFailed, interruptible
from scripts.demo.screen import Screen

FIXED = ("sites", "dataset", "partition", "schedule", "seed", "policy", "gate")
DIVIDED = "holdout.json"  # written by the setup when the data is divided
MADE, SUMMARY, PICTURE, PAGE = "divided.json", "summary.json", "accuracy.svg", "report.html"
BEFORE = {"policy": "best", "gate": "on"}  # what was not asked yet when an older state was made
EXAMPLES = """\
examples:
  scripts/quickstart                                     three sites, chest X-rays, about two minutes
  scripts/quickstart                                     again: goes on where the last run ended
  scripts/quickstart --state /tmp/skew --partition dirichlet:0.3 --sessions 5
  scripts/quickstart --state /tmp/best --policy best         keep the better model, no site waits for another
"""


class Interrupted(BaseException):
    """Ctrl-C or a request to stop."""


class RunError(Exception):
    """What a person has to change before it can run."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """What a person asks for; ends the process for --help and for what makes no sense."""
    parser = argparse.ArgumentParser(
        prog="scripts/quickstart",
        description="Train one model across several sites on this machine, over SSH.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("--sites", type=_at_least_one, default=3, metavar="N", help="sites that train  [3]")
    add("--dataset", default="pneumoniamnist", metavar="NAME|FILE|DIR", help="data set  [pneumoniamnist]")
    add(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("FEDSSH_DATA", environment.ROOT / "data")),
        metavar="DIR",
        help="where data sets are  [$FEDSSH_DATA or ./data]",
    )
    add("--partition", default="iid", metavar="iid|dirichlet:ALPHA", help="how training data is spread  [iid]")
    add("--policy", metavar="POLICY", help=f"how models become one: `charity policies`  [{terms.POLICY}]")
    add("--gate", choices=list(GATES), help=f"whether a release must hold on the holdout  [{terms.GATE}]")
    usual = f"[{terms.SESSIONS}; {terms.ROUNDS} rounds]"
    add("--sessions", type=_at_least_one, metavar="N", help=f"sessions per site, or rounds, in this run  {usual}")
    usual = f"[{terms.EPOCHS}; {terms.ROUND_EPOCHS} in rounds]"
    add("--epochs", type=_at_least_one, metavar="N", help=f"epochs per session, at most; of each round  {usual}")
    add("--schedule", choices=["free", "relay"], default="free", help="all sites at once, or in turn  [free]")
    add("--seed", type=int, default=1, metavar="N", help="for partitions and training  [1]")
    folder = environment.ROOT / "state"
    add("--state", type=Path, default=folder, metavar="DIR", help="keys, data, history, logs  [./state]")
    add("--plain", action="store_true", help="lines of what happens, also on a terminal, which has a live screen else")
    add("--keep-running", action="store_true", help="leave the coordinator's SSH door open until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        known = (options.policy, options.gate, options.schedule, options.sessions, options.epochs, options.sites)
        agreed = terms.agree(*known)
    except ValueError as error:
        parser.error(str(error))
    return argparse.Namespace(**vars(options) | vars(agreed))


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(arguments: list[str]) -> int:
    """Run the federation and show what came of it; returns the exit code."""
    options = parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets ? for a letter that it lacks
    options.state = options.state.resolve()
    try:
        with interruptible(Interrupted, STOPS):
            environment.ensure("all")
            os.umask(0o077)  # what it makes is its user's alone: images, models, keys, logs
            run(options)
            return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone, as in `scripts/quickstart | head`
        return 1
    except Interrupted:
        print(f"\nstopped; `scripts/quickstart --state {_near(options.state)}` goes on from here", file=sys.stderr)
        return 130
    except (AgentFailed, RunError) as error:
        print(f"quickstart: error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"quickstart: error: {Path(str(error.cmd[0])).name} ended with code {error.returncode}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> None:
    """One demonstration in a state folder, from whatever is there already.

    quickstart.json     what cannot change between runs, and the port; the rest is as in `Federation`
    summary.json        what was learned, as `learned` has it; accuracy.svg is its picture
    report.html         the history for a browser
    """
    state: Path = options.state
    if (state / "quickstart.json").exists():
        _make_private(state)
    state.mkdir(parents=True, exist_ok=True)
    names = [f"alice-{number}" for number in range(1, options.sites + 1)]
    live = None if options.plain else _live(state)
    with (
        Federation(state, _port(options), environment.BIN, Interrupted) as federation,
        Screen(names, live=live, interrupt=_interrupt) as screen,
    ):
        set_up(options, federation, screen)
        federation.serve()
        federation.open_door()
        while federation.reopening():
            _show(federation, screen, 0.2)
            federation.check()
        screen.begin(work(federation.records(), names, options.epochs))
        for number, name in enumerate(names):
            federation.start_site(name, alice=(f"--epochs={options.epochs}", f"--seed={options.seed + number}"))
        while federation.going():  # until every Alice is done and everything that was shipped is judged
            _show(federation, screen, 0.2)
        _show(federation, screen, 0)
        screen.end()
        federation.stop_sites()
        report(federation, options.keep_running)
        if options.keep_running:
            screen.say("the door stays open; Ctrl-C ends it")
            with contextlib.suppress(Interrupted):
                while True:
                    _show(federation, screen, 0.5)
                    federation.check()


def _live(state: Path) -> Live | None:
    """What draws a live screen; None where there is no terminal for it, or it cannot be installed."""
    if not drawable():
        return None
    try:
        python = environment.ensure("look") / "python"
    except environment.InstallError as error:
        print(f"quickstart: no live screen: {error}", file=sys.stderr)
        return None
    return Live(python, state / "coordinator" / "outbox" / "ledger.jsonl", state / "logs" / "quickstart.log")


def _interrupt() -> None:
    raise Interrupted


def _port(options: argparse.Namespace) -> int:
    """Keep in quickstart.json what the state was made with, refuse to mix, and return the port.

    Until the data is divided nothing was made: a misspelt data set can be given anew.
    """
    path = options.state / "quickstart.json"
    wanted = {name: getattr(options, name) for name in FIXED}
    if (options.state / DIVIDED).exists() and path.exists():
        known = json.loads(path.read_text())
        for name in FIXED:
            if (made_with := known.get(name, BEFORE.get(name))) != wanted[name]:
                raise RunError(
                    f"{_near(options.state)} was made with --{name} {made_with}, not {wanted[name]}; "
                    "give the same, or another --state"
                )
        return int(known["port"])
    port = free_port()
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**wanted, "port": port}, indent=2) + "\n")
    part.replace(path)
    return port


def set_up(options: argparse.Namespace, federation: Federation, screen: Screen) -> None:
    """Make what is missing, and let a finished federation go on."""
    asked = ("sites", "data_dir", "dataset", "partition", "policy", "gate", "sessions", "epochs", "schedule", "seed")
    words = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in asked]
    agent = federation.set_up(*words, "--reopen")
    while agent.code() is None:
        _show(federation, screen, 0.1)
    agent.check()
    _show(federation, screen, 0)
    federation.agents.remove(agent)


def _show(federation: Federation, screen: Screen, seconds: float) -> None:
    """Print every event there is, waiting at most so long for the first."""
    for event in federation.heard(seconds):
        screen.show(event)
    screen.tick()


def report(federation: Federation, keep_running: bool) -> None:
    """What came of it, how to look at it by hand, and at the end what a person wants to know."""
    state = federation.state
    charity = [str(environment.BIN / "charity")]
    print("\n== history", flush=True)
    subprocess.run([*charity, "history", state], check=True)
    print("\n== best model", flush=True)
    subprocess.run([*charity, "best", state], check=True)
    print("\n== verified", flush=True)
    subprocess.run([*charity, "verify", state], check=True)
    print("\n== check it by hand")
    keys, programs = _near(federation.folder / "keys"), _near(environment.BIN)
    print(f"  {programs}/charity verify --state {_near(federation.coordinator)}")
    outbox, near = federation.coordinator / "outbox", _near(federation.folder)
    release = max((outbox / "releases").glob("*.bundle"))
    print(
        f"  tar xf {_near(release)} -C {near} manifest.json manifest.json.sig && "
        f"ssh-keygen -Y verify -f {_near(outbox)}/allowed_signers -I charity -n release@fedssh "
        f"-s {near}/manifest.json.sig < {near}/manifest.json"
    )
    ssh = (
        f"ssh -p {federation.port} -i {keys}/auditor -o UserKnownHostsFile={keys}/known_hosts charity@127.0.0.1 history"
    )
    print(f"  {ssh}{'' if keep_running else '   # with --keep-running'}", flush=True)
    tell_learned(federation)


def tell_learned(federation: Federation) -> None:
    """What was learned on which data, how good it is, how it became so, by whom, and how it is used."""
    if read_policy(federation.records()[0]["policy"]).for_sites:
        print("\n== the whole network is at the sites: nobody else can score or use it")
        print(f"  {commands(federation)[1]}", flush=True)
        return
    test = json.loads(federation.command("charity", "score", federation.state, "--split=test", "--json"))
    value = learned.learned(federation.records(), _divided(federation.folder), test)
    points = [chart.Point(**point) for point in value["over_time"]]
    metric = value["training"]["metric"].replace("_", " ")
    picture, summary = federation.folder / PICTURE, federation.folder / SUMMARY
    _write(picture, chart.as_svg(points, metric, f"{value['data']['name'] or 'the model'}: {metric} over time"))
    _write(summary, json.dumps(value, indent=2) + "\n")
    with federation.ledger.open("rb") as ledger:
        _write(federation.folder / PAGE, b"".join(page(ledger)).decode())
    print(f"\n== what was learned\n{learned.about(value)}", end="")
    print("\n== on the test split, which nobody trained or selected on")
    print(learned.scores(value), end="")
    print(f"\n== {metric} on the holdout over time: {_near(picture)}")
    print("\n".join(chart.in_characters(points, learned.WIDTH, ascii_only=not _draws())))
    print(f"\n== what each site contributed\n{learned.contributions(value)}", end="")
    print("\n== use the model: on this data, or on your own")
    for command in commands(federation):
        print(f"  {command}")
    html = _near(federation.folder / PAGE)
    print(f"\nall of this for a browser: {html}; for programs: {_near(summary)}", flush=True)


def commands(federation: Federation) -> list[str]:
    """What uses the model, at the coordinator and at a site."""
    programs, images = _near(environment.BIN), _near(federation.holdout)
    site = next(iter(sorted(path for path in (federation.folder / "sites").iterdir())))
    return [
        f"{programs}/charity predict {images} --state {_near(federation.coordinator)} "
        f"--csv {_near(federation.folder / 'predictions.csv')}",
        f"{programs}/alice predict {images} --exchange {_near(site / 'exchange')} --state {_near(site / 'alice')}",
        f"{programs}/charity export best {_near(federation.folder / 'best.keras')} "
        f"--state {_near(federation.coordinator)}",
    ]


def work(records: list[dict[str, Any]], names: list[str], epochs: int) -> Work:
    """What the sites still have to train."""
    agreed = [one["sessions"] for one in records if one["event"] in ("genesis", "reopened")][-1]
    trained = Counter(one["site"] for one in records if one["event"] == "report")
    return Work(names, agreed, epochs, trained)


def _divided(folder: Path) -> dict[str, Any]:
    """What the setup made of the data; nothing is known of it in a folder of an earlier version."""
    path = folder / MADE
    made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return made


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _draws() -> bool:
    """Whether the output takes the letters of a picture."""
    plain = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "") in ("C", "POSIX")
    return not plain and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _make_private(state: Path) -> None:
    """Close a state folder of an earlier version to other users; what is below a closed folder is out of reach."""
    for path in (state, *state.iterdir()):
        if path.is_symlink():
            continue
        try:
            path.chmod(path.stat().st_mode & 0o700)
        except PermissionError:
            raise RunError(f"{_near(path)} belongs to another user; give another --state") from None


def _near(path: Path) -> str:
    """A path as a person would type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    environment.run("quickstart", main)
