"""Flag beats variable beats default; a variable nobody knows is an error."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fedssh.errors import SettingsError
from fedssh.settings import REQUIRED, check_environment, load, setting, variables


@dataclass(frozen=True)
class Example:
    data: Path = setting(REQUIRED, "where the data is")
    wait: int = setting(30, "seconds to wait", at_least=0)
    schedule: str = setting("free", "who trains when", choices=("free", "relay"))
    seed: int | None = setting(None, "seed")
    drain: bool = setting(False, "stop when done")
    pause: float = setting(1.0, "seconds between tries", at_least=0)


def test_flag_beats_variable_beats_default() -> None:
    environ = {"BOB_DATA": "/x", "BOB_WAIT": "7", "BOB_DRAIN": "yes"}
    assert load(Example, "bob", {}, environ) == Example(Path("/x"), 7, drain=True)
    assert load(Example, "bob", {"wait": "9", "drain": False}, environ) == Example(Path("/x"), 9)
    assert load(Example, "bob", {"data": "d"}, {}) == Example(Path("d"), 30, "free", None, False)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "--data is missing"),
        ({"BOB_DATA": "x", "BOB_WAIT": "soon"}, "BOB_WAIT is 'soon', expected a whole number"),
        ({"BOB_DATA": "x", "BOB_WAIT": "-1"}, "BOB_WAIT is -1, expected at least 0"),
        ({"BOB_DATA": "x", "BOB_SCHEDULE": "rely"}, "BOB_SCHEDULE is 'rely', expected one of free, relay"),
        ({"BOB_DATA": "x", "BOB_DRAIN": "perhaps"}, "BOB_DRAIN is 'perhaps', expected yes or no"),
        ({"BOB_DATA": "x", "BOB_PAUSE": "nan"}, "BOB_PAUSE is nan, expected a finite number"),
        ({"BOB_DATA": "x", "BOB_PAUSE": "inf"}, "BOB_PAUSE is inf, expected a finite number"),
    ],
)
def test_a_bad_value_names_its_source_and_what_was_expected(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(Example, "bob", {}, environ)
    assert str(error.value) == message


def test_an_unknown_variable_names_the_nearest_known_one() -> None:
    known = variables(Example, "bob")
    check_environment("bob", known, {"BOB_WAIT": "1", "BOBBY": "x", "ALICE_X": "1"})
    with pytest.raises(SettingsError) as error:
        check_environment("bob", known, {"BOB_WIAT": "1"})
    assert (str(error.value), error.value.hint) == ("BOB_WIAT is not a setting", "the nearest is BOB_WAIT")
