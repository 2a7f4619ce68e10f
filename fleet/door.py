"""The door as an auditor finds it from home: stock `ssh` with the user's own key and the host key of the invitation."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from fedssh.commands import printable
from fedssh.errors import HostKeyError, UntrustedError

SECONDS = 30


def status(invitation: bytes, options: tuple[str, ...]) -> str:
    """What `ssh charity@HOST status` says, in words; or why it could not be asked from here.

    Args:
        invitation: An auditor's.
        options: Further options of `ssh`, from the inventory.

    Raises:
        HostKeyError: Something answers there with another host key than the door's.
        UntrustedError: The invitation is none.
    """
    try:
        told = json.loads(invitation)
        user, host, port, key = (str(told[name]) for name in ("user", "host", "port", "host_key"))
    except (ValueError, KeyError, TypeError) as error:
        raise UntrustedError(f"the coordinator's answer is no invitation: {error}") from None
    with tempfile.NamedTemporaryFile("w", prefix="fedssh-", suffix=".known_hosts") as known:
        known.write(f"door {key}\n")
        known.flush()
        pins = [f"UserKnownHostsFile={known.name}", "GlobalKnownHostsFile=/dev/null", "HostKeyAlias=door"]
        words = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=10",
            "UpdateHostKeys=no",
            *pins,
            *options,
        ]
        command = ["ssh", "-p", port, *(f"-o{word}" for word in words), f"{user}@{host}", "status --json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"not asked from here: no answer in {SECONDS} s"
    if "Host key verification failed" in done.stderr:
        raise HostKeyError(
            f"{host}:{port} answers with another host key than the door's",
            "something stands between here and the coordinator; sites will not speak to it either",
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"not asked from here: {printable(lines[-1].strip()) if lines else f'exit code {done.returncode}'}"
    found = json.loads(done.stdout)
    return f"answers here over SSH: {found['federation']}, record {found['records']}, {len(found['sites'])} sites"


def first_auditor(folder: Path, auditors: tuple[str, ...]) -> bytes | None:
    """The invitation of the first auditor that has one."""
    for name in auditors:
        path = folder / f"{name}.json"
        if path.is_file():
            return path.read_bytes()
    return None
