"""Flag beats variable beats default; a variable nobody knows is an error."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedssh.errors import SettingsError
from fedssh.settings import REQUIRED, check_environment, load, setting, settings_file, variables


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
        ({"BOB_DATA": "x", "BOB_WAIT": "soon"}, "BOB_WAIT is 'soon', expected a whole number from 0"),
        ({"BOB_DATA": "x", "BOB_WAIT": "-1"}, "BOB_WAIT is '-1', expected a whole number from 0"),
        ({"BOB_DATA": "x", "BOB_SEED": "1.5"}, "BOB_SEED is '1.5', expected a whole number"),
        ({"BOB_DATA": "x", "BOB_SCHEDULE": "rely"}, "BOB_SCHEDULE is 'rely', expected one of free, relay"),
        ({"BOB_DATA": "x", "BOB_DRAIN": "perhaps"}, "BOB_DRAIN is 'perhaps', expected yes or no"),
        ({"BOB_DATA": "x", "BOB_PAUSE": "nan"}, "BOB_PAUSE is 'nan', expected a number from 0"),
        ({"BOB_DATA": "x", "BOB_PAUSE": "inf"}, "BOB_PAUSE is 'inf', expected a number from 0"),
    ],
)
def test_a_bad_value_names_its_source_and_what_was_expected(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(Example, "bob", {}, environ)
    assert str(error.value) == message


@dataclass(frozen=True)
class WithFile(Example):
    terms: Path | None = settings_file("any of these")


def from_file(folder: Path, text: str, flags: dict[str, Any], environ: dict[str, str]) -> WithFile:
    (folder / "terms.toml").write_text(text)
    return load(WithFile, "bob", {"terms": str(folder / "terms.toml"), **flags}, environ)


def test_a_file_gives_what_neither_flag_nor_variable_does(tmp_path: Path) -> None:
    text = 'data = "x"\nwait = 5\nschedule = "relay"\ndrain = true\nseed = 3\npause = 2\n'
    found = from_file(tmp_path, text, {"wait": "9"}, {"BOB_SEED": "7"})
    path = tmp_path / "terms.toml"
    assert found == WithFile(Path("x"), 9, "relay", 7, drain=True, pause=2.0, terms=path)
    assert type(found.pause) is float
    assert load(WithFile, "bob", {"data": "y"}, {"BOB_TERMS": str(path)}).wait == 5
    assert load(WithFile, "bob", {"data": "y"}, {}) == WithFile(Path("y"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wiat = 5\n", "'wiat' is not a setting; did you mean 'wait'?"),
        ("terms = 'other.toml'\n", "'terms' is not a setting"),
        ("[plan]\nwait = 5\n", "'plan' is not a setting"),
        ('wait = "5"\n', "wait is '5', expected a whole number from 0"),
        ("wait = -5\n", "wait is -5, expected a whole number from 0"),
        ("drain = 1\n", "drain is 1, expected true or false"),
        ("data = 3\n", "data is 3, expected the name of a file or folder"),
        ("wait = \n", "cannot be read: Invalid value"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_file(tmp_path, text, {} if text.startswith("data") else {"data": "x"}, {})
    assert message in str(error.value)
    assert str(tmp_path / "terms.toml") in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"BOB_TERMS: .*none\.toml cannot be read"):
        load(WithFile, "bob", {"data": "x"}, {"BOB_TERMS": str(tmp_path / "none.toml")})


def test_an_unknown_variable_names_the_nearest_known_one() -> None:
    known = variables(Example, "bob")
    check_environment("bob", known, {"BOB_WAIT": "1", "BOBBY": "x", "ALICE_X": "1"})
    with pytest.raises(SettingsError) as error:
        check_environment("bob", known, {"BOB_WIAT": "1"})
    assert (str(error.value), error.value.hint) == ("BOB_WIAT is not a setting", "the nearest is BOB_WAIT")


STOPPED = """
import signal, threading, time
from fedssh.commands import stop_event
stop = stop_event()
signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGTERM))  # asked a thousand times a second
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for _ in range(500):
    stop.clear()
    while not stop.is_set():
        stop.wait(1e-6)
signal.setitimer(signal.ITIMER_REAL, 0)
print("stopped")
"""


def test_a_request_to_stop_is_heard_wherever_it_comes() -> None:
    """Also between the two halves of a wait, where the waiting thread holds the event's lock."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
