"""`status`, `logs`, `ssh` and `cost`: nothing here changes anything."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
from typing import Any

from fedssh.errors import SettingsError
from fedssh.forms import printable
from fleet import plan
from fleet.fleet import Fleet
from fleet.inventory import Cloud, Host
from fleet.look import Facts, answer_of


def status(fleet: Fleet) -> dict[str, Any]:
    """Every host: its release, its rooms, what is left of disk and memory; and where the federation stands."""
    made = fleet.made()

    def look(host: Host) -> dict[str, Any]:
        machine = made.get(fleet.inventory.label(host))
        if isinstance(host.place, Cloud) and machine is None:
            return {"host": host.name, "place": str(host.place), "state": "no machine"}
        worker = fleet.worker(host, fleet.connect(host, "status", False, machine), None, None)
        facts = worker.facts
        rooms = {name: vars(room) for name, room in sorted(facts.rooms.items())}
        found: dict[str, Any] = {
            "host": host.name, "place": str(host.place), "state": _state(facts), "rooms": rooms,
            "release": facts.release, "disk_free": facts.disk, "memory": facts.memory, "busy": facts.busy,
            "upgrade": facts.upgrade,
        }  # fmt: skip
        if host.role == "coordinator" and "charity" in facts.rooms and facts.rooms["charity"].status == "running":
            with answer_of(host.name):
                state = json.loads(worker.connection.run("charity_status", seconds=120).text)
                found["federation"] = {**state, **{name: state[name] for name in ("federation", "state", "records")}}
        return found

    results, errors = fleet.each(fleet.chosen, look)
    for name, error in errors.items():
        results[name] = {"host": name, "state": "error", "error": str(error)}
    rows = [results[host.name] for host in fleet.chosen]
    return {"federation": fleet.inventory.federation, "hosts": rows}


def _state(facts: Facts) -> str:
    if not facts.rooms:
        return "not started" if facts.release else "not installed"
    return "well" if all(facts.well(name) for name in facts.rooms) else "not well"


def logs(fleet: Fleet, name: str, room: str | None, last: int, follow: bool, as_json: bool) -> int:
    """Print what the rooms of a host said.

    Raises:
        SettingsError: There is no such host or room.
    """
    (host,) = fleet.inventory.chosen(name)
    if room is not None and room not in host.rooms:
        raise SettingsError(f"{name} has no room {room!r}", f"its rooms are {' and '.join(host.rooms)}")
    connection = fleet.connect(host, "logs", False, fleet.made().get(fleet.inventory.label(host)))
    words = [str(last), "yes" if follow else "no", *([room] if room else [])]
    if as_json:
        for line in connection.run("logs", *words[:1], "no", *words[2:]).text.splitlines():
            said, _, text = line.partition("|")
            print(json.dumps({"host": name, "room": said.strip().removesuffix("-1"), "text": text.strip()}))
        return 0
    reader, writer = os.pipe()
    printer = threading.Thread(target=_print_lines, args=(reader,))
    printer.start()
    try:
        with os.fdopen(writer, "wb") as sink:
            connection.run("logs", *words, into=sink, seconds=86_400.0)
    finally:
        printer.join()
    return 0


def _print_lines(descriptor: int) -> None:
    """What rooms said, without what would act on a terminal."""
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines, contextlib.suppress(BrokenPipeError):
        for line in lines:
            print(printable(line.rstrip("\n")), flush=True)


def ssh(fleet: Fleet, name: str, words: tuple[str, ...], as_json: bool) -> list[str]:
    """Become `ssh` to a host, with the pinned host key; or return the command line."""
    (host,) = fleet.inventory.chosen(name)
    target = fleet.target(host, fleet.made().get(fleet.inventory.label(host)))
    command = [
        *(word for word in target.words() if word != "-oBatchMode=yes"),
        target.login,
        *(["--", *words] if words else []),
    ]
    if not as_json:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    return command


def cost(fleet: Fleet, now: datetime.datetime) -> dict[str, Any]:
    """What is running in the cloud, for how long, and what that came to; a machine that is off bills, too."""
    rows = []
    chosen = [fleet.inventory.label(host) for host in fleet.chosen]
    for machine in fleet.account.machines(fleet.inventory.tag):
        if fleet.options.only is not None and machine.label not in chosen:
            continue
        kind = fleet.account.kind(machine.kind, machine.region)
        row: dict[str, Any] = {
            "machine": machine.label, "type": machine.kind, "region": machine.region, "status": machine.status,
            "created": machine.created.isoformat(), "hourly": kind.hourly, "monthly": kind.monthly,
        }  # fmt: skip
        if kind.hourly is not None and kind.monthly is not None:
            row["hours"], row["so_far"] = plan.so_far(machine.created, now, kind.hourly, kind.monthly)
        rows.append(row)
    return {
        "federation": fleet.inventory.federation,
        "machines": rows,
        "so_far": round(sum(row.get("so_far", 0) for row in rows), 4),
        "hourly": round(sum(row["hourly"] or 0 for row in rows), 4),
        "monthly": round(sum(row["monthly"] or 0 for row in rows), 2),
        "not_published": [row["machine"] for row in rows if row["hourly"] is None],
    }
