"""Archives of the tests, unpacked by any Python from 3.11.0 on: a filter is there since 3.11.4."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def unpack(archive: Path, into: Path, *names: str) -> None:
    """Unpack all of an archive, or the members with these names."""
    with tarfile.open(archive) as tar:
        for member in [tar.getmember(name) for name in names] or tar.getmembers():
            tar.extract(member, into, **_FILTER)
