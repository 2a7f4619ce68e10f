"""Whose machine is looked at: what was said, and what lies in its folder."""

from __future__ import annotations

import errno
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.address import Via

MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        state: The agent's folder; need not be there.
        role: `site`, `bob`, `coordinator` or `auditor`.
        invitation: A file with one.
        data: Images.
        listen: Where the coordinator's door listens.
        engine: Whether a Docker engine is needed.
        door_alone: Whether of a coordinator only the door runs here.
        timeout: How long a host may take to answer, in seconds.
        root: What stands for `/`.
    """

    state: Path
    role: str
    invitation: Path | None = None
    data: Path | None = None
    listen: str = "0.0.0.0:2222"
    engine: bool = False
    door_alone: bool = False
    timeout: float = 10.0
    via: Via | None = None
    via_key: Path | None = None
    via_known_hosts: Path | None = None
    root: Path = Path("/")

    @property
    def works_with_a_door(self) -> bool:
        """Whether it dials one, and does not open it."""
        return self.role != "coordinator"


def find_role(state: Path, invitation: Path | None) -> str:
    """Which role a folder is of; a site is Bob's alone where nothing is installed that trains."""
    if (state / "vault").exists() or (state / "outbox").exists() or (state / "door").exists():
        return "coordinator"
    if invitation and said(invitation).get("role") == "auditor":
        return "auditor"
    trains = importlib.util.find_spec("keras") is not None
    return "site" if trains or (state / "terms.json").exists() else "bob"


def is_door_alone(role: str) -> bool:
    """Whether a coordinator's machine has what the door needs, and not what judges."""
    return role == "coordinator" and importlib.util.find_spec("keras") is None


def find_state() -> Path:
    """The folder that commands take by default, whichever is there."""
    return next((path for path in map(Path, ("site", "coordinator", "alice")) if path.is_dir()), Path("site"))


def said(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it cannot be read: the checks say why."""
    try:
        value = json.loads(read(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read(path: Path) -> bytes:
    """The beginning of a file; what is none, such as a FIFO, is not waited for.

    Raises:
        OSError: It cannot be read, or is no file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES)
