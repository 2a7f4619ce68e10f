"""Who may import whom: the table of the design, held by reading the imports, nested ones included."""

from __future__ import annotations

import ast
from pathlib import Path

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
    "age": {"errors", "keys"},
    "bundle": {"errors", "settings", "files", "keys", "signature", "weights", "manifest", "age"},
    "transport": {"errors", "settings"},
    "ledger": {"errors", "manifest", "signature", "keys", "chain"},
    "chain": {"errors", "keys", "manifest", "signature"},
}
# What an agent may import from `models`, by module of the agent; None is every module.
USES_MODELS = {
    "alice": None,
    "bob": set(),
    "charity": {"judge", "judge_export", "genesis", "given", "own_images", "probe"},
}
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


def test_imports_stay_in_their_layer() -> None:
    assert [wrong for name, path in modules() for wrong in outside_its_layer(name, imports(path))] == []


def outside_its_layer(name: str, found: set[str]) -> list[str]:
    """What a module imports against the table; experiments may import everything, and nothing imports them."""
    first, *rest = name.split(".")
    packages = {used.split(".")[0] for used in found}
    if first == "experiments":
        return []
    wrong = ["nothing imports the experiments"] if "experiments" in packages else []
    if first == "models":
        wrong += ["models knows no agents"] if inside(found, "agents") else []
    elif rest and rest[0] in AGENTS:
        if inside(found, "agents") & (set(AGENTS) - {rest[0]}):
            wrong.append("agents never import each other")
        allowed = USES_MODELS[rest[0]]
        if allowed is not None and not set(rest[1:2]) & allowed and "models" in packages:
            wrong.append("it may not import models")
    elif rest and rest[0] not in MAY_IMPORT:
        wrong.append("it is not in the design's table")
    elif rest:
        wrong += [f"it may not import {other}" for other in sorted(inside(found, "agents") - MAY_IMPORT[rest[0]])]
        wrong += ["it may not import models"] if "models" in packages else []
    return [f"{name}: {text}" for text in wrong]


def test_libraries_stay_behind_their_seams() -> None:
    wrong = []
    for name, path in modules():
        used = {module.split(".")[0] for module in imports(path)}
        wrong += [f"{name}: {library}" for library in used & set(SEAMS) if name not in SEAMS[library]]
        if used & KERAS and not name.startswith(
            ("models", "agents.alice.", "agents.charity.judge", "experiments.engine_")
        ):
            wrong.append(f"{name}: Keras")
    assert wrong == []


def test_the_table_refuses_what_it_should() -> None:
    assert outside_its_layer("models.cnn", {"agents.keys.make_key"}) == ["models.cnn: models knows no agents"]
    assert outside_its_layer("agents.bob.cli", {"agents.alice.cli", "models.build", "experiments.run"}) == [
        "agents.bob.cli: nothing imports the experiments", "agents.bob.cli: agents never import each other",
        "agents.bob.cli: it may not import models",
    ]  # fmt: skip
    assert outside_its_layer("agents.errors", {"agents.keys", "models"}) == [
        "agents.errors: it may not import keys", "agents.errors: it may not import models",
    ]  # fmt: skip
    assert outside_its_layer("agents.helpers", set()) == ["agents.helpers: it is not in the design's table"]
    assert outside_its_layer("agents.charity.judge", {"models.build", "agents.weights"}) == []
