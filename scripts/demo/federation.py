"""A federation in one folder on this machine: a coordinator, her door and the sites, every agent a process of its own.

Each is started by the commands that a real site or coordinator uses; what passes between them passes over SSH on
loopback. A folder of an earlier run is gone on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from fedssh.errors import SettingsError
from scripts.demo.enrolment import enrol_site, name_peers
from scripts.demo.processes import Agent, Event, child, stop_all, undisturbed

# A person's own variables belong to other folders than these.
THEIRS = ("ALICE_", "BOB_", "CHARITY_")
# One thread each: four processes with Keras on few cores only get in each other's way.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


class Federation:
    """A coordinator and her sites. Leaving it as a context ends all of its processes.

    coordinator/     Charity's and the door's folders       holdout.npz   Charity's data
    sites/NAME/      data/site.npz and data/invitation.json, exchange/, bob/, alice/
    keys/            the auditor's key, for looking at it by hand
    logs/            every line of every agent: NAME-alice.log, NAME-bob.log, coordinator-charity.log …

    Args:
        folder: Where it is or will be.
        port: The door's, on loopback.
        programs: The folder of the agents' commands.
        interruption: What a request to stop is raised as; it waits for steps that must be finished.
        environ: Variables that every agent gets besides the user's own.

    Attributes:
        events: What the agents say, as it comes.
        agents: All that were started and not taken away again, also those that ended by themselves.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        programs: Path,
        interruption: type[BaseException] = KeyboardInterrupt,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self.programs = programs
        self.events: queue.Queue[Event] = queue.Queue()
        self.agents: list[Agent] = []
        self._interruption = interruption
        own = {key: value for key, value in os.environ.items() if not key.startswith(THEIRS)}
        self._environ = {**own, **ONE_THREAD, "PYTHONUNBUFFERED": "1", **(environ or {})}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # where things are

    @property
    def coordinator(self) -> Path:
        """Her folder: `--state`."""
        return self.folder / "coordinator"

    @property
    def state(self) -> str:
        """The coordinator's folder, as her commands are told it."""
        return f"--state={self.coordinator}"

    @property
    def address(self) -> str:
        """Where sites reach the door."""
        return f"charity@127.0.0.1:{self.port}"

    @property
    def holdout(self) -> Path:
        """Her images: `train` and `val`."""
        return self.folder / "holdout.npz"

    @property
    def ledger(self) -> Path:
        """The history, as the door shows it."""
        return self.coordinator / "outbox" / "ledger.jsonl"

    @property
    def logs(self) -> Path:
        """What the agents say, a file for each."""
        return self.folder / "logs"

    def site(self, name: str) -> Path:
        """A site's folder: its data, and those of its agents."""
        return self.folder / "sites" / name

    def log(self, program: str, site: str | None = None) -> Path:
        """What an agent says; without a site one of the coordinator's."""
        return self.logs / f"{site or 'coordinator'}-{program}.log"

    def records(self) -> list[dict[str, Any]]:
        """The history's records, as far as they are written."""
        return [json.loads(json.loads(line)["record"]) for line in whole_lines(self.ledger)]

    # what it is made of

    def set_up(self, *words: str) -> Agent:
        """Start what makes whatever is missing of data, keys, coordinator and sites; `words` are for demo/setup.py."""
        places = [
            f"--coordinator={self.coordinator}", f"--holdout={self.holdout}", f"--sites-folder={self.folder / 'sites'}",
            f"--keys={self.folder / 'keys'}", f"--address={self.address}",
        ]  # fmt: skip
        return self._start("setup", None, "python", "-P", "-m", "scripts.demo.setup", *words, *places)

    def enrol(self, site: str) -> None:
        """Give a site its key and let it join, unless it did."""
        enrol_site(self.command, self.coordinator, self.site(site))

    def name_peers(self, sites: Sequence[str]) -> None:
        """Name each site's key to all others, as people there would."""
        name_peers({site: self.site(site) for site in sites})

    def command(self, program: str, *words: str) -> str:
        """Run an agent's command that ends by itself, and return what it printed.

        Raises:
            SettingsError: It ended with an error; the message is its own.
        """
        with child([str(self.programs / program), *words], self._environ) as process:
            out, err = process.communicate()
        if process.returncode:
            shown = " ".join((program, *words[:2]))
            raise SettingsError(f"`{shown}` ended with code {process.returncode}: {err.strip()[-500:]}")
        return out

    def serve(self, *words: str) -> Agent:
        """Start the coordinator; `words` are more options of `charity serve`."""
        return self._agent("charity", None, "charity", "serve", self.state, *words)

    def open_door(self) -> Agent:
        """Start her door, which needs no sshd."""
        return self._agent("door", None, "charity", "door", "--embedded", self.state, self.listen)

    @property
    def listen(self) -> str:
        """Where the door listens, as it is told it."""
        return f"--listen=127.0.0.1:{self.port}"

    def start_site(self, name: str, alice: tuple[str, ...] = (), bob: tuple[str, ...] = ()) -> None:
        """Start a site's two agents, or start them again; `alice` and `bob` are more options of theirs."""
        folder = self.site(name)
        exchange = f"--exchange={folder / 'exchange'}"
        self._agent("bob", name, "bob", "watch", f"--state={folder / 'bob'}", exchange, *bob)
        data, invitation = folder / "data" / "site.npz", folder / "data" / "invitation.json"
        self._agent(
            "alice", name, "alice", "train", f"--state={folder / 'alice'}", exchange, f"--data={data}",
            f"--invitation={invitation}", *alice,
        )  # fmt: skip

    def _agent(self, name: str, site: str | None, program: str, *words: str) -> Agent:
        return self._start(name, site, program, "--log-format=json", *words)

    def _start(self, name: str, site: str | None, program: str, *words: str) -> Agent:
        command = [str(self.programs / program), *words]
        with undisturbed(self._interruption):
            agent = Agent(name, site, command, self._environ, self.log(name, site), self.events)
            self.agents.append(agent)
        return agent

    # what happens

    def heard(self, seconds: float) -> Iterator[Event]:
        """What was said, waiting at most so long for the first word."""
        with contextlib.suppress(queue.Empty):
            yield self.events.get(timeout=seconds) if seconds else self.events.get_nowait()
            while True:
                yield self.events.get_nowait()

    def find(self, name: str, site: str | None = None) -> Agent:
        """The agent of that name that was started last."""
        return next(agent for agent in reversed(self.agents) if (agent.name, agent.site) == (name, site))

    def check(self) -> None:
        """Raise when an agent ended with an error.

        Raises:
            AgentFailed: With its last lines.
        """
        for agent in self.agents:
            agent.check()

    def going(self) -> bool:
        """Whether a site trains still, or something is on its way to the coordinator.

        Raises:
            AgentFailed: An agent ended with an error.
        """
        going = any(agent.code() is None for agent in self.agents if agent.name == "alice") or self.on_the_way()
        self.check()
        return going

    def reopening(self) -> bool:
        """Whether it was opened again and no release says so yet: a site that starts now might be told to go home."""
        events = [record["event"] for record in self.records() if record["event"] in ("release", "reopened")]
        return events[-1:] == ["reopened"]

    def on_the_way(self) -> bool:
        """Whether something waits in the exchange or spool of a site whose Bob is there, or at the coordinator's."""
        sites = {self.site(agent.site) for agent in self.agents if agent.name == "bob" and agent.site}
        waiting = [
            site.glob(pattern) for site in sites for pattern in ("exchange/outgoing/*.json", "bob/spool/*.bundle")
        ]
        waiting += [self.coordinator.glob(pattern) for pattern in ("inbox/*/*.bundle", "vault/claimed/*/*.bundle")]
        return any(next(paths, None) for paths in waiting)

    # how it ends

    def kill(self, site: str) -> None:
        """End a site's agents as a power cut does, and forget them."""
        for agent in self._take(site):
            agent.signal(signal.SIGKILL)
            agent.wait(10)

    def stop_sites(self) -> None:
        """End all sites' agents in an orderly way, and forget them."""
        sites = {agent.site for agent in self.agents if agent.site}
        with undisturbed(self._interruption):
            stop_all([agent for site in sites for agent in self._take(site)])

    def stop(self) -> None:
        """End everything in an orderly way, sites first."""
        with undisturbed(self._interruption):
            stop_all(self.agents[::-1])

    def _take(self, site: str) -> list[Agent]:
        taken = [agent for agent in self.agents if agent.site == site]
        self.agents = [agent for agent in self.agents if agent not in taken]
        return taken


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that somebody may be writing to."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
