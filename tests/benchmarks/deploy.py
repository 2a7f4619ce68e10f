"""A federation on virtual machines, from nothing and back: the time and the bytes of every step.

    python -m tests.benchmarks.deploy [--sites 3] [--cold] [--json FILE]

Linode is the fake of the tests, its machines are containers of 2 GB with an sshd and an engine of their own; images,
`ssh`, shipping, Charity, Bob, Alice and her training are the real ones. Data: PneumoniaMNIST from FEDSSH_DATA, else
scikit-learn's digits. In turn: a fresh `up` to the first accepted model; a second one; the sessions to their end;
an upgrade to a version with one more line, next to `docker save | ssh docker load` of the same images in the same run;
an upgrade to a version whose Charity ends at once; `down`.

What does not hold ends it with code 1: a killed process, a changed ledger, a machine that is left, a request that the
vendor's schema does not know.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.commands import print_table
from fedssh.models.data import datasets, images, partition
from tests.harness.cloud import Cloud
from tests.harness.machines import Machines

ROOT = Path(__file__).resolve().parent.parent.parent
REGIONS = ("us-east", "eu-central", "ap-south", "us-ord")
COPIED = ("agents", "models", "fleet", "locks", "scripts")
FILES = (
    "pyproject.toml", "README.md", "LICENSE", "Dockerfile.alice", "Dockerfile.charity", "docker-compose.yml",
    "docker-compose.gpu.yml", ".dockerignore",
)  # fmt: skip
BROKEN = '    raise RuntimeError("this version is broken")\n'


@dataclass
class Stage:
    """A checkout, an inventory beside data, the fake account."""

    folder: Path
    cloud: Cloud
    machines: Machines

    @property
    def inventory(self) -> Path:
        """Of the federation."""
        return self.folder / "home" / "fleet.toml"

    def deploy(self, verb: str, *words: str, code: int = 0, checkout: str = "checkout") -> tuple[dict[str, Any], float]:
        """Run scripts/deploy's program; what it said as JSON, and the seconds that it took."""
        environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ |= {
            "HOME": str(self.folder / "home"), "PYTHONPATH": str(self.folder / checkout),
            "LINODE_TOKEN": self.cloud.token, "LINODE_API": self.cloud.url,
        }  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "fleet.cli", verb, str(self.inventory), "--json", *words],
            env=environ, stdout=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != code:
            raise SystemExit(f"{verb} ended with code {done.returncode}, expected {code}")
        return json.loads(done.stdout or "{}"), time.monotonic() - start

    def history(self) -> list[dict[str, Any]]:
        """The records."""
        said = self.machines.run("xrays-coordinator", "docker exec fedssh-charity-1 charity history --json")
        found: list[dict[str, Any]] = json.loads(said)
        return found

    def until(self, what: str, holds: Callable[[list[dict[str, Any]]], bool], seconds: float) -> float:
        """Wait for the history to be so; the seconds that took."""
        start = time.monotonic()
        while not holds(self.history()):
            if time.monotonic() - start > seconds:
                raise SystemExit(f"{what}: not after {seconds:.0f} s")
            time.sleep(0.5)
        return time.monotonic() - start

    def ledger(self) -> str:
        """The hashes of the history's files."""
        files = "/var/lib/fedssh/outbox/ledger.jsonl /var/lib/fedssh/vault/ledger.db"
        return self.machines.run("xrays-coordinator", f"sha256sum {files}")


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog="python -m tests.benchmarks.deploy")
    parser.add_argument("--sites", type=int, default=3, metavar="N", help="how many sites  [3]")
    parser.add_argument("--cold", action="store_true", help="forget what the registry at home has packed before")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured there")
    options = parser.parse_args()
    if options.cold:
        subprocess.run(["docker", "volume", "rm", "--force", "fedssh-registry"], check=False, capture_output=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Machines() as machines,
        Cloud(machines.from_request, machines.deleted) as cloud,
    ):
        found = measure(Stage(Path(folder), cloud, machines), options.sites)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    return 1 if any(found["wrong"].values()) else 0


