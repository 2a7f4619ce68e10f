"""What Alice remembers across restarts.

    state/alice.json   {"federation", "sessions", "turns", "passed", "over", "genesis", "seen", "scored"}
    state/logs/        TensorBoard logs, a folder per session
    state/turn/        under `split`: where she is in a turn, see `split.kept`
    state/outbound/    under `split`: what a turn is about to send, until its report is there, see `turn.Outbound`
    state/lock         held by the one Alice that works here

`over` is the report of a session that has ended: it stands here before it is published and until it is counted, so a
kill in between neither loses a session nor counts it twice. `genesis` and `seen` are the federation's genesis and the
newest release taken from it, {"sequence", "head"}; a file without them was written before they were remembered.
`scored` is the newest release whose score here was told; it is there where the terms ask for such scores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedssh.alice.session import Trained
from fedssh.chain import Seen
from fedssh.errors import SettingsError
from fedssh.files import sweep, write_whole
from fedssh.forms import canonical
from fedssh.manifest import SessionOver


@dataclass(frozen=True)
class Memory:
    """What is remembered.

    Attributes:
        federation: The name of the federation that `trained` belongs to; None before the first release.
        trained: What this site has trained in it.
        over: The report of a session that is over but not counted in `trained` yet.
        genesis: Hash of the federation's first record; None before the first release.
        seen: The newest release taken: there is no way back behind it.
        scored: The newest release of which was told what it scores here; 0 before the first.
    """

    federation: str | None = None
    trained: Trained = field(default_factory=Trained)
    over: SessionOver | None = None
    genesis: str | None = None
    seen: Seen = field(default_factory=Seen)
    scored: int = 0


def load(state: Path) -> Memory:
    """Read what is remembered; nothing at the first start.

    Raises:
        SettingsError: The file is not one that Alice wrote.
    """
    path = state / "alice.json"
    try:
        fields = json.loads(path.read_bytes())
        over = SessionOver.from_bytes(fields["over"].encode()) if fields["over"] else None
        trained = Trained(int(fields["sessions"]), fields["turns"], bool(fields["passed"]))
        seen = fields.get("seen") or dataclasses.asdict(Seen())
        newest = Seen(int(seen["sequence"]), str(seen["head"]))
        scored = int(fields.get("scored", 0))
        return Memory(fields["federation"], trained, over, fields.get("genesis"), newest, scored)
    except FileNotFoundError:
        return Memory()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", "remove it to count the sessions from 1 again") from None


def save(state: Path, memory: Memory) -> None:
    """Remember, durably."""
    over = memory.over.to_bytes().decode() if memory.over else None
    more: dict[str, object] = {"over": over, "genesis": memory.genesis, "seen": dataclasses.asdict(memory.seen)}
    more |= {"scored": memory.scored} if memory.scored else {}
    fields = {"federation": memory.federation, **dataclasses.asdict(memory.trained), **more}
    write_whole(state / "alice.json", canonical(fields))


def forget_seen(state: Path) -> None:
    """Forget which release was taken last, because a person agreed anew; sessions stay counted."""
    known = load(state)
    if known.seen != Seen():
        save(state, dataclasses.replace(known, seen=Seen()))


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Make the state folder and keep other Alices out of it.

    Raises:
        SettingsError: Another Alice works here.
    """
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another alice works in {state}", "give each its own --state") from None
        sweep(state)
        yield
