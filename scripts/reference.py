"""Write the pages of docs/reference that are made from the code: commands, variables, programs, formats.

`tests/unit/test_reference.py` holds that they are what this makes; a page that is wrong is put right in the code.
"""

from __future__ import annotations

from collections.abc import Callable

from scripts import environment, formats
from scripts.pages import commands, interface, variables

FOLDER = environment.ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    **{f"{name}.md": commands.page_of(name) for name in commands.PROGRAMS},
    "scripts.md": commands.scripts,
    "variables.md": variables.page,
    "python.md": interface.page,
    "formats.md": formats.page,
}


def write() -> None:
    """Write every page anew."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
        print(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    write()
