"""What a site's files say about its Bob; the same facts for people and for programs."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from fedssh.bob.incoming import MAX_NOTE_BYTES, read_seen
from fedssh.bob.outgoing import in_megabytes
from fedssh.bob.receipts import Receipts
from fedssh.bob.site import Folder, Site, load_key, load_site, read_genesis
from fedssh.bob.spool import Spool
from fedssh.bob.standing import read_status
from fedssh.bob.way import kept_via
from fedssh.chain import read_line
from fedssh.errors import SettingsError, UntrustedError
from fedssh.files import read_shared
from fedssh.forms import canonical, fingerprint
from fedssh.manifest import Release
from fedssh.rules.metrics import headline


def describe_site(state: Path, exchange: Path) -> dict[str, Any]:
    """Everything `bob status` shows.

    Raises:
        SettingsError: There is no key, or the site has not joined.
    """
    folder = Folder(state)
    key, site = load_key(folder), load_site(folder)
    spool, heard = Spool(folder.spool), read_status(folder.status)
    last, totals = _sum_up(Receipts(folder.receipts))
    return {
        "site": site.name,
        "address": site.address,
        "via": kept_via(folder),
        "site_key": key.public.fingerprint,
        "host_key": fingerprint(site.host_key),
        "coordinator": site.coordinator.fingerprint,
        "genesis": site.genesis,
        "followed_genesis": _followed(folder, site),
        "refused_since": heard.refused_since,
        "reason": heard.reason,
        "confirmed": heard.confirmed,
        "running": _is_held(folder.lock),
        "spool": [{**vars(entry), "size": spool.bundle(entry.id).stat().st_size} for entry in spool.entries()],
        "outgoing": len(list((exchange / "outgoing").glob("*.json"))),
        "rejected": len(list((exchange / "rejected").glob("*.reason"))),
        "release": _release(exchange, read_seen(folder.seen).sequence),
        "last_verdict": last,
        "totals": totals,
    }


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people: name and text."""
    last, release, totals = found["last_verdict"], found["release"], found["totals"]
    size = sum(entry["size"] for entry in found["spool"])
    waiting = f"{len(found['spool'])} in the spool ({in_megabytes(size)}), {found['outgoing']} to be sealed"
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(totals["verdicts"].items()))
    return [
        (
            "site",
            f"{found['site']} with key {found['site_key']}{'' if found['running'] else '; bob watch is not running'}",
        ),
        ("coordinator", f"{found['address']}, key {found['coordinator']}"),
        *([("via", found["via"])] if found["via"] else []),
        ("host key", found["host_key"]),
        ("genesis", _genesis_text(found)),
        *([("refused", f"since {found['refused_since']}: {found['reason']}")] if found["refused_since"] else []),
        ("release", _release_text(release) if release else "none yet"),
        ("waiting", waiting + (f", {found['rejected']} set aside as broken" if found["rejected"] else "")),
        ("last verdict", _verdict_text(last) if last else "none yet"),
        ("sent", f"{totals['sent']} bundles, {in_megabytes(totals['bytes'])}" + (f": {verdicts}" if verdicts else "")),
    ]


def _sum_up(receipts: Receipts) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    last, verdicts, sent, size = None, Counter[str](), 0, 0
    for receipt in receipts:
        verdicts[receipt["verdict"]] += 1
        sent += bool(receipt["attempts"])
        size += receipt["size"] if receipt["attempts"] else 0
        if receipt["record"] and receipt["kind"] == "submission":
            last = receipt
    return last, {"sent": sent, "bytes": size, "verdicts": dict(verdicts)}


def _followed(folder: Folder, site: Site) -> str | None:
    line = read_genesis(folder)
    return read_line(line, site.coordinator).hash if line else None


def _genesis_text(found: dict[str, Any]) -> str:
    pinned, followed = found["genesis"], found["followed_genesis"]
    if pinned:
        return f"{pinned}, pinned by the invitation"
    return f"{followed}, not pinned: compare it with the operator's" if followed else "not pinned, none followed yet"


def _release(exchange: Path, sequence: int) -> dict[str, Any] | None:
    """What the newest release says: it was checked when it was laid out for Alice, who may have changed it since."""
    try:
        note = read_shared(exchange / "incoming" / f"{sequence:08}.json", MAX_NOTE_BYTES)
        release = Release.from_bytes(canonical(json.loads(note)["manifest"]))
        return {name: getattr(release, name) for name in ("sequence", "head", "metrics", "federation", "created")}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError, UntrustedError, SettingsError):
        return {"sequence": sequence} if sequence else None


def _release_text(release: dict[str, Any]) -> str:
    name, value = headline(release.get("metrics", {})) or ("", None)
    scored = f", holdout {name} {value:.4f}" if isinstance(value, float) else ""
    current = release.get("federation", {}).get("round")
    number = current.get("number") if isinstance(current, dict) else None
    opened = f", round {number} is open" if isinstance(number, int) else ""
    return f"{release['sequence']}{scored}{opened}" + (f", of {release['created']}" if "created" in release else "")


def _verdict_text(receipt: dict[str, Any]) -> str:
    reason = f": {receipt['reason']}" if receipt["reason"] else ""
    what = f"session {receipt['session']} epoch {receipt['epoch']}"
    return f"{receipt['verdict']} {what}{reason} (record {receipt['sequence']}, {receipt['time']})"


def _is_held(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
