"""A model card: what a model is, where it comes from, what it scored, and how anybody checks that. Markdown. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedssh.forms import printable
from fedssh.history.names import how_often
from fedssh.history.table import clock
from fedssh.use.decided import section


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        genesis: The fields of record 1.
        genesis_hash: Its hash.
        record: The number of the record that the model is taken from.
        hash: Its hash.
        model: SHA-256 of the model file.
        metrics: What it scored on the coordinator's holdout.
        sites: Whoever the federation consists of.
        created: The time of the record.
        tested: What was found on the coordinator's split `test`; None where nobody has looked.
        word: What that record is called: a site has releases, which name models of earlier records.
        names: What the model is called, as the history says: `tag`, `since`, `by`, `note`.
        on_test: What the history says of it on the test split, see `history.names.tested`; None where it says nothing.
    """

    genesis: Mapping[str, Any]
    genesis_hash: str
    record: int
    hash: str
    model: str
    metrics: Mapping[str, Any]
    sites: Sequence[str]
    created: str
    tested: Mapping[str, Any] | None = None
    word: str = "record"
    names: Sequence[Mapping[str, Any]] = ()
    on_test: Mapping[str, Any] | None = None

    @property
    def named(self) -> str:
        """The record, as people are told of it."""
        return f"{self.word} {self.record}"

    @property
    def rule(self) -> str | None:
        """How the threshold was found, where one was agreed."""
        return (self.genesis.get("decision") or {}).get("threshold")

    def short(self) -> dict[str, Any]:
        """By which a file can be traced."""
        return {
            "federation": self.genesis["federation"], "record": self.record, "hash": self.hash, "model": self.model,
        }  # fmt: skip


def card(origin: Origin, said: Mapping[str, Any]) -> str:
    """Write the card.

    Args:
        said: What the exported file says of its input and output.
    """
    genesis = origin.genesis
    title = f"# {escaped(genesis['federation'])}, the model of {origin.named}"
    tested = origin.tested or origin.on_test
    each = section(genesis, origin.metrics, tested, escaped, told=origin.on_test is not None)
    return "\n\n".join([title, _about(origin), *_called(origin), _USE, _contract(genesis, said), _scored(origin),
                        *_on_test(origin), *filter(None, [each]), _trained(genesis),
                        _ancestry(origin)]) + "\n"  # fmt: skip


_USE = """## Intended use

*To be written by whoever puts it to use: for what, for whom, under whose supervision. Nobody has written it yet.*"""


def _about(origin: Origin) -> str:
    sites = ", ".join(map(escaped, origin.sites)) or "none are enrolled"
    network = escaped(origin.genesis["spec"]["name"])
    return (
        f"A `{network}` network, trained by {len(origin.sites)} sites that did not share their data: {sites}. "
        f"Released {escaped(origin.created)}."
    )


def _called(origin: Origin) -> list[str]:
    """What it is called, since when, by whom and why."""
    lines = [
        f"- **{escaped(one['tag'])}** since {escaped(clock(one['since']))} UTC, by {escaped(one['by'])}"
        + (f": {escaped(one['note'])}" if one["note"] else "")
        for one in origin.names
    ]
    return ["\n".join(["Its names, when this file was written:", "", *lines])] if lines else []


def _on_test(origin: Origin) -> list[str]:
    """What the history says of it on the test split, and how often that was looked at."""
    if (found := origin.on_test) is None:
        return []
    when = f"record {found['record']} of {escaped(clock(found['time']))} UTC"
    lines = [
        "## On the coordinator's test split",
        f"{found['examples']:,} examples that no model was chosen by; {when}. This model was {how_often(found)}: a "
        "split says the less, the more often somebody looked before choosing.",
        _scores(found["metrics"], origin.genesis.get("class_names")),
    ]
    return ["\n\n".join(lines)]


