"""What a program may use: the public modules of the package, read as text, so that nothing is loaded for it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from scripts import environment
from scripts.pages import block, prose

# Where the public modules are, in the order of the page; `fedssh.__all__` has the same.
MODULES = {
    "site": "agents/alice/script.py", "models": "models/__init__.py", "bundle": "agents/bundle.py",
    "manifest": "agents/manifest.py", "ledger": "agents/ledger.py", "keys": "agents/keys.py",
    "signature": "agents/signature.py", "weights": "agents/weights.py", "errors": "agents/errors.py",
}  # fmt: skip
INTRODUCTION = """\
# For programs

The package is `fedssh`; `import fedssh` loads nothing, each module comes when it is first used. All that does not stand
here may change with any version. [The map of the code](../explanation/map.md) says where the rest is.
"""
DECORATORS = ("@property", "@staticmethod", "@classmethod", "@contextlib.contextmanager")
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
Documented = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION.strip()]
    for name, file in MODULES.items():
        parts += _module(name, environment.ROOT / file)
    return "\n\n".join([*parts, "Made from the code by `scripts/reference`."]) + "\n"


def _module(name: str, file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    yield f"## fedssh.{name}"
    yield _described(ast.get_docstring(tree) or "")
    for one in public(tree):
        yield f"### {name}.{one.name}"
        yield from _entry(one)


def public(tree: ast.Module) -> list[Documented]:
    """What a module shows: what its `__all__` names of its own, else all without an underscore."""
    named = [
        ast.literal_eval(one.value)
        for one in tree.body
        if isinstance(one, ast.Assign) and [ast.unparse(to) for to in one.targets] == ["__all__"]
    ]
    return [
        one
        for one in tree.body
        if isinstance(one, ast.FunctionDef | ast.ClassDef)
        and (one.name in named[0] if named else not one.name.startswith("_"))
    ]


def _entry(one: Documented) -> Iterator[str]:
    if isinstance(one, ast.FunctionDef):
        yield block(_signature(one), "python")
        yield _described(ast.get_docstring(one) or "")
        return
    bases = ", ".join(ast.unparse(base) for base in one.bases)
    lines = [f"class {one.name}({bases}):" if bases else f"class {one.name}:"]
    lines += [f"    {ast.unparse(part)}" for part in one.body if _shown(part)]
    methods = [part for part in one.body if isinstance(part, ast.FunctionDef) and _is_public(part)]
    for part in one.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            lines.append(f"    {_signature(part)}")
    yield block("\n".join(lines) if len(lines) > 1 else lines[0].removesuffix(":"), "python")
    yield _described(ast.get_docstring(one) or "")
    for method in methods:
        yield block(_signature(method), "python")
        yield _described(ast.get_docstring(method) or "")


def _is_public(part: ast.FunctionDef) -> bool:
    return not part.name.startswith("_") and ast.get_docstring(part) is not None


def _shown(part: ast.stmt) -> bool:
    """Whether it is a member that a caller reads, such as a field or an exit code."""
    targets = part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id[0].islower() for target in targets)


def _signature(one: ast.FunctionDef) -> str:
    """The line that a caller needs, with the decorators that change how it is called."""
    above = [f"@{ast.unparse(each)}" for each in one.decorator_list]
    kept = [line for line in above if line in DECORATORS]
    returns = f" -> {ast.unparse(one.returns)}" if one.returns else ""
    return "\n".join([*kept, f"def {one.name}({ast.unparse(one.args)}){returns}"])


def _described(docstring: str) -> str:
    """A docstring as Markdown: its sections become lists."""
    text, *sections = re.split(rf"^({'|'.join(SECTIONS)}):\n", docstring, flags=re.MULTILINE)
    parts = [prose(text)]
    for heading, inside in zip(sections[::2], sections[1::2], strict=True):
        entries = re.split(r"\n(?=\S)", inspect.cleandoc(inside))
        if heading in ("Returns", "Yields"):
            parts.append(f"**{heading}** {prose(' '.join(' '.join(entries).split()))}")
            continue
        parts.append(f"**{heading}**")
        parts.append("\n".join(_item(" ".join(entry.split())) for entry in entries))
    return "\n\n".join(parts)


def _item(entry: str) -> str:
    name, colon, means = entry.partition(": ")
    return f"- `{name}`: {prose(means)}" if colon else f"- {prose(entry)}"
