"""Networks of one's own: files beside the ones that come with fedssh. No code travels: every site installs them.

    FEDSSH_NETWORKS     folders with a file per network, as in networks/, divided by colons; `--networks DIR` sets it
    fedssh.networks     entry points of installed packages: the network's name and its module

A network of one's own cannot have the name of one that comes with fedssh, so what those are called means the same
everywhere. What is run is what the person at this machine put there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

VARIABLE = "FEDSSH_NETWORKS"
GROUP = "fedssh.networks"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def use(folder: Path | None) -> None:
    """Look for networks in a folder, too, in this process and those that it starts; None changes nothing.

    Raises:
        ValueError: It is no folder.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    known = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    if str(folder.resolve()) not in known:
        os.environ[VARIABLE] = os.pathsep.join([*known, str(folder.resolve())])


def names() -> Iterator[str]:
    """What is there, without loading any of it."""
    for folder in _folders():
        yield from sorted(path.stem for path in folder.glob("*.py") if _NAME.fullmatch(path.stem))
    yield from sorted(point.name for point in metadata.entry_points(group=GROUP))


def load(name: str) -> ModuleType | None:
    """The module of a network; None where there is none of that name.

    Raises:
        ValueError: It cannot be loaded; says its file and why.
    """
    if not _NAME.fullmatch(name):
        return None
    for folder in _folders():
        path = folder / f"{name}.py"
        if path.is_file():
            return _from_file(name, path)
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            try:
                found: ModuleType = point.load()
            except Exception as error:  # noqa: BLE001 - whatever somebody's package raises
                raise ValueError(f"the network {name} of {point.value} cannot be loaded: {_why(error)}") from None
            return found
    return None


def _folders() -> list[Path]:
    return [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def _from_file(name: str, path: Path) -> ModuleType:
    called = f"fedssh_networks_{name}"
    known = sys.modules.get(called)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - whatever somebody's file raises
        raise ValueError(f"{path} cannot be loaded: {_why(error)}") from None
    sys.modules[called] = module
    return module


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
