"""What is missing on a machine, whether what is wanted fits there, and what it costs. Pure."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleet.inventory import Host
from fleet.look import Facts

# Measured: engine and system with a site's rooms at work, or the coordinator's, her judge included. Bytes.
NEEDED_MEMORY = {"site": 1_060_000_000, "coordinator": 1_060_000_000}
NEEDED_DISK = {"site": 6_000_000_000, "coordinator": 6_000_000_000}
GPU_DISK = 25_000_000_000
USABLE = 0.95  # of a machine's nominal memory: the kernel keeps the rest
SKEW_SECONDS = 300


@dataclass(frozen=True)
class Wish:
    """What a host should be like.

    Attributes:
        prepared: The mark of the preparation, as this version does it.
        images: What its images are called.
        rendered: SHA-256 of its compose.yaml.
        data: The mark of its data; empty where the data lies there.
        invitation: SHA-256 of the invitation that it should join by, where that is known at home already.
        waits: Site: the invitation has not come yet.
    """

    prepared: str
    images: tuple[str, ...]
    rendered: str
    data: str = ""
    invitation: str = ""
    waits: bool = False


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        verb: The command that does it: `up`, or `upgrade`, which `up` never does by itself.
    """

    host: str
    name: str
    text: str
    verb: str = "up"


def steps(host: Host, facts: Facts | None, wish: Wish) -> list[Step]:
    """What is missing on a machine, in the order in which it is done.

    Args:
        facts: None where there is no machine yet.
    """
    found: list[Step] = []

    def add(name: str, text: str, verb: str = "up") -> None:
        found.append(Step(host.name, name, text, verb))

    known = facts or Facts()
    if facts is None:
        add("machine", f"make {host.place}, with a host key that is pinned before the first packet")
        add("host-key", "replace the host key that it was born with by its own")
    if known.upgrade:
        add("undo", f"undo the upgrade that was interrupted ({known.upgrade})")
    if known.prepared != wish.prepared or not known.usable:
        add(
            "prepare",
            "folders and start script" if known.usable else "Docker from the distribution's packages, folders",
        )
    if wish.data and known.data != wish.data:
        add("data", f"copy {host.data.name if host.data else None}")
    _release(known, wish, add)
    if host.role == "coordinator":
        if not known.begun:
            add("begin", "begin the federation: keys and the first model")
    else:
        if not known.key:
            add("key", "make the site's key there")
        if wish.waits:
            add("invitation", "wait for the coordinator's invitation", "wait")
        elif not known.joined or (wish.invitation and wish.invitation != known.invitation):
            add("join", "enrol the site and join by its invitation")
    rooms = [room for room in host.rooms if not known.well(room)]
    if rooms and not wish.waits:
        add("start", f"start {' and '.join(rooms)}")
    return found


def _release(known: Facts, wish: Wish, add: Callable[..., None]) -> None:
    missing = [image for image in wish.images if image not in known.images]
    if missing and (not known.release or known.rendered == wish.rendered):
        add("images", f"ship {', '.join(missing)}")
    if not known.release:
        add("release", "install release 1")
    elif known.rendered != wish.rendered:
        add("upgrade", f"release {known.release} is another one than this checkout's", "upgrade")


def misfits(host: Host, facts: Facts | None, memory: int | None, disk: int | None) -> list[str]:
    """Why what is wanted cannot work on a machine; empty where it can.

    Args:
        facts: None where there is no machine yet.
        memory, disk: Of the type that would be made, in MB.
    """
    found = []
    have = facts.memory if facts else int((memory or 0) * 1_048_576 * USABLE)
    need = NEEDED_MEMORY[host.role]
    if have < need:
        what = (
            "TensorFlow, the engine and the system" if host.role == "site" else "the judge, the engine and the system"
        )
        found.append(f"{host.name}: {have / 1e9:.2f} GB of memory, {what} need {need / 1e9:.2f} GB: take 2 GB")
    if host.memory != "1g" and _bytes(host.memory) > have:
        found.append(f"{host.name}: Alice may use {host.memory}, the machine has {have / 1e9:.2f} GB")
    if facts is None:
        if (disk or 0) * 1_048_576 < _disk(host):
            found.append(f"{host.name}: a disk of {(disk or 0) / 1000:.0f} GB, {_disk(host) / 1e9:.0f} GB are needed")
        return found
    if not facts.release:
        free = min(facts.disk, facts.layers or facts.disk)
        if free < _disk(host):
            found.append(f"{host.name}: {free / 1e9:.1f} GB of disk are free, {_disk(host) / 1e9:.0f} GB are needed")
    if facts.arch not in ("x86_64", "aarch64"):
        found.append(f"{host.name}: the processor is {facts.arch}, TensorFlow wants x86_64 or aarch64")
    if host.gpu and facts.engine and not facts.gpu:
        found.append(
            f"{host.name}: its engine knows no GPU: install NVIDIA's driver and nvidia-container-toolkit there, then "
            "`nvidia-ctk runtime configure --runtime=docker`"
        )
    return found


def other_holdout(host: Host, facts: Facts, wish: Wish) -> list[str]:
    """A federation keeps the holdout that it began with: other data for its coordinator cannot be copied."""
    if host.role == "coordinator" and facts.begun and wish.data and facts.data and facts.data != wish.data:
        return [f"{host.name}: {host.data} is not what the federation began with"]
    return []


def _disk(host: Host) -> int:
    return GPU_DISK if host.gpu else NEEDED_DISK[host.role]


def _bytes(size: str) -> int:
    return int(size[:-1]) * {"m": 1 << 20, "g": 1 << 30}[size[-1]]


def skew(facts: Facts, now: float) -> str | None:
    """What is wrong with a machine's clock, in words."""
    off = facts.time - now
    return f"its clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}" if abs(off) > SKEW_SECONDS else None


@dataclass(frozen=True)
class Price:
    """What a machine costs in US$; None is not published."""

    host: str
    kind: str
    hourly: float | None
    monthly: float | None


def total(prices: Iterable[Price]) -> tuple[float, float, list[str]]:
    """Per hour, per month, and the names of those without a price."""
    known = [price for price in prices if price.hourly is not None]
    unknown = [price.host for price in prices if price.hourly is None]
    return sum(price.hourly or 0 for price in known), sum(price.monthly or 0 for price in known), unknown


def so_far(created: datetime.datetime, now: datetime.datetime, hourly: float, monthly: float) -> tuple[int, float]:
    """Hours that are billed, begun ones as whole ones, and their price; a month costs `monthly` at most."""
    hours = max(1, math.ceil((now - created).total_seconds() / 3600))
    months, rest = divmod(hours, 730)
    return hours, round(months * monthly + min(rest * hourly, monthly), 4)
