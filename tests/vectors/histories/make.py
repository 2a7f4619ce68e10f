"""Make the state folders and histories beside this file. Ran with the last commit before the rooms moved.

python -m tests.vectors.histories.make

It stays as documentation of what is in the files: no test runs it, and it does not run with later commits. Everything
in the folders is real: keys, bundles, the coordinator, and her judge's process, which is one for all of them. Of the
sites only the processes are missing: what they send is trained here and put where the door would put it.

holdout.npz               the coordinator's images
keys.tar.gz               everybody's private keys; they were made for these files and open nothing else
NAME.tar.gz               the folder `coordinator`, as it stood when her last process had ended
NAME.state.json           the state after its last record: snapshot.to_value as canonical JSON
NAME.views.json.gz        what `charity` said of it, run beside it: {"history --json": "…", …}
memory-NAME.jsonl.gz, memory-NAME.state.json     a run of the memory engine, and the state after it

room.py plays the sites and the door, scenes.py says what happens in each folder. Prints README.md's table.
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from fedssh.charity import snapshot
from fedssh.charity.cli import charity
from fedssh.charity.folders import Folders
from fedssh.charity.judge import own_images
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.host_key import make_host_key
from fedssh.keys import make_key
from fedssh.ledger import Record
from fedssh.manifest import canonical
from fedssh.models.training import Trainer
from fedssh.rules.federation import Federation, derive
from tests.unit.test_memory_engine import play

from .room import HOLDOUT, RSA, SETTINGS, KeptJudge, Room, images
from .scenes import SCENES

HERE = Path(__file__).resolve().parent
MEMORY: dict[str, dict[str, Any]] = {
    **{f"{name}-{schedule}": {"policy": name, "schedule": schedule} for name in ("best", "polyak", "merge")
       for schedule in ("free", "relay")},
    **{f"fedavg-{server}": {"policy": f"fedavg:server={server}"} for server in ("momentum", "adam", "yogi")},
    **{name: {"policy": policy} for name, policy in {
        "fedavg": "fedavg", "median": "median", "trimmed": "trimmed:1", "krum": "krum:0", "multi-krum": "multi-krum:0",
        "fraction": "fedavg:fraction=0.67"}.items()},
    "nan": {"policy": "fedavg:deadline=1", "attack": ("alice-3", "nan")},
    "nan-relay": {"schedule": "relay", "attack": ("alice-2", "nan")},
    "straggler": {"policy": "fedavg:deadline=0.15,minimum=0.5", "pace": {"alice-1": 10}, "sessions": 3},
    "sign-flip": {"policy": "trimmed:1", "attack": ("alice-2", "sign-flip:2"), "start": 0.4},
    "gate-off": {"policy": "fedavg", "gate": "off", "attack": ("alice-2", "sign-flip:2"), "start": 0.4},
    "ladder-free": {"gate": "ladder", "margin": 0.05, "attack": ("alice-2", "perturb:0.1"), "start": 0.4},
    "ladder-rounds": {"policy": "fedavg", "gate": "ladder", "margin": 0.05, "submissions_per_hour": 9},
}  # fmt: skip


def make_keys(folder: Path) -> None:
    """Everybody's keys: those of an earlier run, where there was one."""
    packed = HERE / "keys.tar.gz"
    if packed.exists():
        with tarfile.open(packed) as tar:
            tar.extractall(folder, filter="data")
        return
    for name in RSA:
        make_key(folder / "keys" / name, name)
    for name in ("host_key", "auditor-1"):
        make_host_key(folder / "keys" / name)
    pack(folder / "keys", packed)


