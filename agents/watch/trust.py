"""Whose signature is believed: that of an allowed_signers file, of an invitation, or the first that was seen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fedssh.errors import BundleError, SettingsError
from fedssh.forms import matched
from fedssh.keys import PublicKey, parse_public
from fedssh.signature import read_allowed_signers

COORDINATOR = "charity"  # her name in allowed_signers
MAX_BYTES = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Trust:
    """Whom a history is believed.

    Attributes:
        coordinator: Who must have signed it; None is whoever it names, the first time.
        genesis: The hash that its first record must have; None is any.
        source: Where this was read, for messages.
    """

    coordinator: PublicKey | None = None
    genesis: str | None = None
    source: str = ""


def of_signers(path: Path) -> Trust:
    """The coordinator's key of an allowed_signers file.

    Raises:
        SettingsError: It cannot be read, or does not name her.
    """
    found = read_allowed_signers(_text(path)).get(COORDINATOR)
    if found is None:
        raise SettingsError(f"{path} has no line for {COORDINATOR}")
    return Trust(found, None, str(path))


def of_invitation(path: Path) -> Trust:
    """The coordinator's key and the genesis that an invitation names.

    Raises:
        SettingsError: It cannot be read, or is no invitation.
    """
    try:
        fields = json.loads(_text(path))
        coordinator, genesis = parse_public(str(fields["coordinator"]), "the coordinator's key"), fields.get("genesis")
        if fields["fedssh"] != 1:
            raise ValueError("it has another format than 1")
        return Trust(coordinator, None if genesis is None else matched(_HASH, genesis, "genesis"), str(path))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, BundleError) as error:
        raise SettingsError(f"{path} is not an invitation: {error}", "`charity nodes add` prints one") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
