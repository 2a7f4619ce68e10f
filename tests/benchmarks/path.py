"""The way of a checkpoint: from Alice's folder to the signed verdict back at the site, on loopback.

    scripts/benchmark [--quick] [--door sshd|embedded] [--json FILE]

Runs a real coordinator, door and Bob; plays Alice by publishing model files of about 0.9, 10 and 100 MB. In the same
run it sends the same number of bytes with stock `scp` to a stock sshd and takes one SHA-256 of them: the machine may
be slow or busy, the ratio to that floor is what counts.

    detect   the claim has its final name -> Bob has noticed it
    seal     hash, encrypt, sign, write the bundle
    ship     scp to the door, until the bundle is durable in the inbox
    open     Charity: signature, hashes, decryption, header, finite values
    judge    score on 524 images
    commit   store, sign and publish the record (the verdict)
    return   the record's time -> Bob has checked and recorded it; overlaps the end of `commit`
    total    the claim has its final name -> the verdict is at the site; what is not listed above is waiting
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import hashlib
import json
import os
import platform
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import weights
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Received, read_offer
from fedssh.commands import print_table
from fedssh.manifest import Claim, new_id, now
from fedssh.rules.events import Local
from scripts.demo.federation import free_port

BIN = Path(sys.executable).parent
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
STEPS = ("detect", "seal", "ship", "open", "judge", "commit", "return", "total")
COMMANDS = (("alice",), ("alice", "train"), ("bob",), ("bob", "watch"), ("charity",), ("charity", "serve"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to send and how often."""

    name: str
    spec: dict[str, Any]
    times: int


INPUT = {"input": [28, 28, 1], "classes": 2}
CASES = (
    Case("reference CNN", {"name": "cnn", "depth": 4, **INPUT}, 30),
    Case("10 MB", {"name": "mlp", "width": 1236, "depth": 2, **INPUT}, 15),
    Case("100 MB", {"name": "mlp", "width": 4622, "depth": 2, **INPUT}, 7),
)


class Process:
    """An agent, its events, and how long it took to its first one of a kind."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [str(BIN / name), "--log-format", "json", *map(str, arguments)]
        self.name = name
        self.started = time.monotonic()
        self.popen = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._tail: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stderr
        for line in self.popen.stderr:
            try:
                self._events.put(json.loads(line) | {"at": time.monotonic()})
            except ValueError:
                self._tail.append(line)
        self._events.put({"event": "ended"})

    def wait_for(self, *wanted: str, seconds: float = 120, **fields: object) -> dict[str, Any]:
        """The next event of such a kind whose fields have these values."""
        end = time.monotonic() + seconds
        while True:
            event = self._events.get(timeout=max(0.01, end - time.monotonic()))
            if event["event"] in wanted and all(event.get(name) == value for name, value in fields.items()):
                return event
            if event["event"] == "ended":
                sys.exit(f"{self.name} ended: {''.join(self._tail)}")

    def stop(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.popen.kill()


@dataclasses.dataclass
class Stage:
    """A coordinator, a door and a site's Bob, all running."""

    charity: Process
    door: Process
    bob: Process
    exchange: Exchange
    start_seconds: dict[str, float]


