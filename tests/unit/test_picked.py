"""Which records `history` is asked for, and what does not fit together."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.history import picked
from fedssh.history.picked import Misasked
from tests.unit.test_views import RECORDS, Known, chain

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("2026-11-26", "2026-11-26T00:00:00.000Z"),
        ("2026-11-26T10:00", "2026-11-26T10:00:00.000Z"),
        ("2026-11-26T10:00Z", "2026-11-26T10:00:00.000Z"),
        ("2026-11-26T10:00:30Z", "2026-11-26T10:00:30.000Z"),
        ("0001-01-01", "0001-01-01T00:00:00.000Z"),
        ("2h", "2026-11-18T09:06:40.000Z"),
        ("90s", "2026-11-18T11:05:10.000Z"),
        ("30m", "2026-11-18T10:36:40.000Z"),
        ("3d", "2026-11-15T11:06:40.000Z"),
        ("1w", "2026-11-11T11:06:40.000Z"),
        ("0s", "2026-11-18T11:06:40.000Z"),
        ("999999999999999w", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_from_when_on(text: str, begin: str) -> None:
    assert picked.since(text, NOW) == begin


WRONG = [
    "", "2", "h", "-2h", "+2h", "2 h", "2y", "1e3s", "1.5h", "²h", "١h", "9999999999999999s", "2026-13-01",
    "2026-02-30", "2026-11-26T24:01", "2026-11-26T10", "26-11-26", "2026-11-26 10:00", "2026-11-26T10:00+02:00",
    "2026-W48", "20261126", "0000-01-01", "２０２６-11-26", "now", "x" * 900,
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_time_is_said_with_an_example(text: str) -> None:
    with pytest.raises(Misasked, match=r"^--since is '.{0,42}', expected .* such as 2026-11-26 .* 2h, 3d$"):
        picked.since(text, NOW)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reading_of_a_time(text: str) -> None:
    with contextlib.suppress(Misasked):
        assert len(picked.since(text, NOW)) == 24


def test_names_come_with_commas_or_again() -> None:
    assert picked.events(["accepted,refused", "invalid", ","]) == {"accepted", "refused", "invalid"}
    assert picked.sites(["alice-2", "eve,alice-1,"], ["alice-1", "alice-2", "eve"]) == {"alice-1", "alice-2", "eve"}


@pytest.mark.parametrize("given_", [[], [","], ["", ""]])
def test_naming_nothing_is_an_error(given_: list[str]) -> None:
    with pytest.raises(Misasked, match="--event names nothing"):
        picked.events(given_)


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(Misasked, match=r"--event: 'acepted' is no event; did you mean 'accepted'\?"):
        picked.events(["refused", "acepted"])
    with pytest.raises(Misasked, match=r"--site: 'alice-3' was never enrolled; did you mean 'alice-\d'\?"):
        picked.sites(["alice-3"], ["alice-1", "alice-2"])
    with pytest.raises(Misasked) as told:
        picked.sites(["x" * 900], ["alice-1"])
    assert len(str(told.value)) < 200
    assert picked.events(list(picked.names(["round-accepted,genesis"])))


def test_a_pattern_is_a_name_like_any_other() -> None:
    for text in (".*", "alice-?", "(a+)+$", "%", "alice-1'--"):
        with pytest.raises(Misasked, match="was never enrolled"):
            picked.sites([text], ["alice-1"])


def numbers(**asked: object) -> list[int]:
    return [record["sequence"] for record in RECORDS if picked.picks(asked)(record)]


def test_records_are_picked_by_time_site_and_event() -> None:
    assert numbers() == list(range(1, 12))
    assert numbers(since="2026-01-31T12:00:09.000Z") == [9, 10, 11]
    assert numbers(sites=frozenset({"alice-2"})) == [3, 7, 8, 10]
    assert numbers(events=frozenset({"release", "accepted"})) == [5, 6, 11]
    everything = {
        "since": "2026-01-31T12:00:04.000Z",
        "sites": frozenset({"alice-2"}),
        "events": frozenset({"refused"}),
    }
    assert numbers(**everything) == [7]


@pytest.mark.parametrize("last", [0, 1, 2, 3, 10**15])
@pytest.mark.parametrize("after", [0, 6, 8, 11, 10**15])
@pytest.mark.parametrize("at_once", [1, 2, 3, 1024])
def test_the_newest_of_those_asked_for(last: int, after: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picked, "_AT_ONCE", at_once)
    for asked in (
        {},
        {"sites": frozenset({"alice-2"})},
        {"events": frozenset({"genesis"})},
        {"sites": frozenset({"x"})},
    ):
        one = picked.picks(asked)
        begin = picked.before_last(Known(RECORDS), last, one, after)
        shown = [record["sequence"] for record in Known(RECORDS).rows(begin) if one(record)]
        wanted = [record["sequence"] for record in RECORDS if record["sequence"] > after and one(record)]
        assert shown == wanted[max(0, len(wanted) - last) :]


def test_the_newest_are_found_without_reading_all() -> None:
    known = Known(chain(*({"event": "release"} if at % 2 else {"event": "report", "site": "a"} for at in range(9000))))
    begin = picked.before_last(known, 3, picked.picks({"events": frozenset({"report"})}))
    assert begin == 8994 and len(known.read) <= 1024


TOGETHER = ("--last", "--since", "--site", "--event", "--after", "--follow")


def test_what_goes_together_and_what_does_not() -> None:
    for form in ("--json", "--csv", "--last"):
        picked.check([form, *TOGETHER])
    picked.check(["--export", "--last", "--after", "--follow"])
    picked.check(["--export", "--after", "--round"])
    for pair in itertools.combinations(("--json", "--csv", "--export"), 2):
        with pytest.raises(Misasked, match=f"{pair[0]} and {pair[1]} are two forms"):
            picked.check(pair)
    for gap in ("--since", "--site", "--event"):
        with pytest.raises(Misasked, match=f"{gap} would leave gaps in an --export"):
            picked.check(["--export", gap])
    with pytest.raises(Misasked, match="--round belongs to --export"):
        picked.check(["--round", "--json"])
    with pytest.raises(Misasked, match="--round waits for one round, and --follow has no end"):
        picked.check(["--round", "--export", "--follow"])
