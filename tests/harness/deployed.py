"""A federation on machines, for tests of scripts/deploy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.cloud import Cloud
from tests.harness.laptop import Ended, Laptop, checkout, impatient
from tests.harness.machines import Machines


@dataclass
class Deployed:
    """A federation in the cloud, as a fresh `up` has left it."""

    laptop: Laptop
    machines: Machines
    cloud: Cloud
    folder: Path
    first: Path
    planned: Ended
    made: Ended

    def version(self, name: str, **behaviour: dict[str, object]) -> Path:
        """Another checkout, made once."""
        folder = self.folder / name
        return folder if folder.exists() else impatient(checkout(folder, **behaviour))

    def run(self, machine: str, words: str) -> str:
        """What words of a shell print on a machine."""
        return self.machines.run(machine, words)

    def started(self, machine: str) -> dict[str, str]:
        """When its containers were started."""
        said = self.run(machine, "docker inspect --format '{{.Name}} {{.State.StartedAt}}' $(docker ps --quiet)")
        return dict(line.split() for line in said.splitlines())

    def release(self, machine: str) -> str:
        """The number of the current one."""
        return self.run(machine, "readlink /opt/fedssh/current").strip().removeprefix("releases/")

    def well(self) -> None:
        """Nothing is to be done, and nothing is left from before."""
        assert "nothing to do" in self.laptop.deploy("up").output
        assert self.laptop.processes() == []
        assert self.cloud.violations == []


@contextmanager
def deployed(machines: Machines, version: Path, folder: Path, tables: str) -> Iterator[Deployed]:
    """Make a federation called chest in a fake cloud of these machines.

    Args:
        version: The checkout; others are made beside it.
        folder: Of the laptop.
        tables: Of the inventory.
    """
    with Cloud(machines.from_request, machines.deleted) as cloud:
        cloud.stages = ["provisioning", "running"]
        laptop = Laptop(folder, version, cloud)
        laptop.inventory(tables, more=f'[backup]\nrecipients = ["{laptop.key}"]')
        planned = laptop.deploy("plan", code=10)
        assert cloud.machines == {} == cloud.firewalls
        made = laptop.deploy("up", "--json")
        yield Deployed(laptop, machines, cloud, version.parent, version, planned, made)