def pack(folder: Path, target: Path) -> None:
    """A folder as .tar.gz, with nothing in it of who packed it, and when."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, folder.name, filter=plain)
    target.write_bytes(gzip.compress(packed.getvalue(), 9, mtime=0))


def views(seen: set[str]) -> dict[str, str]:
    """What `charity` says of the folder `coordinator` here; of each event only the first record is shown."""
    vault = Vault(Folders(Path("coordinator")))
    records, current = vault.ledger.records(), vault.state.current.of
    lines = ["history", "best", "nodes list", "status", "verify", f"diff 1 {current}"]
    for record in records:
        if record.event not in seen:
            lines.append(f"show {record.sequence}")
            seen.add(record.event)
    said = {}
    for line in [*lines, *(f"{line} --json" for line in lines), "history --last 3"]:
        result = CliRunner().invoke(charity, [*line.split(), "--state", "coordinator"], catch_exceptions=False)
        said[line] = result.stdout
    if json.loads(said["status --json"])["held"]:  # for how long depends on when it is asked
        del said["status"], said["status --json"]
    return said


def keep_state(name: str, records: list[Record]) -> Federation:
    state = derive(records)
    (HERE / f"{name}.state.json").write_bytes(canonical(snapshot.to_value(state)) + b"\n")
    return state


def tell(name: str, records: list[Record], state: Federation, special: str, adds: str = "") -> None:
    """A row of the table in README.md."""
    events = ", ".join(f"{count} {event}" for event, count in Counter(one.event for one in records).items())
    schedule, gate = state.genesis["schedule"], state.genesis["gate"]
    print("|", " | ".join([name, state.policy.text, schedule, gate, str(len(records)), special, events, adds]), "|")


def make_folder(name: str, keys: Path, judge: Judge, trainer: Trainer, seen: set[str]) -> None:
    play_it, sites, terms, special = SCENES[name]
    home = Path(name)
    home.mkdir()
    room = Room(Folders(home / "coordinator"), keys, judge, trainer, sites, **terms)
    play_it(room)
    records, state = room.vault.ledger.records(), room.vault.refresh()
    assert keep_state(name, records) == state
    room.vault.ledger.close()
    for folder in (room.folders.releases, room.folders.evidence):  # three and ten would be kept; she needs the newest
        for path in sorted(folder.iterdir())[:-1]:
            path.unlink()
    del room
    gc.collect()  # and with the last connection SQLite's write-ahead log
    pack(home / "coordinator", HERE / f"{name}.tar.gz")
    with tarfile.open(HERE / f"{name}.tar.gz") as tar:
        tar.extractall(home / "again", filter="data")
    os.chdir(home / "again")
    said = gzip.compress(json.dumps(views(seen), sort_keys=True, indent=0).encode(), 9, mtime=0)
    (HERE / f"{name}.views.json.gz").write_bytes(said)
    vault = Vault(Folders(Path("coordinator").resolve()))
    assert vault.state == state
    coordinator = Coordinator(vault, judge)
    coordinator.recover()
    coordinator.work()
    assert audit(vault.folders)["records"] == vault.state.sequence
    adds = ", ".join(record.event for record in vault.ledger.records(state.sequence))
    tell(name, records, state, special, adds or "nothing")
    os.chdir("../..")


def make_memory(name: str, examples: dict[str, int]) -> None:
    settings = {"start": 0.1} | MEMORY[name]
    path = Path(f"memory-{name}")
    records = play(path, examples, **settings).records
    (HERE / f"{path}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    tell(f"memory-{name}", records, keep_state(f"memory-{name}", records), settings.get("attack", ("", ""))[1])


def main() -> None:
    train, val = images(10, 64), images(1, 60)
    np.savez_compressed(
        HOLDOUT, train_images=train[0], train_labels=train[1], val_images=val[0], val_labels=val[1],
        class_names=np.array(["left", "right"]),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_keys(Path(folder))
        spec = own_images.take(HOLDOUT, SETTINGS["architecture"]).spec
        reading = {"names": ["left", "right"], "classes": None, "max_value": None, "dark": False}
        judge = KeptJudge(judge_command(HOLDOUT, spec, reading=reading))
        trainer = Trainer(spec, "adam", SETTINGS["learning_rate"])
        seen: set[str] = set()
        for name in SCENES:
            make_folder(name, Path(folder, "keys"), judge, trainer, seen)
        for name in MEMORY:
            make_memory(name, {"alice-1": 100, "alice-2": 130, "alice-3": 70})
        Judge.stop(judge)


if __name__ == "__main__":
    main()
