"""Make a state folder or a history as they stand beside this file: for an event, a policy or a form that is new.

python -m tests.vectors.histories.make --out FOLDER [NAME …]

What stands here is never made again: it is what the last commit before the rooms moved wrote. For another one, add it
to scenes.py or runs.py, make it, and copy its files here and the row that is printed into README.md.

NAME.tar.gz               the folder `coordinator`, as it stood when her last process had ended
NAME.state.json           the state after its last record, as canonical JSON
NAME.views.json.gz        what `charity` said of it, run beside it: {"history --json": "…", …}
memory-NAME.jsonl.gz, memory-NAME.state.json     a run of the memory engine, and the state after it

Everything in the folders is real: keys, bundles, the coordinator, and her judge's process, which is one for all of
them. Of the sites only the processes are missing: what they send is trained here and put where the door would put it.
room.py plays the sites and the door, scenes.py says what happens in each folder, runs.py what runs the memory engine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import gzip
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner

from fedssh.charity.cli import charity
from fedssh.charity.folders import Folders
from fedssh.charity.judge import own_images
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.forms import canonical
from fedssh.models.training import Trainer
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation, derive
from fedssh.rules.stored import to_value
from fedssh.rules.typed import known
from tests.harness import archives

from .kept import HOLDOUT, READING, unpack_keys
from .room import SETTINGS, KeptJudge, Room
from .runs import RUNS, run
from .scenes import SCENES


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
    if names := sorted(vault.state.names):  # of folders from before there were any, nothing of the kind is asked
        lines += ["tags", "tags --history", *(f"{verb} {names[0]}" for verb in ("show", "best")), f"diff 1 {names[0]}"]
    said = {}
    for line in [*lines, *(f"{line} --json" for line in lines), "history --last 3"]:
        result = CliRunner().invoke(charity, [*line.split(), "--state", "coordinator"], catch_exceptions=False)
        said[line] = result.stdout
    if json.loads(said["status --json"])["held"]:  # for how long depends on when it is asked
        del said["status"], said["status --json"]
    return said


class Maker:
    """Writes folders and histories beside each other.

    Args:
        out: Where.
        keys: Everybody's keys.
    """

    def __init__(self, out: Path, keys: Path) -> None:
        self.out, self.keys = out, keys
        spec = own_images.take(HOLDOUT, SETTINGS["architecture"]).spec
        self.judge = KeptJudge(judge_command(HOLDOUT, spec, reading=READING))
        self.trainer = Trainer(spec, "adam", SETTINGS["learning_rate"])
        self.seen: set[str] = set()

    def folder(self, name: str, home: Path) -> None:
        """A state folder, its state and its views."""
        play_it, sites, terms, special = SCENES[name]
        room = Room(Folders(home / "coordinator"), self.keys, self.judge, self.trainer, sites, **terms)
        play_it(room)
        records, state = room.vault.ledger.records(), room.vault.refresh()
        assert self._keep_state(name, records) == state
        room.vault.ledger.close()
        for folder in (room.folders.releases, room.folders.evidence):  # three and ten are kept; she needs the newest
            for path in sorted(folder.iterdir())[:-1]:
                path.unlink()
        del room
        gc.collect()  # and with the last connection SQLite's write-ahead log
        pack(home / "coordinator", self.out / f"{name}.tar.gz")
        archives.unpack(self.out / f"{name}.tar.gz", home / "again")
        with contextlib.chdir(home / "again"):
            said = gzip.compress(json.dumps(views(self.seen), sort_keys=True, indent=0).encode(), 9, mtime=0)
        (self.out / f"{name}.views.json.gz").write_bytes(said)
        vault = Vault(Folders(home / "again" / "coordinator"))
        assert vault.state == state
        coordinator = Coordinator(vault, self.judge)
        coordinator.recover()
        coordinator.work()
        assert audit(vault.folders)["records"] == vault.state.sequence
        adds = ", ".join(record.event for record in vault.ledger.records(state.sequence))
        tell(name, records, state, special, adds or "nothing")

    def memory(self, name: str, home: Path) -> None:
        """A history of the memory engine, and its state."""
        records = run(name, home / name)
        (self.out / f"{name}.jsonl.gz").write_bytes(gzip.compress((home / name).read_bytes(), 9, mtime=0))
        tell(name, records, self._keep_state(name, records), "")

    def _keep_state(self, name: str, records: list[Record]) -> Federation:
        state = derive(records)
        (self.out / f"{name}.state.json").write_bytes(canonical(to_value(state)) + b"\n")
        return state


def tell(name: str, records: list[Record], state: Federation, special: str, *adds: str) -> None:
    """A row of a table in README.md."""
    events = ", ".join(f"{count} {event}" for event, count in Counter(one.event for one in records).items())
    schedule, gate = state.genesis.schedule, known(state.genesis.gate, "off")
    cells = [f"`{name}`", state.policy.text, schedule, gate, str(len(records)), special, events, *adds]
    print("|", " | ".join(cells), "|")


def main(arguments: Sequence[str] | None = None) -> None:
    every = [*SCENES, *RUNS]
    parser = argparse.ArgumentParser(description="Make state folders and histories as they stand beside this program.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, of scenes.py and runs.py  [default: all]")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(every):
        parser.error(f"nothing is called {', '.join(sorted(unknown))}; known are {', '.join(every)}")
    if options.out.exists():
        parser.error(f"{options.out} is there already: what was made once is not made again")
    options.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(options.out.resolve(), unpack_keys(Path(folder)))
        for name in options.names or every:
            home = Path(folder, name)
            home.mkdir()
            (maker.folder if name in SCENES else maker.memory)(name, home)
        Judge.stop(maker.judge)


if __name__ == "__main__":
    main()
