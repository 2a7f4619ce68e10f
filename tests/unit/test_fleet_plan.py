"""What is missing on a machine, whether it fits there, and what it costs: tables."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.inventory import Cloud, Given, Host
from fleet.look import Facts, Room
from fleet.plan import SKEW_SECONDS, Price, Step, Wish, misfits, other_holdout, skew, so_far, steps, total

COORDINATOR = Host("coordinator", "coordinator", Given("root", "192.0.2.1", 22), data=Path("xrays.npz"))
SITE = Host("hospital-a", "site", Given("root", "192.0.2.10", 22), data=Path("a.npz"))
CLOUD = dataclasses.replace(SITE, place=Cloud("us-east", "g6-standard-1"))
RUNNING = Room("running", 0, 0, False, "2026-09-01T00:00:00Z", "fedssh-x:1")
IMAGES = {"coordinator": ("fedssh-charity:1", "fedssh-door:1"), "site": ("fedssh-alice:1", "fedssh-bob:1")}


def wish(host: Host, **changes: Any) -> Wish:
    return dataclasses.replace(Wish("mark", IMAGES[host.role], "rendered", "data", "invitation"), **changes)


def all_there(host: Host, **changes: Any) -> Facts:
    """A machine on which nothing is missing, but for the changes."""
    facts = Facts(
        arch="x86_64", memory=2_000_000_000, disk=20_000_000_000, layers=20_000_000_000, engine="26.1", compose="2.26",
        prepared="mark", release=1, releases=(1,), rendered="rendered", begun=True, data="data", key="ssh-rsa AAAA",
        joined=True, invitation="invitation", images=frozenset(IMAGES[host.role]),
        rooms=dict.fromkeys(host.rooms, RUNNING),
    )  # fmt: skip
    return dataclasses.replace(facts, **changes)


def names(found: list[Step]) -> list[str]:
    return [step.name for step in found]


WITHOUT_MACHINE = {
    "coordinator": ["machine", "host-key", "prepare", "data", "images", "release", "begin", "start"],
    "site": ["machine", "host-key", "prepare", "data", "images", "release", "key", "join", "start"],
}


@pytest.mark.parametrize("host", [COORDINATOR, SITE], ids=lambda host: host.role)
def test_where_there_is_no_machine_all_is_to_be_done(host: Host) -> None:
    found = steps(host, None, wish(host))
    assert names(found) == WITHOUT_MACHINE[host.role]
    assert {step.verb for step in found} == {"up"} and {step.host for step in found} == {host.name}


@pytest.mark.parametrize("host", [COORDINATOR, SITE], ids=lambda host: host.role)
def test_on_a_bare_machine_all_but_the_machine_is_to_be_done(host: Host) -> None:
    assert names(steps(host, Facts(), wish(host))) == WITHOUT_MACHINE[host.role][2:]


@pytest.mark.parametrize("host", [COORDINATOR, SITE], ids=lambda host: host.role)
def test_where_all_is_there_nothing_is_to_be_done(host: Host) -> None:
    assert steps(host, all_there(host), wish(host)) == []


EXITED = dataclasses.replace(RUNNING, status="exited")
ONE_MISSING: list[tuple[Host, dict[str, Any], list[str]]] = [
    (SITE, {"prepared": ""}, ["prepare"]),
    (SITE, {"prepared": "of another version"}, ["prepare"]),
    (SITE, {"engine": ""}, ["prepare"]),
    (SITE, {"engine": "down"}, ["prepare"]),
    (SITE, {"compose": "none"}, ["prepare"]),
    (SITE, {"data": ""}, ["data"]),
    (SITE, {"data": "of yesterday"}, ["data"]),
    (SITE, {"images": frozenset(["fedssh-bob:1"])}, ["images"]),
    (SITE, {"release": 0, "rendered": ""}, ["release"]),
    (SITE, {"release": 0, "rendered": "", "images": frozenset()}, ["images", "release"]),
    (SITE, {"rendered": "of before"}, ["upgrade"]),
    (SITE, {"rendered": "of before", "images": frozenset()}, ["upgrade"]),  # which ships what it needs
    (SITE, {"key": ""}, ["key"]),
    (SITE, {"joined": False}, ["join"]),
    (SITE, {"invitation": ""}, ["join"]),
    (SITE, {"invitation": "by an older one"}, ["join"]),
    (SITE, {"rooms": {}}, ["start"]),
    (SITE, {"rooms": {"alice": RUNNING}}, ["start"]),
    (SITE, {"rooms": {"alice": EXITED, "bob": RUNNING}}, []),  # she has finished her sessions
    (SITE, {"rooms": {"alice": dataclasses.replace(EXITED, exit_code=1), "bob": RUNNING}}, ["start"]),
    (SITE, {"rooms": {"alice": dataclasses.replace(RUNNING, status="restarting"), "bob": RUNNING}}, ["start"]),
    (SITE, {"upgrade": "old=1 new=2 stage=copied"}, ["undo"]),
    (SITE, {"begun": False}, []),  # which is the coordinator's
    (COORDINATOR, {"begun": False}, ["begin"]),
    (COORDINATOR, {"key": "", "joined": False, "invitation": ""}, []),  # which are the sites'
    (COORDINATOR, {"upgrade": "old=1 new=2 stage=begun", "rendered": "of before"}, ["undo", "upgrade"]),
]  # fmt: skip


@pytest.mark.parametrize(("host", "changes", "missing"), ONE_MISSING)
def test_each_single_thing_that_is_missing(host: Host, changes: dict[str, Any], missing: list[str]) -> None:
    assert names(steps(host, all_there(host, **changes), wish(host))) == missing


def test_another_release_is_left_to_upgrade() -> None:
    (step,) = steps(SITE, all_there(SITE, release=3, rendered="of before"), wish(SITE))
    assert step.verb == "upgrade" and step.text == "release 3 is another one than this checkout's"


def test_a_site_that_waits_for_its_invitation_has_a_key_and_does_not_start() -> None:
    facts = all_there(SITE, joined=False, invitation="", key="", rooms={})
    found = steps(SITE, facts, wish(SITE, waits=True, invitation=""))
    assert [(step.name, step.verb) for step in found] == [("key", "up"), ("invitation", "wait")]


def test_data_that_lies_there_is_not_copied() -> None:
    assert steps(SITE, all_there(SITE, data=""), wish(SITE, data="")) == []


def test_the_words_say_what_where() -> None:
    found = {step.name: step.text for step in steps(CLOUD, None, wish(CLOUD))}
    assert "linode:us-east/g6-standard-1" in found["machine"] and "a.npz" in found["data"]
    assert found["images"] == "ship fedssh-alice:1, fedssh-bob:1" and found["start"] == "start alice and bob"
    assert "Docker from the distribution's packages" in found["prepare"]


ORDER = ("undo", "prepare", "data", "images", "release", "upgrade", "begin", "key", "invitation", "join", "start")
FIELDS = st.fixed_dictionaries({}, optional={
    "prepared": st.sampled_from(["", "mark"]), "engine": st.sampled_from(["", "26.1"]), "release": st.integers(0, 2),
    "rendered": st.sampled_from(["", "rendered"]), "begun": st.booleans(), "joined": st.booleans(),
    "images": st.frozensets(st.sampled_from(IMAGES["site"] + IMAGES["coordinator"])),
    "rooms": st.dictionaries(st.sampled_from(["alice", "bob", "charity", "door"]), st.sampled_from([RUNNING, EXITED])),
})  # fmt: skip


@given(st.sampled_from([COORDINATOR, SITE]), FIELDS, st.booleans())
def test_the_same_facts_give_the_same_steps_each_once_and_in_the_order_of_doing(
    host: Host, changes: dict[str, Any], waits: bool
) -> None:
    facts, wanted = all_there(host, **changes), wish(host, waits=waits and host.role == "site")
    found = names(steps(host, facts, wanted))
    backwards = dataclasses.replace(
        facts, images=frozenset(sorted(facts.images, reverse=True)), rooms=dict(reversed(list(facts.rooms.items())))
    )
    assert found == names(steps(host, backwards, wanted))
    assert found == [name for name in ORDER if name in found]


# Whether it fits


def machine(megabytes: int, **changes: Any) -> Facts:
    """What a machine says of itself that has so much memory by its type: the kernel keeps some."""
    return all_there(SITE, memory=int(megabytes * 1_048_576 * 0.96), release=0, **changes)


@pytest.mark.parametrize("host", [COORDINATOR, SITE], ids=lambda host: host.role)
def test_a_machine_of_1_gb_is_refused_and_one_of_2_gb_is_fine(host: Host) -> None:
    for found in (misfits(host, machine(1024), None, None), misfits(host, None, 1024, 25_600)):
        (why,) = found
        assert why.startswith(f"{host.name}: 1.0") and "need 1.06 GB: take 2 GB" in why
    assert misfits(host, machine(2048), None, None) == misfits(host, None, 2048, 51_200) == []


GPU = dataclasses.replace(SITE, gpu=True)
UNFIT: list[tuple[Host, Facts, str]] = [
    (SITE, machine(2048, disk=5_000_000_000), "hospital-a: 5.0 GB of disk are free, 6 GB are needed"),
    (SITE, machine(2048, layers=5_900_000_000), "hospital-a: 5.9 GB of disk are free, 6 GB are needed"),
    (GPU, machine(16_384, gpu=True, disk=24_000_000_000), "hospital-a: 20.0 GB of disk are free, 25 GB are needed"),
    (SITE, machine(2048, arch="armv7l"), "hospital-a: the processor is armv7l, TensorFlow wants x86_64 or aarch64"),
    (GPU, machine(16_384, disk=30_000_000_000, layers=0), "hospital-a: its engine knows no GPU"),
    (dataclasses.replace(SITE, memory="3g"), machine(2048), "hospital-a: Alice may use 3g, the machine has 2.06 GB"),
]


@pytest.mark.parametrize(("host", "facts", "why"), UNFIT, ids=[why for _, _, why in UNFIT])
def test_what_does_not_fit_and_why(host: Host, facts: Facts, why: str) -> None:
    (found,) = misfits(host, facts, None, None)
    assert found.startswith(why)


def test_what_fits() -> None:
    fits = [
        (SITE, machine(2048, arch="aarch64")),
        (SITE, machine(2048, layers=0)),  # there is no engine yet
        (SITE, dataclasses.replace(machine(2048, disk=1_000), release=1)),  # it is there already
        (GPU, machine(16_384, gpu=True, disk=30_000_000_000, layers=0)),
        (GPU, machine(16_384, engine="", disk=30_000_000_000, layers=0)),  # nobody can say yet
        (dataclasses.replace(SITE, memory="1500m"), machine(2048)),
    ]
    assert [misfits(host, facts, None, None) for host, facts in fits] == [[]] * len(fits)


def test_a_type_that_is_too_small_is_refused_before_it_is_made() -> None:
    assert "a disk of 5 GB, 6 GB are needed" in "".join(misfits(CLOUD, None, 2048, 5_000))
    assert "a disk of 20 GB, 25 GB are needed" in "".join(misfits(dataclasses.replace(GPU), None, 16_384, 20_000))
    greedy = dataclasses.replace(CLOUD, memory="4g")
    assert "Alice may use 4g" in "".join(misfits(greedy, None, 2048, 51_200)) and not misfits(
        greedy, None, 8192, 51_200
    )


def test_a_clock_that_is_off() -> None:
    facts = all_there(SITE, time=1_000_000)
    assert skew(facts, 1_000_000 - SKEW_SECONDS) is None and skew(facts, 1_000_000 + SKEW_SECONDS) is None
    assert skew(facts, 999_000) == "its clock is 1000 s ahead"
    assert skew(facts, 1_001_000) == "its clock is 1000 s behind"


# What it costs


def test_a_total_leaves_out_what_is_not_published_and_says_so() -> None:
    prices = [Price("a", "x", 0.018, 12.0), Price("b", "gpu", None, None), Price("c", "x", 0.018, 12.0)]
    hourly, monthly, unknown = total(prices)
    assert (round(hourly, 4), monthly, unknown) == (0.036, 24.0, ["b"])
    assert total([]) == (0, 0, [])


START = datetime.datetime(2026, 9, 1, tzinfo=datetime.UTC)
# After so long, so many hours are billed at $0.018, $12 a month, and cost so much.
BILLS = [
    ({"seconds": 0}, 1, 0.018),
    ({"seconds": -90}, 1, 0.018),  # a clock that is behind
    ({"seconds": 1}, 1, 0.018),
    ({"hours": 1}, 1, 0.018),
    ({"hours": 1, "seconds": 1}, 2, 0.036),
    ({"hours": 100}, 100, 1.8),
    ({"hours": 666}, 666, 11.988),
    ({"hours": 667}, 667, 12.0),  # from here on the month's price holds
    ({"hours": 730}, 730, 12.0),
    ({"hours": 731}, 731, 12.018),
    ({"hours": 1460}, 1460, 24.0),
]


@pytest.mark.parametrize(("after", "hours", "price"), BILLS)
def test_begun_hours_count_whole_and_a_month_costs_its_price_at_most(
    after: dict[str, int], hours: int, price: float
) -> None:
    assert so_far(START, START + datetime.timedelta(**after), 0.018, 12.0) == (hours, price)


@given(st.integers(0, 10_000), st.integers(0, 5_000))
def test_more_time_never_costs_less(hours: int, more: int) -> None:
    later = [so_far(START, START + datetime.timedelta(hours=some), 0.018, 12.0)[1] for some in (hours, hours + more)]
    assert later == sorted(later)


def test_a_coordinator_that_has_begun_keeps_her_holdout() -> None:
    begun, wish = Facts(begun=True, data="1" * 64), Wish("m", (), "r", data="2" * 64)
    host = Host("coordinator", "coordinator", data=Path("other.npz"))
    assert other_holdout(host, begun, wish) == ["coordinator: other.npz is not what the federation began with"]
    assert other_holdout(host, begun, Wish("m", (), "r", data="1" * 64)) == []
    assert other_holdout(host, Facts(data="1" * 64), wish) == []
    assert other_holdout(Host("a", "site", data=Path("other.npz")), begun, wish) == []