def _contract(genesis: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    names = genesis.get("class_names") or ()
    called = ", ".join(f"{label} is {escaped(name)}" for label, name in enumerate(names)) or "without names"
    lines = [f"- input: {escaped(said['input'])}", f"- output: {escaped(said['output'])}"]
    if targets := genesis["spec"].get("targets"):
        called = ", ".join(map(escaped, names)) or "without names"
        figures = "; ".join(f"mean {one['mean']:g}, deviation {one['deviation']:g}" for one in targets)
        lines.append(f"- targets: {called}; of what the coordinator trained on: {figures}")
    else:
        several = "labels, of which an image may have several" if "labels" in genesis["spec"] else "classes"
        lines.append(f"- {several}: {called}")
    lines += [f"- decision: {escaped(said['decision'])}"] if said.get("decision") else []
    return "\n".join(["## What goes in and what comes out", "", *lines, *_columns(genesis.get("table"))])


def _columns(table: Mapping[str, Any] | None) -> list[str]:
    """The columns of a table, with their figures."""
    if table is None:
        return []
    lines = [
        "",
        f"Predicted is the column {escaped(table['target'])}. Figures and categories are those of the rows that the "
        "coordinator began with; the exported model has them inside. A number goes in as it is, a flag as 1 or 0, a "
        "category as the number before its name, an empty cell as NaN: it counts as the mean, or as no category.",
        "",
        "| | column | kind | mean | deviation | categories |",
        "|---|---|---|---|---|---|",
    ]
    for at, column in enumerate(table["columns"]):
        figures = [f"{column[name]:g}" if name in column else "" for name in ("mean", "deviation")]
        named = ", ".join(f"{place} {escaped(name)}" for place, name in enumerate(column.get("categories", ())))
        lines.append(f"| {at} | {escaped(column['name'])} | {column['kind']} | {' | '.join(figures)} | {named} |")
    return lines


def _scored(origin: Origin) -> str:
    table = _scores(origin.metrics, origin.genesis.get("class_names"))
    unit = "images" if origin.genesis.get("table") is None else "rows"
    where = f"On the coordinator's holdout {unit}, which no site has; a site's own {unit} may differ."
    return f"## What it scored\n\n{where}\n\n{table}"


def _trained(genesis: Mapping[str, Any]) -> str:
    plan = {name: value for name, value in genesis["plan"].items() if value is not None}
    lines = [
        f"- policy `{escaped(genesis['policy'])}`, schedule {escaped(genesis['schedule'])}",
        f"- plan of a session: `{json.dumps(plan, sort_keys=True)}`",
        f"- network: `{json.dumps(genesis['spec'], sort_keys=True)}`",
    ]
    return "\n".join(["## How it was trained", "", *lines])


def _ancestry(origin: Origin) -> str:
    return f"""## How to check where it comes from

- model file: SHA-256 `{origin.model}`
- record {origin.record}: `{origin.hash}`
- record 1: `{origin.genesis_hash}`

Whoever is enrolled reads the signed history, and checks it with stock tools (`scripts/verify`) or:

```sh
ssh charity@COORDINATOR history --export > ledger.jsonl
fedssh verify ledger.jsonl --head {origin.hash}
```"""


def _scores(metrics: Mapping[str, Any], names: Sequence[str] | None) -> str:
    plain = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    rows = ["| metric | value |", "|---|---|", *(f"| {escaped(name)} | {value:.4f} |" for name, value in plain.items())]
    confusion = metrics.get("confusion")
    if isinstance(confusion, list) and confusion:
        called = list(map(escaped, names)) if names else [str(number) for number in range(len(confusion))]
        rows += ["", f"| truth \\ called | {' | '.join(called)} |", "|---|" + "---|" * len(called)]
        rows += [
            f"| {name} | {' | '.join(str(int(count)) for count in row)} |"
            for name, row in zip(called, confusion, strict=True)
        ]
    return "\n".join(rows)


def escaped(value: object) -> str:
    """A name from elsewhere, fit for a page: nothing in it is Markdown or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in printable(str(value))[:200])
