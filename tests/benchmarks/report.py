"""What the page of a history takes: the door to print it, a browser to open it and to check every record.

    python -m tests.benchmarks.report [--records 59 1000 10000] [--runs 5] [--npm FOLDER]

The history is made for it: the accepted and refused records, reports and releases of a real one, with other scores and
numbers, each hashed, linked and signed anew. The door runs as the forced command of one channel. Beside it stand
floors of the same run: a process that prints the same bytes from a file, and a browser that opens a page that holds
the same bytes and does nothing with them.

With --npm, the folder in which `npm install uplot vega vega-lite vega-interpreter` was run: the same four charts of
10,000 numbers by uPlot and by Vega-Lite, how large and how long.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from fedssh.forms import canonical
from fedssh.keys import PrivateKey, load_private
from fedssh.rules.events import Record
from fedssh.signature import LEDGER, sign
from tests.attacks.long_history import COMMAND, ROOT, script
from tests.harness.browser import browser
from tests.vectors.histories import kept

SITES = 5
CHARTS = """
const xs = Array.from({length: 10000}, (_, i) => i + 1);
const ys = xs.map((i) => 1 - Math.exp(-i / 3000) + 0.05 * Math.sin(i * 12.9898));
const end = () => { window.took = performance.now() - begun; };
const done = () => requestAnimationFrame(() => requestAnimationFrame(end));
"""
BY_UPLOT = """
const series = [{}, {stroke: "blue"}, {stroke: "red", paths: () => null, points: {show: true, size: 3}}];
const options = {width: 800, height: 300, scales: {x: {time: false}}, series};
for (let k = 0; k < 4; k += 1) new uPlot(options, [xs, ys, ys.map((y) => y - 0.1)], document.body);
done();
"""
BY_VEGA = """
const of = (field) => ({x: {field: "x", type: "quantitative"}, y: {field, type: "quantitative"}});
const spec = {data: {values: xs.map((x, i) => ({x, y: ys[i], z: ys[i] - 0.1}))}, width: 800, height: 300,
  layer: [{mark: "line", encoding: of("y")}, {mark: "point", encoding: of("z")}]};
