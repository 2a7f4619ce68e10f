"""docs/reference/formats.md is what scripts/formats makes of the code, and has everything that is stored or sent."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedssh import errors, manifest
from fedssh.channel import handshake
from fedssh.history.verbs import VERBS
from fedssh.rules import events, masking, vocabulary
from fedssh.rules.policies import described, described_options
from fedssh.rules.standing import LastRound, Layers, OpenRound, Standing
from fedssh.rules.terms import Terms
from fedssh.rules.typed import Typed, members
from fedssh.split import talk

KINDS = (
    *events.EVENTS.values(), events.Blob, events.Local, events.Measured, events.Part, events.GroupSum, events.Work,
    events.Spent, Standing, OpenRound, LastRound, Layers, talk.Hello, talk.Stand, talk.Fault,
    manifest.Claim, manifest.SessionOver, manifest.SiteScored, manifest.Submission, manifest.Report, manifest.Scores,
    manifest.MaskedWord, masking.Advert, masking.Shares, masking.Answer,
    manifest.Release, handshake.Offer, handshake.Answer,
)  # fmt: skip


@pytest.fixture
def formats(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of scripts/, which is no package."""
    monkeypatch.syspath_prepend(str(root / "scripts"))
    return importlib.import_module("formats")


def described_kinds(cls: type[Typed] = Typed) -> Iterator[type[Typed]]:
    """Everything typed that stands in a record."""
    for kind in cls.__subclasses__():
        yield kind
        yield from described_kinds(kind)


def test_the_page_is_what_the_code_makes(formats: Any) -> None:
    assert formats.PAGE.read_text() == formats.page(), "run scripts/formats"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_member_has_a_meaning_on_the_page(formats: Any, kind: type[Any]) -> None:
    page = formats.PAGE.read_text()
    assert members(kind)
    for name, _, means, _ in members(kind):
        assert means.endswith(".") and f"| `{name}` |" in page and f"| {means}" in page, name


def test_no_kind_is_left_out(formats: Any) -> None:
    shared = {events.Event, events.Verdict, events.RoundClosed, events.Unknown}
    assert set(described_kinds()) - shared <= set(KINDS)
    page = formats.PAGE.read_text()
    for name in events.EVENTS:
        assert f"#### The event `{name}`\n" in page
    words = {*vocabulary.JUDGED, *vocabulary.VERDICTS, *vocabulary.MAKES_CURRENT, *vocabulary.CLOSES_ROUND}
    assert words <= events.EVENTS.keys()


def test_the_page_has_the_tables(formats: Any) -> None:
    page = formats.PAGE.read_text()
    codes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AgentError)]
    rows = [
        *(f"| `{field.name}` |" for field in dataclasses.fields(Terms)),
        *(f"| `{row['policy']}` | {row['does']} |" for row in described()),
        *(f"| {row['means']} |" for row in described_options()),
        *(f"| {kind.exit_code} | `{kind.__name__}` |" for kind in codes),
    ]
    assert [row for row in rows if row not in page] == []
    assert len(codes) >= 10 and all(f"\n{next(iter(told))} " in page for *_, told in VERBS.values())


def test_links_lead_somewhere(formats: Any, root: Path) -> None:
    page = re.sub(r"`[^`\n]*`", "", formats.PAGE.read_text())
    targets = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(targets) > 20
    assert [target for target in targets if not (root / "docs/reference" / target).exists()] == []
    headings = [line for line in formats.PAGE.read_text().splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w -]", "", heading.strip("# ").lower()).replace(" ", "-") for heading in headings}
    wanted = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert len(wanted) > 20 and wanted <= anchors
