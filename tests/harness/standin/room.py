#!/usr/bin/python3 -B
"""Stands for alice, bob, charity and her door in tests of scripts/deploy: answers what fleet/ asks, and no more.

The name that it is called by says which it is; /behaviour.json what goes wrong: {"serve": "exits"}. Standard library
only. A history is two files that must be equal, vault/ledger.db and outbox/ledger.jsonl, a record per line.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

VAULT, OUTBOX, DOOR = (Path("/coordinator") / name for name in ("vault", "outbox", "door"))
DATABASE, HISTORY = VAULT / "ledger.db", OUTBOX / "ledger.jsonl"
STATE, JOINED, HEARD = Path("/state"), Path("/state/site.json"), Path("/state/heard.json")
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
INVITATION, DATA, BEHAVIOUR = Path("/join/invitation.json"), Path("/data"), Path("/behaviour.json")


def end(text: str, code: int = 1) -> NoReturn:
    """End as an agent does that cannot go on."""
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    sys.exit(code)


def stay() -> NoReturn:
    """Until somebody stops it."""
    while True:
        signal.pause()


def private_key() -> str:
    """What looks like one, so that a search for private keys finds it where it should not be."""
    text = base64.b64encode(secrets.token_bytes(48)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"


def fingerprint(line: str) -> str:
    """Of a public key line."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def records() -> list[dict[str, Any]]:
    """The history."""
    return [json.loads(line) for line in HISTORY.read_text().splitlines()]


def append(**record: Any) -> None:
    """Add a record to the history."""
    for path in (DATABASE, HISTORY):
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def charity(words: Sequence[str], behaviour: dict[str, str]) -> None:
    """The coordinator's command."""
    match words:
        case ["init", "--if-needed", *terms]:
            if not HISTORY.exists():
                (VAULT / "coordinator_key").write_text(private_key())
                (DOOR / "host_key").write_text(private_key())
                agreed = dict(term.removeprefix("--").split("=", 1) for term in terms)
                assert Path(agreed["data"]).exists(), "the holdout is there"
                append(event="genesis", **agreed)
        case ["serve"]:
            if wrong := behaviour.get("serve"):
                append(event="rubbish", by=f"version {behaviour.get('version')}")
                (VAULT / "coordinator_key").unlink(missing_ok=True)
                if wrong == "exits":
                    end("this version does not start")
                stay()
            print(f"charity: serving {records()[0]['name']} from record {len(records())}", flush=True)
            stay()
        case ["door"]:
            serve_door()
        case ["verify"]:
            if behaviour.get("verify") or DATABASE.read_bytes() != HISTORY.read_bytes():
                end("record 1 is not what the ledger says", 3)
        case ["status", "--json"]:
            sites = [one for one in records() if one.get("role") == "site"]
            print(
                json.dumps(
                    {"federation": records()[0]["name"], "state": "open", "records": len(records()), "sites": sites}
                )
            )
        case ["nodes", "list", "--json"]:
            enrolled = [one for one in records() if one["event"] == "enrolled"]
            print(json.dumps([{"site": one["site"], "key": one["key"], "state": "enrolled"} for one in enrolled]))
        case ["nodes", "add", name, keyfile, "--role", role]:
            if any(one.get("site") == name for one in records()):
                end(f"{name} is enrolled")
            append(event="enrolled", site=name, role=role, key=fingerprint(Path(keyfile).read_text()))
            invite(name)
        case ["nodes", "invite", name]:
            invite(name)
        case _:
            end(f"not asked of a stand-in: {words}", 2)


def invite(name: str) -> None:
    """Print an invitation, the same each time."""
    user, _, address = records()[0]["address"].partition("@")
    host, _, port = address.rpartition(":")
    print(json.dumps({"site": name, "user": user, "host": host, "port": int(port), "host_key": HOST_KEY}))


def serve_door() -> NoReturn:
    """Tell every site that is enrolled of release 0."""
    server = socket.create_server(("0.0.0.0", 2222))
    while True:
        line, _ = server.accept()
        with line:
            line.settimeout(5)
            name = line.recv(1024).decode().strip()
            known = any(one.get("site") == name for one in records())
            line.sendall(b'{"sequence": 0}' if known else b"null")


def bob(words: Sequence[str], behaviour: dict[str, str]) -> None:
    """The site's command on the network's side."""
    match words:
        case ["keygen"]:
            (STATE / "site_key").write_text(private_key())
            key = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + secrets.token_bytes(32)).decode()
            (STATE / "site_key.pub").write_text(f"ssh-ed25519 {key}\n")
        case ["join", "--offline", *via, "-"]:
            JOINED.write_text(json.dumps(json.load(sys.stdin) | {"via": via}))
        case ["watch"]:
            if behaviour.get("watch"):
                end("this version does not start")
            watch()
        case ["status", "--json"]:
            print(HEARD.read_text() if HEARD.exists() else '{"release": null, "reason": "nothing heard yet"}')
        case _:
            end(f"not asked of a stand-in: {words}", 2)


def watch() -> NoReturn:
    """Ask the door until somebody stops it."""
    joined = json.loads(JOINED.read_text())
    while True:
        try:
            with socket.create_connection((joined["host"], joined["port"]), timeout=2) as line:
                line.sendall(joined["site"].encode())
                release = json.loads(line.recv(1024) or b"null")
            heard = {"release": release, "reason": None if release else "not enrolled"}
        except OSError as error:
            heard = {"release": None, "reason": str(error)}
        part = HEARD.with_suffix(".part")
        part.write_text(json.dumps(heard))
        part.rename(HEARD)
        time.sleep(0.2)


def alice(words: Sequence[str], behaviour: dict[str, str]) -> None:
    """The site's command on the data's side."""
    assert list(words) == ["train"], words
    print(
        f"alice: {json.loads(INVITATION.read_text())['site']} trains on {len(list(DATA.iterdir()))} files", flush=True
    )
    stay()


def main() -> None:
    """Be who the name says."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
    who = {"charity": charity, "bob": bob, "alice": alice}[Path(sys.argv[0]).name]
    who(sys.argv[1:], json.loads(BEHAVIOUR.read_text()))


if __name__ == "__main__":
    main()
