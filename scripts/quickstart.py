"""Train one model across several sites on this machine: keys, data, coordinator, sites, and the history at the end.

Standard library only, because it runs before anything is installed. Every agent is a process of its own, started by
the same commands that a real site or coordinator uses; what passes between them passes over SSH on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

import environment

sys.path.append(str(environment.ROOT))  # policies are read before anything is installed
import terms
from processes import Agent, AgentFailed, Event, stop_all, undisturbed
from progress import Screen

SCRIPTS = environment.ROOT / "scripts"
FIXED = ("sites", "dataset", "partition", "schedule", "seed", "policy", "gate")
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
    add("--gate", choices=["on", "off", "ladder"], help=f"whether a release must hold on the holdout  [{terms.GATE}]")
    usual = f"[{terms.SESSIONS}; {terms.ROUNDS} rounds]"
    add("--sessions", type=_at_least_one, metavar="N", help=f"sessions per site, or rounds, in this run  {usual}")
    usual = f"[{terms.EPOCHS}; {terms.ROUND_EPOCHS} in rounds]"
    add("--epochs", type=_at_least_one, metavar="N", help=f"epochs per session, at most; of each round  {usual}")
    add("--schedule", choices=["free", "relay"], default="free", help="all sites at once, or in turn  [free]")
    add("--seed", type=int, default=1, metavar="N", help="for partitions and training  [1]")
    folder = environment.ROOT / "state"
    add("--state", type=Path, default=folder, metavar="DIR", help="keys, data, history, logs  [./state]")
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
    options = parse(arguments)
    options.state = options.state.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        environment.ensure("all")
        os.umask(0o077)  # what it makes is its user's alone: images, models, keys, logs
        return Run(options).all()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone, as in `scripts/quickstart | head`
        return 1
    except Interrupted:
        print(f"\nstopped; `scripts/quickstart --state {_near(options.state)}` goes on from here", file=sys.stderr)
        return 130
    except (AgentFailed, RunError, environment.InstallError) as error:
        print(f"quickstart: error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"quickstart: error: {Path(str(error.cmd[0])).name} ended with code {error.returncode}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


class Run:
    """One demonstration in a state folder, from whatever is there already.

    quickstart.json     what cannot change between runs, and the port
    coordinator/        Charity's and the door's folders       holdout.npz   Charity's data
    sites/NAME/         data/site.npz and invitation.json, exchange/, bob/, alice/
    keys/               the auditor's key, for looking at it by hand
    logs/               every line of every agent
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.state: Path = options.state
        self.coordinator = self.state / "coordinator"
        self.logs = self.state / "logs"
        self._holdout = self.state / "holdout.npz"
        self.names = [f"alice-{number}" for number in range(1, options.sites + 1)]
        self.events: queue.Queue[Event] = queue.Queue()
        self.screen = Screen(self.names)
        self.agents: list[Agent] = []

    def all(self) -> int:
        options = self.options
        if (self.state / "quickstart.json").exists():
            _make_private(self.state)
        self.logs.mkdir(parents=True, exist_ok=True)
        port = self._remember()
        try:
            self._setup(port)
            self._start(port)
            self._watch()
            self._stop_sites()
            self._report(port)
            if options.keep_running:
                self.screen.say("the door stays open; Ctrl-C ends it")
                with contextlib.suppress(Interrupted):
                    self._serve_on()
        finally:
            with undisturbed(Interrupted):
                stop_all(self.agents)
        return 0

    # the steps

    def _remember(self) -> int:
        """Keep what the state was made with, refuse to mix, and return the port.

        Until the data is divided nothing was made: a misspelt data set can be given anew.
        """
        path = self.state / "quickstart.json"
        wanted = {name: getattr(self.options, name) for name in FIXED}
        if self._holdout.with_suffix(".json").exists() and path.exists():
            known = json.loads(path.read_text())
            for name in FIXED:
                if known.get(name, BEFORE.get(name)) != wanted[name]:
                    raise RunError(
                        f"{_near(self.state)} was made with --{name} {known.get(name, BEFORE.get(name))}, not "
                        f"{wanted[name]}; "
                        "give the same, or another --state"
                    )
            return int(known["port"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**wanted, "port": port}, indent=2) + "\n")
        part.replace(path)
        return port

    def _setup(self, port: int) -> None:
        options = self.options
        words = [
            f"--sites={options.sites}",
            f"--data-dir={options.data_dir}",
            f"--dataset={options.dataset}",
            f"--partition={options.partition}",
            f"--policy={options.policy}",
            f"--gate={options.gate}",
            f"--sessions={options.sessions}",
            f"--epochs={options.epochs}",
            f"--schedule={options.schedule}",
            f"--seed={options.seed}",
            f"--coordinator={self.coordinator}",
            f"--holdout={self._holdout}",
            f"--sites-folder={self.state / 'sites'}",
            f"--keys={self.state / 'keys'}",
            f"--address=charity@127.0.0.1:{port}",
            "--reopen",
        ]
        agent = self._run("setup", None, [str(environment.BIN / "python"), str(SCRIPTS / "setup"), *words])
        while agent.code() is None:
            self._show(0.1)
        agent.check()
        self._show(0)
        self.agents.remove(agent)

    def _start(self, port: int) -> None:
        options = self.options
        state = f"--state={self.coordinator}"
        self._run("charity", None, ["charity", "serve", state])
        self._run("door", None, ["charity", "door", "--embedded", state, f"--listen=127.0.0.1:{port}"])
        for number, name in enumerate(self.names):
            folder = self.state / "sites" / name
            exchange = f"--exchange={folder / 'exchange'}"
            self._run("bob", name, ["bob", "watch", f"--state={folder / 'bob'}", exchange])
            self._run("alice", name, [
                "alice", "train", f"--state={folder / 'alice'}", exchange, f"--data={folder / 'data' / 'site.npz'}",
                f"--invitation={folder / 'data' / 'invitation.json'}", f"--epochs={options.epochs}",
                f"--seed={options.seed + number}",
            ])  # fmt: skip

    def _run(self, name: str, site: str | None, command: list[str]) -> Agent:
        """Start one agent; its first word is a program of the environment."""
        if not command[0].startswith("/"):
            command = [str(environment.BIN / command[0]), "--log-format=json", *command[1:]]
        # One thread each: four processes with Keras on few cores only get in each other's way. A person's own
        # ALICE_…, BOB_… and CHARITY_… variables belong to other folders than these.
        theirs = ("ALICE_", "BOB_", "CHARITY_")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
        environ |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        environ["PYTHONUNBUFFERED"] = "1"
        log = self.logs / f"{site or 'coordinator'}-{name}.log"
        with undisturbed(Interrupted):
            agent = Agent(name, site, command, environ, log, self.events)
            self.agents.append(agent)
        return agent

    def _watch(self) -> None:
        """Show what happens until every Alice is done and everything that was shipped is judged."""
        trainers = [agent for agent in self.agents if agent.name == "alice"]
        while any(agent.code() is None for agent in trainers) or self._on_the_way():
            self._show(0.2)
            self._check()
        self._show(0)

    def _on_the_way(self) -> bool:
        """Whether something waits in a site's exchange or spool, or at the coordinator's."""
        sites = ("sites/*/exchange/outgoing/*.json", "sites/*/bob/spool/*.bundle")
        coordinators = ("coordinator/inbox/*/*.bundle", "coordinator/vault/claimed/*/*.bundle")
        return any(next(self.state.glob(pattern), None) for pattern in (*sites, *coordinators))

    def _show(self, seconds: float) -> None:
        """Print every event there is, waiting at most so long for the first."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self.events.get(timeout=seconds) if seconds else self.events.get_nowait()
                self.screen.show(event)
                seconds = 0

    def _stop_sites(self) -> None:
        sites = [agent for agent in self.agents if agent.site]
        with undisturbed(Interrupted):
            stop_all(sites)
        self.agents = [agent for agent in self.agents if not agent.site]

    def _serve_on(self) -> None:
        while True:
            self._show(0.5)
            self._check()

    def _check(self) -> None:
        """Raise when an agent ended with an error."""
        for agent in self.agents:
            agent.check()

    def _report(self, port: int) -> None:
        state = f"--state={self.coordinator}"
        charity = [str(environment.BIN / "charity")]
        print("\n== history", flush=True)
        subprocess.run([*charity, "history", state], check=True)
        print("\n== best model", flush=True)
        subprocess.run([*charity, "best", state], check=True)
        print("\n== on the test split, which nobody trained or selected on", flush=True)
        subprocess.run([*charity, "score", state, "--split=test"], check=True)
        print("\n== verified", flush=True)
        subprocess.run([*charity, "verify", state], check=True)
        print("\n== check it by hand")
        keys, programs = _near(self.state / "keys"), _near(environment.BIN)
        print(f"  {programs}/charity verify --state {_near(self.coordinator)}")
        outbox, near = self.coordinator / "outbox", _near(self.state)
        release = max((outbox / "releases").glob("*.bundle"))
        print(
            f"  tar xf {_near(release)} -C {near} manifest.json manifest.json.sig && "
            f"ssh-keygen -Y verify -f {_near(outbox)}/allowed_signers -I charity -n release@fedssh "
            f"-s {near}/manifest.json.sig < {near}/manifest.json"
        )
        ssh = f"ssh -p {port} -i {keys}/auditor -o UserKnownHostsFile={keys}/known_hosts charity@127.0.0.1 history"
        print(f"  {ssh}{'' if self.options.keep_running else '   # with --keep-running'}", flush=True)


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
    sys.exit(main(sys.argv[1:]))
