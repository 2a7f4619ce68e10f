"""What `charity plan` found, for people: two tables, and which of the two ways is cheaper in plain words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedssh.history.table import named_lines, table
from fedssh.rules.costs import WIRES


def said(found: Mapping[str, Any]) -> str:
    """Which of the two is cheaper at the chosen cut: in a site's computation, in bytes, in time on the line."""
    row = next(row for row in found["cuts"] if row["cut"] == found["chosen"])
    way, fedavg = row["wires"][found["wire"]], found["fedavg"]
    images, sites, even = found["training"]["images"], found["training"]["sites"], way["break_even_images"]
    share = row["of_fedavg"]
    less = "less" if share < 1 else "more" if share > 1 else "as much"
    sends = "no more" if _sent(way) <= _sent(fedavg) else "more"
    until = f"up to {even:,} images a site it sends no more" if even else "however few images a site has"
    parallel = found["order"] == "parallel"
    waits, waits_less = way["waiting_seconds"] * (1 if parallel else sites), fedavg["waiting_seconds"]
    who = "a site waits" if sites == 1 else "each site waits" if parallel else f"{sites:,} sites in turn wait"
    often = "round" if parallel else "turn"
    return (
        f"Split after {' and '.join(row['cut'])}, with {found['wire']}, a site computes {less}: {_percent(share)} of "
        f"what it does under fedavg.\n"
        f"It sends {sends}: {_mb(_sent(way))} MB a {often}, against {_mb(_sent(fedavg))} a round; {until} "
        f"(here {images:,}).\n"
        f"On the line {who} {waits:,.1f} s for a round of split learning, {waits_less:,.1f} s under fedavg.\n"
        f"Not counted: for each {often} the whole network is released to every site, up to "
        f"{_mb(found['release_bytes'])} MB a site and round.\n"
    )


def text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    network, training, line = found["network"], found["training"], found["line"]
    spec = network["spec"]
    size = "x".join(map(str, spec["input"]))
    momentum = f" with momentum {training['momentum']:g}" if training["momentum"] else ""
    sites = f"{training['sites']:,} site{'s'[: training['sites'] != 1]} with {training['images']:,} images each"
    compute = f", {1000 * line['compute_seconds']:g} ms to compute a step" if line["compute_seconds"] else ""
    head = named_lines([
        ("network", f"{spec['name']} for {size}: {network['weights']:,} weights, {_mb(network['bytes'])} MB; "
                    f"{_many(network['multiply_adds'])} multiply-adds forward"),
        ("training", f"{sites}; {_epochs(training['epochs'])} a round or turn, batches of {training['batch']:,}, "
                     f"{training['optimizer']}{momentum}"),
        ("line", f"{line['bits_per_second'] / 1e6:g} Mbit/s, {1000 * line['round_trip_seconds']:g} ms there and back"
                 f"{compute}"),
    ])  # fmt: skip
    ways = [
        (name, f"{_mb(_sent(way))}", _many(way["multiply_adds"]), f"{way['waiting_seconds']:,.1f}")
        for name, way in (("fedavg", found["fedavg"]), ("large-batch SGD", found["large_batch"]))
    ]
    whole = table(("A SITE AND ROUND", "MB", "MULTIPLY-ADDS", "WAITS s"), ways, right=(1, 2, 3))
    wire = found["wire"]
    rows = [
        (
            " … ".join(row["cut"]), f"{row['floats']:,}", f"{row['site_weights']:,}", _percent(row["of_forward"]),
            _percent(row["of_fedavg"]), *(_mb(_sent(row["wires"][one])) for one in WIRES),
            *(f"{row['wires'][one]['break_even_images']:,}" for one in WIRES),
            f"{row['wires'][wire]['steps_per_second']:.1f}", f"{row['wires'][wire]['waiting_seconds']:,.1f}",
        )
        for row in found["cuts"]
    ]  # fmt: skip
    columns = (
        "SPLIT AFTER", "FLOATS", "WEIGHTS", "FORWARD", "COMPUTES", *(f"MB {one}" for one in WIRES),
        *(f"EVEN {one}" for one in WIRES), "STEPS/s", "WAITS s",
    )  # fmt: skip
    cuts = table(columns, rows, right=range(1, len(columns)))
    left = found["left_out"]
    more = f"{left} more cuts pass no fewer numbers than one before them; --all tells them\n" if left else ""
    return f"{head}\n{whole}\n{cuts}{more}\n{said(found)}"


def _epochs(number: int) -> str:
    return f"{number:,} epoch{'s'[: number != 1]}"


def _mb(size: float) -> str:
    """Megabytes, of which three digits can be read, of less than 0.1 two."""
    value = size / 1e6
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 0.1 else f"{value:.2g}"


def _many(number: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:,.4g} {unit}"
    return f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 1 else f"{100 * share:,.0f} %"


def _sent(way: Mapping[str, Any]) -> int:
    return int(way["bytes_down"]) + int(way["bytes_up"])
