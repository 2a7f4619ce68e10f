"""A history of very many records, and what the door and the vault take to read it: peak memory and seconds.

    python -m tests.attacks.long_history [--records N] [--signed] [--old CHECKOUT]

One site that sends 16 bytes of garbage 45 times a second makes 100,000 records in 38 minutes where no rate was agreed;
a federation that runs for years makes a million by itself. Every verb runs as the door runs it, as the forced command
of one channel, and the start is what `charity serve` does before it waits for bundles, without the judge.

What is real: the records, what is decided in them, their hashes and links, the database, the published history, the
summary, the snapshot and its signature, and the signatures of the newest records, which a start verifies. The
signatures of all older records are a copy of one, because signing a million takes most of an hour: `verify` refuses
such a history at its second record. With --signed every record is signed, and `verify` goes through all of them: at
the door, of the folder and of the exported file.

--old measures another checkout on the same folder: its verbs, what it verifies, and its start as far as reading the
history and repairing the outbox; that it would verify every signature as well is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOODED = 2000
VERBS = (
    "history --last 1", "show {middle}", "diff 1 {middle}", "best", "nodes", "status",
    "history --export --after {late}", "history --export", "history", "history --json", "history --csv",
    "history --site alice-1 --event genesis,site-added --last 1", "history --since 2023-11-15 --csv", "report",
    "verify",
)  # fmt: skip

# Runs in a process of its own, so that what it takes is not counted to what is measured.
BUILD = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import numpy as np
from fedssh import weights
from fedssh.charity import snapshot, vault
from fedssh.history import totals
from fedssh.rules.federation import advance
from fedssh.charity.folders import Folders
from fedssh.files import sha256_file
from fedssh.keys import make_key
from fedssh.ledger import Ledger, subject_of
from fedssh.rules import records
from fedssh.rules.events import Blob, Local, Record
from fedssh.rules.gate import decide
from fedssh.rules.records import Sent
from fedssh.forms import canonical
from fedssh.signature import LEDGER, sign

folders, count, signed = Folders(Path({state!r})), {records}, {signed}
folders.make()
key = make_key(folders.key, "charity")
site = make_key(folders.state / "site_key", "alice-1").public.line
spec = {{"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}}
first = folders.opened / "first"
weights.write_weights(first, {{"output/bias": np.zeros(1, np.float32)}}, spec)
model = {{"sha256": sha256_file(first), "size": first.stat().st_size}}
first.rename(folders.model(model["sha256"]))
metrics = {{"accuracy": 0.8836, "loss": 0.2718, "auc": None, "confusion": [[125, 10], [9, 380]]}}

def fields(number):
    if number == 1:
        return "genesis", {{"federation": "long", "spec": spec, "plan": {{"metric": "accuracy"}}, "policy": "best",
            "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None, "coordinator": key.public.line,
            "architecture": "ab" * 32, "model": model, "metrics": metrics, "examples": 471, "seed": 0, "epochs": 1,
            "holdout": {{"sha256": "ab" * 32, "examples": 524}}, **{agreed!r}}}
    if number == 2:
        return "site-added", {{"site": "alice-1", "role": "site", "key": site}}
    if number % 50 == 3:
        return "release", state.due_release().fields()
    id = f"0190f000-0000-7000-8000-{{number:012x}}"
    if number % 10 == 4:  # one in five is better than the current one, by as little as can be
        sent = Sent("alice-1", id, number // 40, 3, 1201, state.release.sequence, state.release.said.federation.started,
            Local(accuracy=0.9, loss=0.25), Blob(**model), "ab" * 32)
        scored = metrics | {{"accuracy": 0.8836 + (number if number % 50 == 4 else 0) * 1e-9}}
        have, mixes = state.current, [(1.0, scored)]
        decided = decide(state.policy, state.gate, state.metric, have.metrics, have.bar, mixes)
        assert decided.accept == (number % 50 == 4)
        verdict = records.verdict(state, sent, decided, 0, sent.model)
        return verdict.name, verdict.fields()
    return "invalid", {{"site": "alice-1", "submission": None, "bundle": hashlib.sha256(id.encode()).hexdigest(),
        "reason": "the bundle is not a tar of its members: expected manifest.json, truncated header"}}

ledger = Ledger.create(folders.ledger)
database, state, previous = ledger._database, None, "0" * 64
database.execute("BEGIN")
copied = sign(b"copied", key, LEDGER)
real = max(2, count - 200)
with open(folders.outbox / "ledger.jsonl", "wb") as published:
    for number in range(1, count + 1):
        event, said = fields(number)
        at = 1_700_000_000 + number * 30
        import time
        clock = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
        text = canonical({{**said, "sequence": number, "previous": previous, "event": event, "time": clock}})
        signature = sign(text, key, LEDGER) if signed or number == 1 or number >= real else copied
        record = Record(number, hashlib.sha256(text).hexdigest(), text, signature)
        row = (number, record.hash, text, signature, event, said.get("site"), subject_of(event, said))
        database.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        published.write(record.line())
        state, previous = advance(state, record), record.hash
        if number == real:
            snapshot.write(folders.snapshot, state, key)
database.execute("COMMIT")
known = vault.publish_summary(folders, ledger)
held = vault.Vault(folders)
held.publish_sites()
held.ledger.close()
"""

FLOOD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from fedssh.charity import serve
from fedssh.charity.folders import Folders
from fedssh.charity.vault import Vault
class Judge:
    def start(self): pass
vault = Vault(Folders(Path({state!r})))
before = vault.state.sequence
for number in range({bundles}):
    (vault.folders.inbox / "alice-1" / f"{{number:020}}-00000000.bundle").write_bytes(os.urandom(16))
