"""The error tree and the one line a person sees."""

import subprocess
import sys

import pytest

from fedssh import errors

PROGRAM = """
import sys
from fedssh.commands import entry, new_group
from fedssh.errors import *
group = new_group("bob", "Test.")
@group.command()
def fail() -> None:
    raise {error}
sys.argv[1:] = {arguments}
entry(group, "bob")
"""


def run(error: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(error=error, arguments=[*arguments, "fail"])
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AgentError", 1),
        ("SettingsError", 2),
        ("UntrustedError", 3),
        ("SignatureError", 3),
        ("BundleError", 3),
        ("WeightsError", 3),
        ("ChannelError", 3),
        ("RollbackError", 3),
        ("LedgerError", 3),
        ("HostKeyError", 3),
        ("UnreachableError", 4),
    ],
)
def test_an_error_is_one_line_a_hint_and_its_exit_code(name: str, code: int) -> None:
    done = run(f"{name}('charity.example:22 is odd', 'look at it')")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines() == ["bob: error: charity.example:22 is odd", "bob: hint: look at it"]


def test_debug_shows_the_traceback() -> None:
    done = run("BundleError('odd')", "--debug")
    assert "Traceback" in done.stderr and "BundleError: odd" in done.stderr


def test_a_changed_host_key_is_never_something_to_retry() -> None:
    assert not issubclass(errors.HostKeyError, errors.UnreachableError)
