"""docs/explanation/which-of-the-two.md: its commands print what stands there, and its table and figures."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedssh.charity.cli import charity


@pytest.fixture(autouse=True)
def at_the_checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/explanation/which-of-the-two.md").read_text()


def run(*words: str) -> str:
    done = CliRunner().invoke(charity, ["plan", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@cache
def every_cut(network: str, size: str, classes: str) -> dict[str, Any]:
    """As with `--cut`, for all cuts of a network at once: each is a row of its own either way."""
    found: dict[str, Any] = json.loads(
        run("--networks", "experiments/networks", "--architecture", network, "--size", size, "--outputs", classes,
            "--images", "1000", "--all", "--json")
    )  # fmt: skip
    return found


def one(network: str, size: str, classes: str, cut: str) -> dict[str, Any]:
    found = every_cut(network, size, classes)
    [row] = [row for row in found["cuts"] if row["cut"] == [cut]]
    return {**row, "weights": found["network"]["weights"]}


def percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 1 else f"{100 * share:.0f} %"


def test_its_commands_print_what_stands_there(page: str) -> None:
    blocks = re.findall(r"^```console\n\$ charity plan ([^\n]*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for command, printed in blocks:
        assert run(*shlex.split(command)) == printed


def test_its_table_is_what_the_command_prints(page: str) -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| `.*$", page, re.MULTILINE)
    ]
    assert len(rows) == 18
    for network, size, classes, weights, cut, *cells in rows:
        found = one(network, size, classes, cut)
        even = [found["wires"][wire]["break_even_images"] for wire in ("f32", "f16", "int8")]
        published = found["wires"]["f32"]["published_break_even_images"]
        expected = [percent(found["of_forward"]), percent(found["of_fedavg"])]
        numbers = [f"{number:,.0f}" for number in (published, *even)]
        assert weights == f"{found['weights']:,}", network
        assert cells == [f"{found['floats']:,}", *expected, *numbers], f"{network} {cut}"


def test_the_published_ratio_and_ours(page: str) -> None:
    first, second = (one("vgg", "32x32x3", "10", cut) for cut in ("conv1_1", "conv1_2"))
    published = " ".join(page[page.index("| 190 times") :].split("\n")[0].split())
    assert f"forward: {1 / first['of_forward']:.0f} times" in published
    assert f"One convolution later it is {1 / second['of_forward']:.0f} times" in published
    ours = f"{1 / first['of_fedavg']:.0f} times and {1 / second['of_fedavg']:.1f}"
    assert f"As these programs train, {ours}" in published
