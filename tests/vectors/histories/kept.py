"""What is kept in this folder, as the tests take it."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from fedssh.keys import PrivateKey, load_private
from fedssh.ledger import read_export
from fedssh.rules.events import Record
from tests.harness import archives

HERE = Path(__file__).resolve().parent
HOLDOUT = HERE / "holdout.npz"
READING: dict[str, Any] = {"names": ["left", "right"], "classes": None, "max_value": None, "dark": False}
NAMES = sorted(path.name.removesuffix(".state.json") for path in HERE.glob("*.state.json"))
MEMORY = [name for name in NAMES if name.startswith("memory-")]
FOLDERS = [name for name in NAMES if name not in MEMORY]


@cache
def records(name: str) -> list[Record]:
    """A history."""
    if name in MEMORY:  # not signed, so its lines have not the form of an export
        known = map(json.loads, gzip.decompress((HERE / f"{name}.jsonl.gz").read_bytes()).splitlines())
        return [Record(line["sequence"], line["hash"], line["record"].encode(), line["signature"]) for line in known]
    with tarfile.open(HERE / f"{name}.tar.gz") as tar:
        file = tar.extractfile("coordinator/outbox/ledger.jsonl")
        assert file is not None
        return list(read_export(file, growing=False))


@cache
def table() -> dict[str, list[str]]:
    """The rows of README.md by name; the cells after it."""
    rows = re.findall(r"^\| `(.*?)` \|(.*)\|$", (HERE / "README.md").read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def unfinished(name: str) -> list[str]:
    """The events that the next start of a folder adds, and its first round of work."""
    adds = table()[name][6]
    return [] if adds == "nothing" else adds.split(", ")


def state(name: str) -> dict[str, Any]:
    """The state after the last record, as JSON."""
    value: dict[str, Any] = json.loads((HERE / f"{name}.state.json").read_bytes())
    return value


def views(name: str) -> dict[str, str]:
    """What `charity` printed, by command line."""
    value: dict[str, str] = json.loads(gzip.decompress((HERE / f"{name}.views.json.gz").read_bytes()))
    return value


def unpack(name: str, into: Path) -> Path:
    """A state folder again, in another folder."""
    _extract(f"{name}.tar.gz", into)
    return into / "coordinator"


def unpack_keys(into: Path) -> Path:
    """Everybody's keys as files."""
    _extract("keys.tar.gz", into)
    return into / "keys"


def private_keys(folder: Path) -> dict[str, PrivateKey]:
    """The RSA keys of the sites and of the coordinator."""
    names = [path.stem for path in folder.glob("*.pub") if path.read_text().startswith("ssh-rsa ")]
    return {name: load_private(folder / name) for name in names}


def _extract(packed: str, into: Path) -> None:
    archives.unpack(HERE / packed, into)