def measure(stage: Stage, sites: int) -> dict[str, Any]:
    """All of it, in order."""
    prepare(stage, sites)
    other = stage.cloud.add_machine("someone-elses", tags=["another-tag"])
    plan, seconds = stage.deploy("plan", code=10)
    found: dict[str, Any] = {"price": {name: plan[name] for name in ("hourly", "monthly")}, "build": seconds}
    up, found["up"] = stage.deploy("up")
    accepted = stage.until("the first accepted model", lambda records: _count(records, "accepted") > 0, 600)
    found["first_accepted"] = found["up"] + accepted
    again, found["up_again"] = stage.deploy("up")
    found["sessions"] = stage.until("the end of all sessions", lambda records: _count(records, "finished") > 0, 1800)
    found["steps"] = up["did"] + up["looked"]
    found["killed"] = {name: stage.machines.oom_kills(name) for name in list(stage.machines.machines)}
    found |= upgrades(stage)
    stage.deploy("down", "--yes")
    left = [machine["label"] for machine in stage.cloud.machines.values()]
    found["wrong"] = {
        "did something twice": again["did"],
        "killed for memory": [name for name, number in found["killed"].items() if number],
        "ledger changed by a failed upgrade": found.pop("changed"),
        "left": [label for label in left if label != other["label"]] + list(stage.cloud.firewalls.values()),
        "of others, gone": [] if other["label"] in left else [other["label"]],
        "unknown to the schema": stage.cloud.violations,
    }
    return found


def upgrades(stage: Stage) -> dict[str, Any]:
    """A good upgrade next to whole images, and one that fails."""
    vary(stage, "newer", "agents/charity/serve.py", "", "\n# One line more.\n")
    good, seconds = stage.deploy("upgrade", checkout="newer")
    whole, tar = _whole_images(stage)
    vary(stage, "broken", "agents/charity/serve.py", "    if not folders.ledger.is_file():\n", BROKEN)
    before = stage.ledger()
    stage.deploy("upgrade", "--only", "coordinator", code=1, checkout="broken")
    log = stage.machines.run("xrays-coordinator", "cat /var/lib/fedssh/deploy.log").splitlines()
    return {
        "upgrade": seconds,
        "upgrade_steps": good["did"],
        "upgrade_bytes": good["shipped"],
        "whole_bytes": whole,
        "whole_seconds": tar,
        "back_seconds": _between(log, "installed release 3", "release 3 failed"),
        "changed": [] if stage.ledger() == before and stage.history() else ["yes"],
    }


def prepare(stage: Stage, sites: int) -> None:
    """A checkout of its own, a key, data and the inventory."""
    checkout, home = stage.folder / "checkout", stage.folder / "home"
    for name in COPIED:
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, checkout / name)
    (checkout / "fedssh").symlink_to("agents")
    home.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "id")], check=True)
    _divide(home, sites)
    lines = [
        'federation = "xrays"', f'ssh = ["IdentityFile={home / "id"}", "IdentitiesOnly=yes", "IdentityAgent=none"]',
        "[linode]", 'ssh_key = "id.pub"', 'admin_from = ["192.0.2.1/32"]',
        "[coordinator]", 'host = "linode:us-east/g6-standard-1"', 'data = "coordinator.npz"', 'policy = "merge"',
        "sessions = 2", "epochs = 3", "[auditors]", 'me = "id.pub"',
    ]  # fmt: skip
    for number in range(sites):
        region = REGIONS[number % len(REGIONS)]
        lines += [f"[sites.site-{number}]", f'host = "linode:{region}/g6-standard-1"', f'data = "site-{number}.npz"']
    stage.inventory.write_text("\n".join(lines) + "\n")


def vary(stage: Stage, name: str, file: str, before: str, more: str) -> None:
    """A copy of the checkout with something added to a file, before some words or at the end."""
    folder = stage.folder / name
    shutil.copytree(stage.folder / "checkout", folder, symlinks=True)
    path = folder / file
    text = path.read_text()
    path.write_text(text.replace(before, more + before, 1) if before else text + more)


