"""What many tests need: keys made once per session, and what this machine has."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fedssh.keys import PrivateKey, load_private, make_key
from fedssh.models import own

KEYS = ("coordinator", "alice-1", "alice-2", "alice-3", "stranger")


# How long one example takes says something of the machine only.
hypothesis.settings.register_profile("fedssh", deadline=None)
hypothesis.settings.load_profile("fedssh")


def pytest_configure() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, which every process of a test would inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    """RSA keys by name; made once because an RSA key of 3072 bits takes a tenth of a second or more.

    By the first of the processes that share the tests; the others wait for it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "keys").mkdir(exist_ok=True)
    with open(folder / "keys.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {name: _key(folder / "keys" / name) for name in KEYS}


def _key(path: Path) -> PrivateKey:
    return load_private(path) if path.exists() else make_key(path, path.name)


@pytest.fixture(autouse=True, scope="module")
def own_networks_of_a_file() -> Iterator[None]:
    """Networks of one's own that what a file of tests shares looks for are forgotten with the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(own.VARIABLE, os.environ.get(own.VARIABLE, ""))
        yield


@pytest.fixture(autouse=True)
def own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one's own that a test's programs look for are forgotten with it."""
    monkeypatch.setenv(own.VARIABLE, os.environ.get(own.VARIABLE, ""))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


def docker_reason() -> str | None:
    """Why no Docker engine with compose v2 can be used here, or None."""
    if shutil.which("docker") is None:
        return "no docker command"
    for question, missing in ((["info"], "no Docker engine answers"), (["compose", "version"], "no compose v2 plugin")):
        if subprocess.run(["docker", *question], capture_output=True, check=False, timeout=30).returncode:
            return missing
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """What takes longer than its turn in the suite is worth is asked for: `scripts/test --long`."""
    parser.addoption("--long", action="store_true", help="also run what takes long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and what was not asked for, with the reason."""
    long = None if config.getoption("--long") else "takes long: scripts/test --long"
    sshd = "no sshd (on Debian and Ubuntu: apt install openssh-server)" if _sshd() is None else None
    docker = docker_reason() if any(item.get_closest_marker("docker") for item in items) else None
    for item in items:
        for marker, reason in (("docker", docker), ("sshd", sshd), ("long", long)):
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _sshd() -> str | None:
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
