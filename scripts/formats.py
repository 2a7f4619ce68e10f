"""Write docs/reference/formats.md from the types, the tables and the docstrings that say what is stored and sent.

Nothing is said here that the code could say: a page that is wrong is put right there. `tests/unit/test_formats.py`
holds that the page is what this makes.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedssh import bundle, errors, forms, manifest, models, signature, weights
from fedssh.channel import handshake
from fedssh.history import verbs
from fedssh.rules import events, masking, options, policies, standing, terms, thresholds, vocabulary
from fedssh.rules.typed import members
from fedssh.split import talk
from scripts import environment

ROOT = environment.ROOT
PAGE = ROOT / "docs" / "reference" / "formats.md"
COLUMNS = 120
MESSAGES = (
    manifest.Claim, manifest.SessionOver, manifest.SiteScored, manifest.Submission, manifest.Report, manifest.Scores,
    manifest.MaskedWord, manifest.Release,
)  # fmt: skip
OBJECTS = (
    events.Blob, events.Local, events.Measured, events.Part, events.GroupSum, events.Work, events.Spent,
    standing.Standing, standing.OpenRound, standing.LastRound, standing.Layers, masking.Advert, masking.Shares,
    masking.Answer,
)  # fmt: skip
FORMS = {
    forms._SITE: "site name", forms._ID: "id", manifest._HEX: "hash", manifest._TIME: "time",
    manifest._FINGERPRINT: "fingerprint", handshake._KEY: "X25519 key",
}  # fmt: skip
OVER_SSH = (
    "agents/door/command.py", "agents/door/upload.py", "agents/door/relay.py", "agents/history/listing.py",
)  # fmt: skip
AT_A_SITE = (
    "agents/alice/exchange.py", "agents/alice/incoming.py", "agents/alice/memory.py", "agents/alice/terms.py",
    "agents/bob/site.py", "agents/bob/way.py", "agents/bob/spool.py", "agents/bob/receipts.py",
    "agents/bob/followed.py", "agents/bob/standing.py", "agents/bob/relay.py", "agents/bob/peers.py",
    "agents/bob/masking.py",
)  # fmt: skip
AT_THE_COORDINATOR = ("agents/charity/folders.py", "agents/charity/snapshot.py", "agents/history/totals.py")

INTRODUCTION = f"""\
# Formats

What is stored and sent, for whoever writes a reader or another agent. `scripts/formats` makes this page from the types
and docstrings of the code; change it there. `tests/vectors` has an example of each, good and bad, with what must come
out. [The map](../explanation/map.md) says which room touches what.

## How things are written

**Canonical JSON**: UTF-8, keys sorted by code point, no spaces outside of texts, no key twice, at most
{forms.MAX_BYTES:,} bytes, nested at most {forms.MAX_DEPTH} deep. In texts `"`, `\\` and control characters below U+0020
are escaped (`\\b`, `\\f`, `\\n`, `\\r`, `\\t`, else `\\u00xx`), all others stand as they are. Numbers are finite;
one with a fraction is the shortest that reads back as the same double, as Python's `repr` writes it (`0.1`, `1e-05`,
`1e+16`), so `1` and `1.0` are different bytes. A reader serialises what it read and refuses what does not give the same
bytes, so a signature covers exactly one meaning.

| type | what |
|---|---|
| text | a JSON string |
| whole number | from 0 to 2^53 - 1, without a point |
| number | a finite JSON number, whole or not |
| object | a JSON object; what is in it is said beside it |
| list of … | a JSON list |
| null | JSON's `null` |