(async () => {
  for (let k = 0; k < 4; k += 1) {
    const holder = document.body.appendChild(document.createElement("div"));
    const parsed = vega.parse(vegaLite.compile(spec).spec, null, {ast: true});
    await new vega.View(parsed, {expr: vega.expressionInterpreter, renderer: "canvas", container: holder}).runAsync();
  }
  done();
})();
"""
LIBRARIES = {
    "uPlot": (("uplot/dist/uPlot.iife.min.js",), BY_UPLOT),
    "Vega-Lite": (
        ("vega/build/vega.min.js", "vega-lite/build/vega-lite.min.js", "vega-interpreter/build/vega-interpreter.js"),
        BY_VEGA,
    ),
}


def history(records: int, key: PrivateKey) -> list[bytes]:
    """The lines of a history of so many records, each signed."""
    real = [json.loads(record.text) for record in kept.records("best-free")]
    begin = [one for one in real if one["event"] in ("genesis", "site-added")]
    of: dict[str, dict[str, Any]] = {one["event"]: one for one in real}
    lines, previous, current = [], "0" * 64, begin[0]["metrics"]
    for number in range(1, records + 1):
        if number <= len(begin):
            fields = dict(begin[number - 1])
        else:
            event = "release" if number % 25 == 0 else "report" if number % 10 == 9 else "refused"
            event = "accepted" if number % 20 == 4 else event
            fields = dict(of[event])
            score = 0.99 - 0.4 / (1 + number / records * 20) + (0 if event == "accepted" else -0.02 * (number % 7))
            if event in ("accepted", "refused"):
                metrics = {**of["accepted"]["metrics"], "accuracy": score, "loss": 1.2 - score}
                fields |= {"metrics": metrics, "current_metrics": current, "site": f"alice-{1 + number % 3}",
                           "claim": {"accuracy": score + 0.01, "loss": 1.1 - score}, "session": number // 40,
                           "submission": f"0190f000-0000-7000-8000-{number:012x}"}  # fmt: skip
                current = metrics if event == "accepted" else current
        clock = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(1_700_000_000 + 30 * number))
        text = canonical({**fields, "sequence": number, "previous": previous, "time": clock})
        previous = hashlib.sha256(text).hexdigest()
        lines.append(Record(number, previous, text, sign(text, key, LEDGER)).line())
    return lines


def middle(runs: int, run: Callable[[], float]) -> float:
    """The median of some runs, the first of which does not count."""
    run()
    return statistics.median(run() for _ in range(runs))


def printed(argv: list[str], words: str, out: Path) -> float:
    """Seconds from the start of a process to its end, its output in a file."""
    with out.open("wb") as file:
        begun = time.monotonic()
        subprocess.run(argv, stdout=file, env={**os.environ, "SSH_ORIGINAL_COMMAND": words}, check=True)
        return time.monotonic() - begun


def opened(running: Browser, file: Path) -> tuple[float, float]:
    """Seconds until a page is drawn, and until it has checked itself; a page that does not gives the first twice."""
    page = running.new_page(viewport={"width": 1200, "height": 900})
    begun = time.monotonic()
    page.goto(file.as_uri())
    drawn = page.evaluate("() => new Promise((go) => requestAnimationFrame(() => setTimeout(() => go(0))))")
    drawn = time.monotonic() - begun
    checked = drawn
    if page.locator("#check").count():
        page.wait_for_function("() => globalThis.report?.check", timeout=600_000)
        checked = time.monotonic() - begun
        assert "every hash, link and signature is right" in page.inner_text("#check")
    page.close()
    return drawn, checked


def measure(records: int, runs: int, running: Browser, folder: Path) -> None:
    """Print a line of one history."""
    state = folder / str(records)
    key = load_private(kept.unpack_keys(folder / f"keys-{records}") / "coordinator_key")
    kept.unpack("best-free", state)
    state = state / "coordinator"
    ledger = state / "outbox" / "ledger.jsonl"
    ledger.write_bytes(b"".join(history(records, key)))
    argv = json.loads(script(COMMAND.format(root=str(ROOT), state=str(state)), ROOT))
    page, floor = folder / f"{records}.html", folder / f"{records}-floor.html"
    took = middle(runs, lambda: printed(argv, "report", page))
    copied = middle(runs, lambda: printed(["cat", str(page)], "", folder / "copy"))
    text = page.read_bytes()
    start = text.index(b'<script type="application/json"')
    floor.write_bytes(
        b"<!doctype html><title>floor</title>" + text[start : text.index(b"</script>", start)] + b"</script>"
    )
    drawn = middle(runs, lambda: opened(running, page)[0])
    checked = middle(runs, lambda: opened(running, page)[1])
    empty = middle(runs, lambda: opened(running, floor)[0])
    print(f"{records:6,} records, {len(text) / 1e6:5.2f} MB: printed in {took * 1000:4.0f} ms "
          f"(cat {copied * 1000:.0f}), drawn in {drawn:.2f} s (an empty page {empty:.2f}, {drawn / empty:.1f} times), "
          f"all checked in {checked:.2f} s")  # fmt: skip


def charts(npm: Path, runs: int, running: Browser, folder: Path) -> None:
    """Print a line of each library."""
    for name, (files, draw) in LIBRARIES.items():
        code = [(npm / "node_modules" / file).read_text().replace("</script", "<\\/script") for file in files]
        text = "".join(f"<script>{one}</script>" for one in ("const begun = performance.now();", *code, CHARTS + draw))
        file = folder / f"{name}.html"
        file.write_text(f"<!doctype html><meta charset=utf-8><body>{text}")

        def run(file: Path = file) -> float:
            page = running.new_page()
            page.goto(file.as_uri())
            page.wait_for_function("() => window.took !== undefined", timeout=60_000)
            took = float(page.evaluate("() => window.took"))
            page.close()
            return took

        size = sum(len(one) for one in code)
        print(f"{name}: {size / 1000:.0f} kB, four charts of 10,000 numbers in {middle(runs, run):.0f} ms")


def main() -> None:
    """Measure each size in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, nargs="*", default=[59, 1000, 10_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--npm", type=Path, help="measure charts by the libraries that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as running:
        print(f"Chromium {running.version}, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}")
        for records in options.records:
            measure(records, options.runs, running, Path(folder))
        if options.npm:
            charts(options.npm, options.runs, running, Path(folder))


if __name__ == "__main__":
    main()
