"""Who may import whom: the table of the design, held by reading the imports, nested ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("alice", "bob", "charity")

# Shared module -> the shared modules it may import. Shared modules never import an agent or `models`.
MAY_IMPORT = {
    "errors": set(),
    "settings": {"errors"},
    "commands": {"errors", "settings"},
    "files": {"errors"},
    "keys": {"errors", "files"},
    "signature": {"errors", "keys"},
    "weights": {"errors", "files", "manifest"},
    "manifest": {"errors"},
    "bundle": {"errors", "settings", "files", "keys", "signature", "weights", "manifest"},
    "transport": {"errors", "settings"},
    "ledger": {"errors", "manifest", "signature", "keys", "chain"},
    "chain": {"errors", "keys", "manifest", "signature"},
}
# What an agent may import from `models`, by module of the agent; None is every module.
USES_MODELS = {"alice": None, "bob": set(), "charity": {"judge", "genesis"}}
# A library behind one seam -> the only modules that may import it.
SEAMS = {
    "paramiko": {"agents.transport"},
    "sqlite3": {"agents.ledger"},
    "asyncssh": {"agents.charity.embedded"},
    "pyrage": {"agents.bundle"},
}
KERAS = {"keras", "tensorflow", "sklearn", "h5py"}


def modules() -> list[tuple[str, Path]]:
    paths = [path for package in ("agents", "models", "experiments") for path in ROOT.glob(f"{package}/**/*.py")]
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in paths]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, but not for types only."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    tree = ast.parse(path.read_text())
    hidden = {node for guard in ast.walk(tree) if _types_only(guard) for node in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            found |= {f"{above}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names}
    return found


def _types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def inside(names: set[str], package: str) -> set[str]:
    """The modules one step below a package that are named: `agents.keys.make_key` -> `keys`."""
    return {name.split(".")[1] for name in names if name.startswith(package + ".")}


MODULES = modules()


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_stay_in_their_layer(name: str, path: Path) -> None:
    found = imports(path)
    first, *rest = name.split(".")
    if first == "experiments":
        return  # may import agents and models
    assert not any(used.split(".")[0] == "experiments" for used in found), "nothing imports the experiments"
    if first == "models":
        assert not inside(found, "agents"), "models knows no agents"
    elif rest and rest[0] in AGENTS:
        agent = rest[0]
        assert not inside(found, "agents") & (set(AGENTS) - {agent}), "agents never import each other"
        allowed = USES_MODELS[agent]
        if allowed is not None and not set(rest[1:2]) & allowed:
            assert not any(used.split(".")[0] == "models" for used in found), f"{name} may not import models"
    elif rest:
        assert rest[0] in MAY_IMPORT, f"{name} is not in the design's table"
        assert inside(found, "agents") <= MAY_IMPORT[rest[0]]
        assert not any(used.split(".")[0] == "models" for used in found)


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_libraries_stay_behind_their_seams(name: str, path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)}
    for library in used & set(SEAMS):
        assert name in SEAMS[library], f"{library} belongs to {SEAMS[library]}"
    if used & KERAS:
        assert name.startswith(("models", "agents.alice.", "agents.charity.judge", "experiments.engine_")), (
            f"{name} may not load Keras"
        )
