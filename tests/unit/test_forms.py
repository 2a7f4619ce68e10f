"""What a field may be, as tables: as a value, as a text, and what is said of anything else."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from fedssh.forms import Form, checked, named, nearest, number, one_of, text, whole, yes_or_no


@pytest.mark.parametrize(
    ("form", "value", "read", "used"),
    [
        (whole(), 0, "0", 0),
        (whole(1, 16), 16, " 16", 16),
        (whole(None, None), -3, "-3", -3),
        (number(), 1e308, "1e308", 1e308),
        (number(least=0, below=1), 0, "0", 0.0),
        (number(above=0, most=1), 1, "1", 1.0),
        (number(0, 0.9), 0.9, ".9", 0.9),
        (one_of("on", "off"), "off", "off", "off"),
        (text, " any ", " any ", " any "),
        (named, "mine-2", "mine-2", "mine-2"),
        (yes_or_no, True, "Yes", True),
        (yes_or_no, False, "0", False),
    ],
)
def test_a_value_and_a_text_are_read_alike(form: Form[Any], value: Any, read: str, used: Any) -> None:
    assert form(value) == form.read(read) == used
    assert type(form(value)) is type(form.read(read)) is type(used)


@pytest.mark.parametrize(
    ("form", "value", "said"),
    [
        (whole(), -1, "x is -1, expected a whole number in 0..2,147,483,647"),
        (whole(), 2**31, "x is 2147483648, expected a whole number in 0..2,147,483,647"),
        (whole(1, 10_000), True, "x is true, expected a whole number in 1..10,000"),
        (whole(1, 16), 2.0, "x is 2.0, expected a whole number in 1..16"),
        (whole(1, 16), "2", "x is '2', expected a whole number in 1..16"),
        (whole(1, None), 0, "x is 0, expected a whole number from 1"),
        (whole(None, None), None, "x is null, expected a whole number"),
        (number(least=0), -0.5, "x is -0.5, expected a number from 0"),
        (number(least=0, below=1), 1, "x is 1, expected a number from 0 to below 1"),
        (number(above=0, most=1), 0.0, "x is 0.0, expected a number above 0 to 1"),
        (number(0, 0.9), 0.91, "x is 0.91, expected a number from 0 to 0.9"),
        (number(), math.nan, "x is nan, expected a number"),
        (number(), math.inf, "x is inf, expected a number"),
        (number(least=0), 10**400, f"x is 1{'0' * 59}, expected a number from 0"),  # no float holds it
        (number(), False, "x is false, expected a number"),
        (one_of("on", "off"), "ajar", "x is 'ajar', expected one of on, off"),
        (one_of("on", "off"), ["on"], 'x is ["on"], expected one of on, off'),
        (text, 3, "x is 3, expected a text"),
        (named, "Mine", "x is 'Mine', expected a name of lower-case letters, digits and dashes"),
        (yes_or_no, 1, "x is 1, expected true or false"),
        (
            text,
            ["\x1b" * 99],
            'x is ["\\u001b\\u001b\\u001b\\u001b\\u001b\\u001b\\u001b\\u001b\\u001b\\u00, expected a text',
        ),
    ],
)
def test_what_it_cannot_be_is_said_in_one_line(form: Form[Any], value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(said)}\Z"):
        checked("x", value, form)


@pytest.mark.parametrize(
    ("form", "read", "said"),
    [
        (whole(1, 16), "x1", "--x is 'x1', expected a whole number in 1..16"),
        (whole(1, 16), "17", "--x is '17', expected a whole number in 1..16"),
        (whole(), "9" * 5000, f"--x is '{'9' * 60}', expected a whole number in 0..2,147,483,647"),
        (number(least=0), "1e999", "--x is '1e999', expected a number from 0"),
        (number(above=0), "soon", "--x is 'soon', expected a number above 0"),
        (yes_or_no, "perhaps", "--x is 'perhaps', expected yes or no"),
        (one_of("on", "off"), "", "--x is '', expected one of on, off"),
    ],
)
def test_a_text_is_shown_as_it_was_given(form: Form[Any], read: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(said)}\Z"):
        checked("--x", read, form.read)


def test_who_says_all_by_itself_is_named_only() -> None:
    with pytest.raises(ValueError, match=r"^x: there is none$"):
        checked("x", "y", _none)


def _none(value: Any) -> str:
    raise ValueError("there is none")


def test_the_nearest_word_is_offered_or_all() -> None:
    assert nearest("sitse", ["sites", "seeds"]) == "; did you mean 'sites'?"
    assert nearest("x", ["sites", "seeds"]) == "; known are sites, seeds"
    assert nearest("x", []) == "; known are none"