def run(name: str, *arguments: object) -> str:
    """A command of an agent that ends by itself."""
    return subprocess.run([str(BIN / name), *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def stage(folder: Path, case: Case, door: str) -> Iterator[Stage]:
    """Make a federation of one site and start everybody but Alice."""
    port, state, site, exchange = free_port(), folder / "coordinator", folder / "site", folder / "exchange"
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (524, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 2, (524, 1), dtype=np.uint8)
    data = {
        f"{split}_{kind}": array
        for split in ("train", "val")
        for kind, array in (("images", images), ("labels", labels))
    }
    np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]
    user = getpass.getuser() if door == "sshd" else "charity"
    run("charity", "init", "--state", state, "--data", folder / "data.npz", "--architecture", json.dumps(case.spec))
    run("bob", "keygen", "--state", site)
    address = f"{user}@127.0.0.1:{port}"
    invitation = run(
        "charity", "nodes", "add", "--state", state, "--address", address, "alice-1", site / "site_key.pub"
    )
    (folder / "invitation.json").write_text(invitation)
    run("bob", "join", "--state", site, "--offline", folder / "invitation.json")
    seconds = {}
    charity = Process("charity", "serve", "--state", state)
    processes = [charity]
    try:
        seconds["charity serve, judge included"] = charity.wait_for("start")["at"] - charity.started
        flags = ("--embedded",) if door == "embedded" else ()
        processes.append(Process("charity", "door", "--state", state, "--listen", f"127.0.0.1:{port}", *flags))
        seconds["charity door"] = wait_for_port(port) - processes[1].started
        processes.append(Process("bob", "watch", "--state", site, "--exchange", exchange))
        bob = processes[2]
        seconds["bob watch, to its first release"] = bob.wait_for("release")["at"] - bob.started
        yield Stage(charity, processes[1], bob, Exchange(exchange), seconds)
    finally:
        for process in reversed(processes):
            process.stop()


def wait_for_port(port: int) -> float:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return time.monotonic()
        except OSError:
            time.sleep(0.01)


def newest(on: Stage, folder: Path) -> Received:
    """The release that lies there, checked as Alice does."""
    offered = read_offer(on.exchange.incoming)
    assert offered is not None
    received = on.exchange.newest(offered, folder)
    assert received is not None
    return received


def send(on: Stage, case: Case, folder: Path) -> list[dict[str, float]]:
    """Publish checkpoints one after another; returns the milliseconds of every step."""
    received = newest(on, folder)
    model = weights.read_weights(received.model, received.header.tensors)
    random = np.random.default_rng(1)
    samples = []
    for number in range(case.times + 1):
        changed = {name: (array + random.normal(0, 1e-4, array.shape)).astype("f4") for name, array in model.items()}
        claim = Claim(
            id=new_id(),
            architecture=received.header.architecture,
            builds_on=received.release.sequence,
            session=number + 1,
            epoch=1,
            examples=100,
            metrics=Local(0.5, 0.5),
            started=now(),
            created=now(),
        )
        on.exchange.publish(claim, changed, received.header.spec)
        sealed = on.bob.wait_for("sealed", id=claim.id)
        verdict = on.bob.wait_for("verdict", id=claim.id)
        judged = on.charity.wait_for("accepted", "refused", submission=claim.id)
        if number:  # the first one warms up
            samples.append(
                {
                    "detect": sealed["detect_ms"],
                    "seal": sealed["seal_ms"],
                    "ship": verdict["ship_ms"],
                    "open": judged["open_ms"],
                    "judge": judged["judge_ms"],
                    "commit": judged["commit_ms"],
                    "return": verdict["return_ms"],
                    "total": verdict["total_ms"],
                }
            )
        time.sleep(0.2)  # a release that follows from an accepted model is not part of the next sample
    return samples


@contextmanager
def stock_sshd(folder: Path) -> Iterator[Callable[[Path], float]]:
    """A plain sshd; yields a function that copies a file with stock scp and returns the seconds it took."""
    assert SSHD
    port = free_port()
    for name, kind in (("host", "ed25519"), ("login", "rsa")):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "login.pub", folder / "authorized")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nPidFile none\nPermitRootLogin prohibit-password\nUsePAM no\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    wait_for_port(port)
    options = ["-o", f"UserKnownHostsFile={folder}/known", "-o", "IdentitiesOnly=yes", "-i", str(folder / "login")]

    def copy(path: Path) -> float:
        start = time.monotonic()
        subprocess.run(
            ["scp", "-q", "-O", "-P", str(port), *options, str(path), f"{getpass.getuser()}@127.0.0.1:{folder}/copy"],
            check=True,
        )
        return time.monotonic() - start

    try:
        yield copy
    finally:
        server.terminate()
        server.wait()


def floor(folder: Path, size: int, times: int) -> dict[str, float]:
    """Median milliseconds of stock scp and of one SHA-256 for so many bytes."""
    path = folder / "bytes"
    path.write_bytes(os.urandom(size))
    digests = []
    for _ in range(times):
        start = time.monotonic()
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")
        digests.append(1000 * (time.monotonic() - start))
    with tempfile.TemporaryDirectory() as name, stock_sshd(Path(name)) as copy:
        copies = [1000 * copy(path) for _ in range(times + 1)][1:]
    return {"scp": statistics.median(copies), "sha256": statistics.median(digests)}


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]


def memory(pid: int, field: str = "VmHWM") -> float:
    """Megabytes (10^6) that a process holds: `VmHWM` at most so far, `Pss` now with shared pages divided."""
    name = "smaps_rollup" if field == "Pss" else "status"
    for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def resident(on: Stage, door: str) -> list[list[Any]]:
    """Name, megabytes and budget of every process of the stage."""
    judge = tree(on.charity.popen.pid)[1]
    rows: list[list[Any]] = [
        ["bob", memory(on.bob.popen.pid), 64],
        ["charity: vault", memory(on.charity.popen.pid), 96],
        ["charity: judge", memory(judge), 800],
    ]
    doors = tree(on.door.popen.pid)
    rows.append([f"door ({door}): the server itself", memory(doors[0]), 64])
    rows.append(
        [
            f"door ({door}): all {len(doors)} processes, shared pages counted once",
            sum(memory(p, "Pss") for p in doors),
            64,
        ]
    )
    return rows