begun = time.monotonic()
serve.Coordinator(vault, Judge()).work()
seconds = time.monotonic() - begun
left = len(os.listdir(vault.folders.inbox / "alice-1"))
events = [record.event for record in vault.ledger.records(before)]
print(events.count("invalid"), events.count("garbage"), left, seconds)
"""

START = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
begun = time.monotonic()
from fedssh.charity import serve
from fedssh.charity.folders import Folders
from fedssh.charity.vault import Vault
vault = Vault(Folders(Path({state!r})))
if hasattr(vault, "keep_up"):
    serve.Coordinator(vault, None).recover()
else:
    vault.repair()
# Not getrusage: its peak begins with that of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(vault.state.sequence, time.monotonic() - begun, peak.split()[1])
"""

COMMAND = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from fedssh.door.admission import DoorSettings, forced_command, read_sites
settings = DoorSettings(state=Path({state!r}))
print(json.dumps(forced_command(settings, read_sites(settings.sites)[0])))
"""


@dataclass(frozen=True)
class Cost:
    """What a run took; `megabytes` is the peak of its resident memory."""

    what: str
    code: int
    seconds: float
    megabytes: float
    printed: int


def build(state: Path, records: int, *, signed: bool = False, rates: dict[str, int] | None = None) -> None:
    """Make a coordinator's folder with so many records; without rates it is one of before there were any."""
    agreed = {"rates": rates} if rates else {}
    script(BUILD.format(root=str(ROOT), state=str(state), records=records, signed=signed, agreed=agreed), ROOT)


def flood(state: Path, bundles: int) -> str:
    """What so many bundles of garbage become."""
    invalid, counted, left, seconds = script(
        FLOOD.format(root=str(ROOT), state=str(state), bundles=bundles), ROOT
    ).split()
    return f"{invalid} records, {counted} that counts the rest, {left} left waiting, {float(seconds):.1f} s"


def verbs(state: Path, records: int, checkout: Path = ROOT) -> list[Cost]:
    """What each verb takes at the door."""
    argv = json.loads(script(COMMAND.format(root=str(checkout), state=str(state)), checkout))
    places = {"middle": records // 2, "late": records - 100}
    return [_run(argv, words.format(**places)) for words in VERBS]


def verifying(state: Path, checkout: Path = ROOT) -> list[Cost]:
    """What it takes to verify everything that she holds, and to verify what she exports."""
    package = "fedssh" if (checkout / "fedssh").exists() else "agents"
    charity = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(checkout)!r}); sys.argv[0] = 'charity'; "
               f"from {package}.charity.cli import main; main()", "verify", "--state", str(state)]  # fmt: skip
    return [
        _run(charity, "charity verify"),
        _run([*charity, str(state / "outbox" / "ledger.jsonl")], "charity verify FILE"),
    ]


def start(state: Path, checkout: Path = ROOT) -> Cost:
    """What a start of `charity serve` takes, without the judge."""
    told = script(START.format(root=str(checkout), state=str(state)), checkout).split()
    return Cost("start", 0, float(told[1]), int(told[2]) / 1024, 0)


def script(text: str, checkout: Path) -> str:
    """Run a piece of Python in a checkout, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=checkout)
    if done.returncode:
        raise SystemExit(f"{done.stderr[-2000:]}\nended with code {done.returncode}")
    return done.stdout


def _run(argv: list[str], words: str) -> Cost:
    with tempfile.TemporaryFile() as out:
        environment = {**os.environ, "SSH_ORIGINAL_COMMAND": words}
        begun = time.monotonic()
        child = os.posix_spawn(
            argv[0], argv, environment, file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), each) for each in (1, 2)]
        )
        _, status, used = os.wait4(child, 0)
        return Cost(
            words, os.waitstatus_to_exitcode(status), time.monotonic() - begun, used.ru_maxrss / 1024,
            os.fstat(out.fileno()).st_size,
        )  # fmt: skip


def shown(costs: list[Cost]) -> None:
    """Print a table."""
    for cost in costs:
        what = "" if cost.code == 0 else f"  ended with code {cost.code}"
        print(f"  {cost.what:34} {cost.megabytes:7.1f} MB {cost.seconds:8.3f} s {cost.printed:13,} bytes{what}")


def main(arguments: list[str] | None = None) -> None:
    """Build a history, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000, help="how many records [100000]")
    parser.add_argument("--signed", action="store_true", help="sign every record")
    parser.add_argument("--old", type=Path, help="another checkout, measured on the same folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rates = {"submissions_per_hour": 600, "invalid_per_hour": 60}
        for name, agreed in (("no rates, as before", None), ("600 bundles and 60 invalid ones an hour", rates)):
            state = Path(folder) / name
            build(state, 3, rates=agreed)
            print(f"{FLOODED:,} bundles of garbage at once, {name}: {flood(state, FLOODED)}")
        state = Path(folder) / "coordinator"
        begun = time.monotonic()
        build(state, options.records, signed=options.signed)
        size = (state / "outbox" / "ledger.jsonl").stat().st_size
        print(f"{options.records:,} records, {size / 1e6:,.0f} MB published, made in {time.monotonic() - begun:.0f} s")
        if options.old:
            print(f"old, {options.old}")
            old = options.old.resolve()
            shown([*verbs(state, options.records, old), *verifying(state, old), start(state, old)])
        print("new")
        shown([*verbs(state, options.records), *verifying(state), start(state)])


if __name__ == "__main__":
    main()
