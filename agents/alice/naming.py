"""What the person at this site says the classes are called, and the columns of a table of files."""

from __future__ import annotations

from fedssh.errors import SettingsError
from fedssh.models.data.classes import NamesError, read_classes
from fedssh.models.data.table import read_columns


def given_classes(text: str | None) -> dict[str, str]:
    """What `--classes` says.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return read_classes(text)
    except NamesError as error:
        raise SettingsError(str(error), error.hint) from None


def given_columns(text: str | None) -> dict[str, str]:
    """What `--columns` says.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return read_columns(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None