def alice_memory(folder: Path, on: Stage) -> tuple[float, float]:
    """Peak megabytes of one training session, and seconds to its first epoch."""
    random = np.random.default_rng(2)
    images, labels = (
        random.integers(0, 256, (1400, 28, 28), dtype=np.uint8),
        random.integers(0, 2, (1400, 1), dtype=np.uint8),
    )
    np.savez(folder / "site.npz", train_images=images, train_labels=labels)
    arguments = ["--data", folder / "site.npz", "--exchange", on.exchange.incoming.parent, "--state", folder / "alice"]
    invited = ("--invitation", folder / "invitation.json")
    alice = Process("alice", "train", *arguments, *invited, "--sessions", 1, "--epochs", 4)
    peak, first = 0.0, 0.0
    while alice.popen.poll() is None:
        try:
            peak = max(peak, memory(alice.popen.pid))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.05)
    first = alice.wait_for("epoch")["at"] - alice.started
    return peak, first


def help_times() -> list[list[Any]]:
    rows = []
    for words in COMMANDS:
        taken = []
        for _ in range(7):
            start = time.monotonic()
            subprocess.run([str(BIN / words[0]), *words[1:], "--help"], check=True, stdout=subprocess.DEVNULL)
            taken.append(1000 * (time.monotonic() - start))
        rows.append([f"{' '.join(words)} --help", f"{statistics.median(taken):.0f} ms", "200 ms"])
    return rows


def measure(case: Case, door: str, results: dict[str, Any], with_alice: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="fedssh-benchmark-") as name:
        folder = Path(name)
        with stage(folder, case, door) as on:
            samples = send(on, case, folder)
            header = newest(on, folder).header
            processes = resident(on, door)
            alice = alice_memory(folder, on) if with_alice else None
        under = floor(folder, header.size, max(5, case.times // 2)) if SSHD else None
    print(
        f"\n{case.name}: {header.parameters:,} weights, {header.size / 1e6:.2f} MB, "
        f"door: {door}, {case.times} checkpoints"
    )
    rows = []
    for step in STEPS:
        values = sorted(sample[step] for sample in samples)
        p95 = values[min(len(values) - 1, round(0.95 * (len(values) - 1)))]
        rows.append([step, f"{statistics.median(values):.1f}", f"{p95:.1f}"])
    print_table(["step", "median ms", "p95 ms"], rows)
    total = statistics.median(sample["total"] for sample in samples)
    result: dict[str, Any] = {"size": header.size, "samples": samples, "total": total}
    if under:
        both = under["scp"] + under["sha256"]
        print(
            f"the same bytes: stock scp {under['scp']:.1f} ms, one SHA-256 {under['sha256']:.1f} ms; "
            f"total / (scp + SHA-256) = {total / both:.2f}"
        )
        result |= {"floor": under, "ratio": total / both}
    if case.name == CASES[0].name:
        print()
        if alice:
            processes.insert(0, ["alice", alice[0], 1000])
            on.start_seconds["alice train, to the end of her first epoch"] = alice[1]
        print_table(
            ["process", "peak MB", "budget MB"],
            [[name, f"{megabytes:.0f}", budget] for name, megabytes, budget in processes],
        )
        print()
        print_table(["start", "seconds"], [[name, f"{seconds:.2f}"] for name, seconds in on.start_seconds.items()])
        result |= {"memory": processes, "start": on.start_seconds}
    results[f"{case.name}, {door}"] = result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few checkpoints of each size only")
    parser.add_argument(
        "--door", choices=["sshd", "embedded"], help="only this door; otherwise both, where there is an sshd"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample here")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, commit {commit}"
    )
    results: dict[str, Any] = {}
    doors = [options.door] if options.door else (["sshd"] if SSHD else []) + ["embedded"]
    if not SSHD:
        print("no sshd here: no sshd door, and no stock scp to compare with")
    for door in doors:
        for case in CASES:
            chosen = dataclasses.replace(case, times=3) if options.quick else case
            measure(chosen, door, results, with_alice=case is CASES[0] and door == doors[0])
    print()
    rows = help_times()
    print_table(["command", "median", "budget"], rows)
    results["help"] = rows
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
