"""The page that `report` prints: the records, and what shows and checks them in a browser. Standard library only.

    page/page.html    what stands there without JavaScript
    page/page.css     how it looks, and uPlot's own style
    page/words.js     values as words
    page/canonical.js the one form of a record's text
    page/ledger.js    the records in the page, and their hashes, links and signatures
    page/views.js     the numbers, from records alone
    page/tables.js    elements and tables
    page/charts.js    charts
    page/model.js     the current model
    page/sites.js     the sites and rounds
    page/history.js   the records
    page/page.js      the sections in their order, and the check
    page/uPlot.*      https://github.com/leeoniya/uPlot 1.6.32, as published, MIT licence

One file, opened from a disk: nothing is loaded into it and nothing leaves it. Its content security policy names the
hashes of the two scripts and the style that may run, and nothing else may; uPlot's is written down here, so that
another file under its name stands still.
"""

from __future__ import annotations

import base64
import hashlib
import os

from fedssh.history.published import export

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = os.path.join(os.path.dirname(__file__), "page")
STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = (
    "words.js",
    "canonical.js",
    "ledger.js",
    "views.js",
    "tables.js",
    "charts.js",
    "model.js",
    "sites.js",
    "history.js",
    "page.js",
)
CHARTS = "uPlot.min.js"
CHARTS_SHA256 = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"


def page(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The page piece by piece: a long history is larger than the door is allowed to be.

    Args:
        lines: The ledger lines of the whole history, in order.
    """
    style = b"\n".join(_read(name) for name in STYLES)
    script = b'"use strict";\n' + b"\n".join(_read(name) for name in SCRIPTS)
    yield _head(style, script)
    yield b"<style>" + style + b"</style>\n</head>\n<body>\n" + _read("page.html")
    yield b'<script type="application/json" id="ledger">\n'
    for line in export(lines):
        # Only inside strings of JSON is there a `<`; without it nothing in a record can end the element.
        yield line.replace(b"<", b"\\u003c")
    yield b"</script>\n<script>" + _read(CHARTS) + b"</script>\n<script>" + script + b"</script>\n</body>\n</html>\n"


def _head(style: bytes, script: bytes) -> bytes:
    charts = base64.b64encode(bytes.fromhex(CHARTS_SHA256)).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{charts}' 'sha256-{_sha256(script)}'; "
        f"style-src 'sha256-{_sha256(style)}'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n<meta name="referrer" content="no-referrer">\n'
        "<title>fedssh</title>\n"
    ).encode()


def _sha256(text: bytes) -> str:
    return base64.b64encode(hashlib.sha256(text).digest()).decode()


def _read(name: str) -> bytes:
    with open(os.path.join(FOLDER, name), "rb") as file:
        return file.read()
