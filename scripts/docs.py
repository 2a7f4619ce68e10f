"""Make a site of docs/, to be read in a browser without a server: build/docs/index.html.

    scripts/docs            make it
    scripts/docs --out DIR  somewhere else

The pages are Markdown that reads well where it lies. What a site needs beyond that is added to a copy: the pages that
stand beside docs/ (BESIDE), the order of the pages, which is that of the links in each index.md and in each page that
has a folder of its name, and links that stay within the site; those to code become plain words. Sphinx does the rest
(docs/conf.py) and takes a warning as an error.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from scripts import environment

ROOT = environment.ROOT
DOCS = ROOT / "docs"
OUT = ROOT / "build" / "docs"
# Pages of the repository that the site has, too, and where.
BESIDE = {
    ROOT / "SECURITY.md": "explanation/security.md",
    ROOT / "agents" / "DECISIONS.md": "explanation/decisions.md",
    ROOT / "CHANGELOG.md": "explanation/changes.md",
    ROOT / "CONTRIBUTING.md": "how-to/contributing.md",
}
_CODE_OR_LINK = re.compile(
    r"^```.*?^```$ | `[^`\n]*` (?!\])"
    r"| (?P<picture>!?) \[ (?P<text>(?:`[^`\n]*` | [^\]`])*) \] \( (?P<target>[^)\s]+) \)",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def main(arguments: list[str]) -> int:
    """Make the site; 0 when it is there and no page had anything to be warned of."""
    lines = (__doc__ or "").strip()
    parser = argparse.ArgumentParser("docs", description=lines, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the site is laid (build/docs)")
    out = parser.parse_args(arguments).out
    done = build(environment.ensure("docs") / "python", out)
    if done == 0:
        print(f"{os.path.relpath(out / 'index.html')}: {len(list(out.rglob('*.html')))} pages")
    return done


def build(python: Path, out: Path) -> int:
    """Make the site anew with an interpreter that has Sphinx; Sphinx's own exit code."""
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder, "pages"))
        sphinx = [str(python), "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--quiet"]
        places = ["--conf-dir", str(DOCS), "--doctree-dir", f"{folder}/trees", f"{folder}/pages", str(out)]
        return subprocess.run([*sphinx, *places], check=False).returncode


def lay_out(folder: Path) -> None:
    """Copy all pages and pictures into a folder, as Sphinx wants them."""
    at = {path: str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob("*")) if path.suffix in {".md", ".png"}}
    at |= BESIDE
    for path, place in at.items():
        page = folder / place
        page.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(path, page)
            continue
        text = within_the_site(path, at, path.read_text())
        if path.name == "index.md" or path.with_suffix("").is_dir():
            text += _order(text)
        page.write_text(text)


def within_the_site(path: Path, at: dict[Path, str], text: str) -> str:
    """The text of a page, with its links as they are from its place on the site; those to code become words."""

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or target.startswith(("https://", "http://", "mailto:", "#")):
            return found[0]
        name, hash_, anchor = target.partition("#")
        there = (path.parent / name).resolve()
        if there not in at:
            return found["text"]
        to = os.path.relpath(at[there], Path(at[path]).parent)
        return f"{found['picture']}[{found['text']}]({to}{hash_}{anchor})"

    return _CODE_OR_LINK.sub(link, text)


def _order(text: str) -> str:
    """The pages that an index links to, for Sphinx's navigation; not those of another part."""
    pages = dict.fromkeys(re.findall(r"\]\(((?!\.\./)[\w/-]+)\.md\)", text))
    return "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n" if pages else ""


if __name__ == "__main__":
    environment.run("docs", main)
