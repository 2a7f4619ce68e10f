"""A stock sshd on loopback: with a door for bundles behind every login, or as a jump host."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.address import Address
from fedssh.keys import PrivateKey
from fedssh.transport import Connection
from scripts.demo.federation import free_port

# Stands behind every login: a door that stores one file in $STORE, or does what the verb says.
DOOR = """#!/bin/sh
case "$SSH_ORIGINAL_COMMAND" in
  "scp -t .") case $(cat $STORE/mood 2>/dev/null) in
      refuse) printf '\\001refused: the bundle has 9 bytes too many\\n';;
      later) printf '\\001later: the disk is full\\n';;
      halfway) printf '\\000'; head -c 300000 >/dev/null; echo 'charity: later: the disk is full' >&2; exit 4;;
      spoil) printf '\\000'; head -c 300000 >/dev/null; echo 'charity: refused: one bundle per scp' >&2; exit 3;;
      die) printf '\\000'; head -c 300000 >/dev/null; kill -9 $$;;
      *) exec scp -t $STORE;;
    esac;;
  words) printf 'one two';;
  lines) printf 'one\\ntwo\\n'; exec cat /dev/zero;;
  flood) exec head -c 5000000 /dev/zero;;
  nothing) echo 'no verdict yet' >&2; exit 4;;
  later) echo 'charity: later: the coordinator is not ready yet' >&2; exit 4;;
  refused) printf 'charity: refused:\\033[31m not\\n enrolled' >&2; exit 3;;
  broken) exit 1;;
  killed) printf half; kill -9 $$;;
  sleep) exec sleep 60;;
esac
"""


@dataclass
class Host:
    """A stock sshd and a proxy in front of it that can be cut."""

    folder: Path
    key: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def make_host_key(self, kind: str = "ed25519") -> None:
        for path in (self.folder / "host", self.folder / "host.pub"):
            path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", self.folder / "host"], check=True)

    def lets_in(self, key: PrivateKey, options: str) -> None:
        """Whom the host lets in, and to what."""
        (self.folder / "authorized").write_text(f"{options} {key.public.line}\n")

    def pin(self, port: int | None = None) -> None:
        public = (self.folder / "host.pub").read_text()
        self.known_hosts.write_text(f"# pinned\n@revoked x {public}[127.0.0.1]:{port or self.port},other {public}")

    def start(self) -> None:
        sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        assert sshd
        self.process = subprocess.Popen([sshd, "-D", "-e", "-f", self.folder / "config"], stderr=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError("sshd does not start")

    def stop(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def connect(
        self, port: int | None = None, user: str | None = None, key: Path | None = None, **way: Any
    ) -> Connection:
        address = Address(user or getpass.getuser(), "127.0.0.1", port or self.port)
        return Connection(address, key or self.key, self.known_hosts, timeout=5, **way)


@contextlib.contextmanager
def stock_host(folder: Path, key: PrivateKey, options: str | None = None) -> Iterator[Host]:
    """A running sshd that lets one key in.

    Args:
        options: What stands before the key in authorized_keys; the door for bundles unless given.
    """
    host = Host(folder, key.path, free_port())
    host.store.mkdir(parents=True)
    host.make_host_key()
    door = folder / "door"
    door.write_text(DOOR)
    door.chmod(0o755)
    host.lets_in(key, options or f'restrict,command="STORE={host.store} exec {door}"')
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{host.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    host.start()
    host.pin()
    yield host
    host.stop()