| form | what | as a regular expression |
|---|---|---|
| site name | of a site or an auditor | `{forms._SITE.pattern}` |
| id | UUIDv7 (RFC 9562, section 5.7) | `{forms._ID.pattern}` |
| hash | SHA-256, in hexadecimal | `{manifest._HEX.pattern}` |
| time | UTC, with milliseconds | `{manifest._TIME.pattern}` |
| fingerprint | of a public key, as `ssh-keygen -l` prints it | `{manifest._FINGERPRINT.pattern}` |
| X25519 key | 32 bytes in base64 (RFC 7748) | `{handshake._KEY.pattern}` |
"""


def page() -> str:
    """The whole page."""
    return "\n\n".join(map(_wrapped, _parts())) + "\n"


def _wrapped(part: str) -> str:
    """A paragraph in lines; what has lines already stays as it is."""
    part = part.strip("\n")
    return part if "\n" in part else textwrap.fill(part, COLUMNS, break_long_words=False, break_on_hyphens=False)


def _parts() -> Iterator[str]:
    yield INTRODUCTION
    yield from _travels()
    yield from _history()
    yield from _agreed()
    yield from _channel()
    yield "## Over SSH"
    yield from map(_module, OVER_SSH)
    yield "What `help` prints:"
    yield _block(verbs.help_text())
    yield "## Folders"
    yield "### At the coordinator"
    yield from map(_module, AT_THE_COORDINATOR)
    yield "### At a site"
    yield from map(_module, AT_A_SITE)
    yield from _exit_codes()


def _travels() -> Iterator[str]:
    yield "## What travels"
    yield "### The bundle"
    yield _module("agents/bundle.py")
    yield _table(
        ("member", "at most, bytes"),
        [(f"`{name}`", f"{most:,}") for name, most in zip(bundle._NAMES, bundle._LIMITS, strict=True)],
    )
    yield "### Signatures"
    yield _module("agents/signature.py")
    spaces = {name: value for name, value in vars(signature).items() if name.isupper() and "@" in str(value)}
    yield _list("The namespaces:", [f"`{value}`" for value in spaces.values()])
    yield "### The sealed model"
    yield _module("agents/age.py")
    yield "### Messages"
    yield _module("agents/manifest.py")
    yield (
        f"Each has `kind`, and those that travel `format` {manifest.FORMAT}, beside the following; all members are "
        "always there but those that may be missing, and a reader refuses others."
    )
    for message in MESSAGES:
        where = "travels, signed" if message.travels else "from Alice to Bob"
        yield f"#### The message `{message.kind}`, {where}"
        yield _first_line(message)
        yield _members(message, message=True)
    yield "### The model file"
    yield _module("agents/weights.py")
    yield (
        f"The whole file has at most {weights.MAX_BYTES:,} bytes, its header at most {weights.MAX_HEADER_BYTES:,}; a "
        "tensor has at most 8 dimensions."
    )
    yield "### Networks"
    [spec] = (part for part in _docstring("models/__init__.py").split("\n\n") if part.startswith("A *spec*"))
    yield spec
    yield _module("models/tasks.py")
    yield "Tensors are named by layer and variable, in the order in which the network is built."
    rows = []
    for name in filter(lambda name: not models.is_own(name), models.architectures()):
        own = importlib.import_module(f"fedssh.models.networks.{name}").PARAMETERS
        file = f"models/networks/{name}.py"
        rows.append((f"[`{name}`](../../{file})", _named(own), _docstring(file).split("\n\n")[0]))
    yield _table(("name", "parameters", "what"), rows)


def _history() -> Iterator[str]:
    yield "## The history"
    yield "### Ledger lines and the chain"
    yield _module("agents/ledger.py")
    yield _module("agents/chain.py")
    yield "### Events"
    yield (
        "A record has `sequence`, `previous`, `event`, `time` and what its event says. A member that a reader does not "
        "know is kept and passed over; so is a record whose event it does not know. **Judges**: is the one answer to a "
        "bundle, and stands in `outbox/verdicts`; **verdict**: on a model; **current**: its `model` is the current one "
        "from there on; **closes**: a round."
    )
    sets = (vocabulary.JUDGED, vocabulary.VERDICTS, vocabulary.MAKES_CURRENT, vocabulary.CLOSES_ROUND)
    yield _table(
        ("event", "what", "judges", "verdict", "current", "closes"),
        [
            (f"[`{name}`](#the-event-{name})", _first_line(kind), *("x" if name in one else "" for one in sets))
            for name, kind in events.EVENTS.items()
        ],
    )
    for name, kind in events.EVENTS.items():
        yield f"#### The event `{name}`"
        yield _first_line(kind)
        yield _members(kind)
    yield "### Objects in records and messages"
    for one in OBJECTS:
        yield f"#### The object `{one.__name__}`"
        yield _first_line(one)
        yield _members(one)
    yield "### Scores"
    told = _section("models/score.py", "score", "Returns").partition(": ")[2].replace("None", "null")
    yield f"The object `metrics`, but for that of a report and of what a site scored: {told}"
    numbers = _section("models/score.py", "regression", "Returns").partition(": ")[2].replace("None", "null")
    yield f"In a regression: {numbers} Lower errors are better, so the best is the smallest."
    several = _section("models/score.py", "several", "Returns").partition(": ")[2].replace("None", "null")
    yield f"Of several labels at once: {several}"
    yield (
        "What cannot be computed is null, but for `loss` and errors. Shares (`accuracy`, `precision`, `recall`, `auc`, "
        "`balanced_accuracy`, `f1`) are in 0..1; with the gate `ladder` up to half a margin above, for it tells the "
        "nearest of its steps."
    )
    yield "Where genesis has a `decision`, scores on the holdout say more:"
    yield _table(("member", "meaning"), [(f"`{name}`", means) for name, means in thresholds.NAMES.items()])


def _agreed() -> Iterator[str]:
    yield "## What is agreed"
    yield "### Terms"
    yield _module("agents/rules/terms.py")
    yield _table(
        ("term", "what it may be", "default", "meaning"),
        [
            (f"`{field.name}`", _may_be(field.metadata["form"]), _shown(field.default), field.metadata["help"])
            for field in dataclasses.fields(terms.Terms)
        ],
    )
    yield "### The training plan"
    yield (
        "The object `plan` of genesis and of every release: of the terms those that concern training, and the loss. "
        f"What came later ({', '.join(f'`{name}`' for name in terms.LATER)}) stands there only where it is not as by "
        "default, and the loss names it: `binary_crossentropy with class_weights`; it names the metric, too, where "
        "that is balanced accuracy or F1. A site refuses a plan with a member that it does not know; programs from "
        "before those refuse the loss."
    )
    yield _block(_section("agents/rules/plan.py", "Plan", "Attributes", join=False))
    yield "### Policies"
    yield (
        "A policy is one text, `NAME` or `NAME:OPTION=VALUE,…`, with every option that counts written out. What each "
        "does to weights is a file in [agents/rules/policies](../../agents/rules/policies); what is decided from "
        "scores stands in [gate.py](../../agents/rules/gate.py), who is drawn and when a round closes in "
        "[rounds.py](../../agents/rules/rounds.py), what all rounds do to weights in "
        "[averaging.py](../../agents/rules/averaging.py) and "
        "[server_optimizer.py](../../agents/rules/server_optimizer.py). "
        "[replay.py](../../agents/rules/replay.py) recomputes a whole history from them."
    )
    yield _table(
        ("policy", "what it does", "its options"),
        [
            (f"`{row['policy']}`", row["does"], ", ".join(f"`{name}`" for name in row["options"]))
            for row in policies.described()
        ],
    )
    yield _table(("option", "what it may be", "default", "meaning"), list(_options()))
    yield "### Rates"
    yield _module("agents/rules/rates.py")


def _channel() -> Iterator[str]:
    yield "## The channel"
    yield "### Frames"
    yield _module("agents/channel/frames.py")
    yield "### The handshake"
    yield _module("agents/channel/handshake.py")
    for kind in (handshake.Offer, handshake.Answer):
        yield f"#### The text `{kind.__name__.lower()}`"
        yield _first_line(kind)
        yield _members(kind, forms=handshake._FORMS)
    yield "### Sealed frames"
    yield _module("agents/channel/sealed.py")
    yield "### A turn of split learning"
    yield _module("agents/split/talk.py")
    for said in (talk.Hello, talk.Stand, talk.Fault):
        yield f"#### The frame `{said.__name__.upper()}`"
        yield _first_line(said)
        yield _members(said)
    yield _module("agents/split/wire.py")
    yield "### Sockets"
    yield _module("agents/channel/sockets.py")


def _options() -> Iterator[tuple[str, str, str, str]]:
    known = {
        (name, option.means): option
        for row in policies.described()
        for name, option in policies.Policy(row["policy"], {}).rule.options.items()
    }
    for row in policies.described_options():
        option: options.Option = known[row["option"], row["means"]]
        yield f"`{row['option']}`", _may_be(option.form), _shown(row["default"]), row["means"]


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes"
    yield "Of `alice`, `bob`, `charity` and `fedssh`; 0 is done. Those of the verbs over SSH stand above."
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.AgentError)]
    ordered = sorted(kinds, key=lambda kind: kind.exit_code)
    yield _table(("code", "error", "what"), [(k.exit_code, f"`{k.__name__}`", _first_line(k)) for k in ordered])


# Pieces of a page


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [" | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in row) for row in (columns, *rows)]
    head, *rest = (f"| {line} |" for line in lines)
    return "\n".join([head, "|---" * len(columns) + "|", *rest])


def _members(kind: type[Any], *, message: bool = False, forms: Mapping[str, re.Pattern[str]] | None = None) -> str:
    """The members of a type; the texts of a message have the forms that belong to their names."""
    named = {**manifest._FORMS, "recipients": manifest._FINGERPRINT} if message else {**(forms or {})}
    rows = [
        (
            f"`{name}`",
            _linked(type_) + (f": {FORMS[named[name]]}" if name in named else ""),
            means + ("" if always else " *May be missing.*"),
        )
        for name, type_, means, always in members(kind)
    ]
    return _table(("member", "type", "meaning"), rows)


def _linked(type_: str) -> str:
    """A type with its objects as links."""
    known = "|".join(kind.__name__ for kind in OBJECTS)
    return re.sub(rf"\b({known})\b", lambda one: f"[{one[0]}](#the-object-{one[0].lower()})", type_)


def _list(head: str, entries: Iterable[str]) -> str:
    return f"{head} {', '.join(entries)}."


def _block(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


def _named(values: dict[str, int]) -> str:
    return ", ".join(f"`{name}` [{value}]" for name, value in values.items()) or "none"


def _shown(value: object) -> str:
    return "none" if value is None else f"`{value}`"


def _may_be(form: forms.Form[Any]) -> str:
    """What a form may be, in the words with which it refuses what it may never be."""
    try:
        form(object())
    except forms.Expected as error:
        return str(error).removeprefix("expected ")
    raise AssertionError("a form takes anything")


def _module(file: str) -> str:
    """A module's docstring, with where it stands. What is indented in it is shown as it is."""
    parts = re.split(r"((?:^    .*\n)+)", f"{_docstring(file)}\n", flags=re.MULTILINE)
    prose = [re.sub(r"(`[^`]*`)|<", lambda one: one[1] or "\\<", part) for part in parts[::2]]
    blocks = [_block(inspect.cleandoc(part)) + "\n" for part in parts[1::2]]
    mixed = [text for pair in zip(prose, [*blocks, ""], strict=True) for text in pair]
    return f"[{file}](../../{file}):\n{''.join(mixed)}".strip()


def _docstring(file: str, inside: str = "") -> str:
    """The docstring of a file, or of something in it; nothing is imported for it."""
    tree: Any = ast.parse((ROOT / file).read_text())
    for one in tree.body if inside else ():
        if getattr(one, "name", None) == inside:
            tree = one
    text = ast.get_docstring(tree)
    assert text, f"{file} says nothing of {inside or 'itself'}"
    return text


def _section(file: str, inside: str, heading: str, *, join: bool = True) -> str:
    """What a docstring says under a heading such as `Returns`."""
    found = re.search(rf"^{heading}:\n(.*?)(?=^\S|\Z)", _docstring(file, inside), re.MULTILINE | re.DOTALL)
    assert found, f"{inside} of {file} has no {heading}"
    text = inspect.cleandoc(found[1])
    return " ".join(text.split()) if join else text


def _first_line(kind: type[Any]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    from scripts import reference  # the other pages that are made from the code

    reference.write()