def _divide(home: Path, sites: int) -> None:
    source = Path(os.environ.get("FEDSSH_DATA", ROOT / "data"))
    name = "pneumoniamnist" if (source / "pneumoniamnist.npz").exists() else "digits"
    dataset = datasets.open_or_digits(name, source, lambda done, total: None)
    train = dataset.splits["train"]
    rest, own = images.hold_out(train.labels, 0.1, 1, train.patients)
    shared = train.take(rest)
    parts = partition.split("iid", shared.labels, sites, 1, shared.patients)
    for number, part in enumerate(parts):
        datasets.save(home / f"site-{number}.npz", {"train": shared.take(part)}, dataset.class_names)
    datasets.save(
        home / "coordinator.npz", {**dataset.splits, "train": train.take(np.asarray(own))}, dataset.class_names
    )


def _whole_images(stage: Stage) -> tuple[int, float]:
    """`docker save | ssh docker load` of what the coordinator's upgrade shipped, to the same machine."""
    address = stage.machines.machines["xrays-coordinator"].address
    key = stage.folder / "home" / "id"
    options = ["-i", str(key), "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR"]
    size, start = 0, time.monotonic()
    for name in ("fedssh-charity", "fedssh-door"):
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as save:
            load = ["ssh", *options, f"root@{address}", "tee >(wc -c >&2) | docker load --quiet"]
            load[-1] = f"bash -c '{load[-1]}'"
            done = subprocess.run(load, stdin=save.stdout, capture_output=True, text=True, check=True)
        size += int(done.stderr.split()[-1])
    return size, time.monotonic() - start


def _between(log: list[str], first: str, last: str) -> float:
    """Seconds between two lines of a machine's log."""
    from datetime import datetime

    times = [datetime.fromisoformat(line.split()[0]) for line in log for words in (first, last) if words in line]
    return (times[-1] - times[0]).total_seconds()


def _count(records: list[dict[str, Any]], event: str) -> int:
    return sum(record["event"] == event for record in records)


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    rows = [(one["host"], one["step"], f"{one['seconds']:.1f}", _megabytes(one["size"])) for one in found["steps"]]
    print_table(("HOST", "STEP", "SECONDS", "MB"), rows)
    print(f"\nbuilding images and planning           {found['build']:.1f} s")
    print(f"up                                     {found['up']:.1f} s")
    print(f"up to the first accepted model         {found['first_accepted']:.1f} s")
    print(f"up again, nothing to do                {found['up_again']:.1f} s")
    print(f"good upgrade of all hosts              {found['upgrade']:.1f} s, {_megabytes(found['upgrade_bytes'])} MB")
    rows = [
        (one["host"], one["step"], f"{one['seconds']:.1f}", _megabytes(one["size"])) for one in found["upgrade_steps"]
    ]
    print_table(("HOST", "STEP", "SECONDS", "MB"), rows)
    own = next(one for one in found["upgrade_steps"] if one["host"] == "coordinator" and one["step"] == "images")
    whole = f"{_megabytes(found['whole_bytes'])} MB in {found['whole_seconds']:.1f} s"
    size, time_of = own["size"] / found["whole_bytes"], own["seconds"] / found["whole_seconds"]
    print(f"\nthe coordinator's images: {_megabytes(own['size'])} MB in {own['seconds']:.1f} s")
    print(f"docker save | ssh docker load of them: {whole}; ratio {size:.4f} of the bytes, {time_of:.2f} of the time")
    print(
        f"failed upgrade: the old release answers again {found['back_seconds']:.0f} s after the new one was installed"
    )
    print(f"price: ${found['price']['hourly']:.4f} an hour, ${found['price']['monthly']:.2f} a month")
    for what, cases in found["wrong"].items():
        print(f"{what}: {cases or 'none'}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}" if size else ""


if __name__ == "__main__":
    sys.exit(main())
