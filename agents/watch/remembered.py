"""What a reader's machine remembers of a history, so that another key, or a history that was cut off, is noticed.

    $XDG_STATE_HOME/fedssh/watch/USER@HOST:PORT.json, or ~/.local/state/fedssh/watch/…, of mode 0600
        {"coordinator":"ssh-rsa …","genesis":hex,"head":hex,"sequence":n,"since":"2026-01-31T12:00:00.000Z"}

`sequence` and `head` are the newest record that was seen, `since` is when the history was seen first. User, host and
port are those that ssh gets to, by its configuration and options. Another name of the same host is another file, as in
known_hosts.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fedssh.chain import Seen
from fedssh.errors import SettingsError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.keys import PublicKey, parse_public

MOST_LETTERS = 200  # of a file's name; file systems have 255, a part's name is longer


@dataclass(frozen=True)
class Remembered:
    """What was seen of a history.

    Attributes:
        coordinator: Who signed it.
        genesis: The hash of its first record.
        seen: The newest record.
        since: When it was seen first.
    """

    coordinator: PublicKey
    genesis: str
    seen: Seen
    since: str


def file_of(place: str) -> Path:
    """Where what is remembered of a history is kept.

    Args:
        place: What tells it from others, such as `charity@charity.example:2222`.
    """
    told = Path(os.environ.get("XDG_STATE_HOME", ""))
    base = told if told.is_absolute() else Path.home() / ".local" / "state"
    name = quote(place, safe="[]:@")
    if len(name) > MOST_LETTERS:
        name = f"{name[:100]}.{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()}"
    return base / "fedssh" / "watch" / f"{name}.json"


def read(path: Path) -> Remembered | None:
    """What is remembered; None before the first time.

    Raises:
        SettingsError: The file is damaged or cannot be read. It protects against going back, so it is not guessed anew.
    """
    try:
        fields = json.loads(path.read_bytes())
        seen = Seen(int(fields["sequence"]), str(fields["head"]))
        key = parse_public(fields["coordinator"], "the coordinator's key")
        return Remembered(key, str(fields["genesis"]), seen, str(fields["since"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingsError) as error:
        hint = (
            "restore it from a backup; without it whoever answers next is believed: ask the operator for the key first"
        )
        raise SettingsError(f"{path} is damaged: {error}", hint) from None


def write(path: Path, known: Remembered) -> None:
    """Remember it, unless another process has seen more of the same history since.

    Raises:
        SettingsError: The disk is full or read-only; what was remembered is as it was.
    """
    before = read(path)
    if before and before.genesis == known.genesis and before.seen.sequence >= known.seen.sequence:
        return
    fields = {
        "coordinator": known.coordinator.line,
        "genesis": known.genesis,
        "head": known.seen.head,
        "sequence": known.seen.sequence,
        "since": known.since,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, canonical(fields) + b"\n")
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"what was seen cannot be kept in {path.parent}: {error.strerror}",
        "XDG_STATE_HOME says where such things are kept, else ~/.local/state",
    )
