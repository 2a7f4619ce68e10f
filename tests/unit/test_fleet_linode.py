"""The official client against a fake of the API over loopback: what is asked, what a failure becomes. Nobody sleeps."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedssh.errors import AgentError, SettingsError, UnreachableError
from fleet import linode
from fleet.linode import Account, Machine, Thing
from tests.harness.cloud import Cloud
from tests.harness.linode_schema import Schema

TAG = "fedssh-chest"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJlc3QgcmVnYXJkcw== me"
DATA = '#cloud-config\n{"ssh_pwauth": false}'
INSTANCES, FIREWALLS = "/linode/instances", "/networking/firewalls"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """An empty account; every request must fit the vendor's schema."""
    with Cloud() as cloud:
        yield cloud
    assert cloud.violations == []


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def account(cloud: Cloud, waits: list[float]) -> Account:
    return Account(cloud.token, cloud.url, waits.append)


def make(account: Account, label: str = "chest-a", **changes: Any) -> Machine:
    wanted: dict[str, Any] = {
        "tag": TAG, "region": "us-east", "kind": "g6-standard-1", "image": "linode/debian13", "authorized_key": KEY,
        "user_data": DATA, "firewall": account.firewall("chest", TAG, ["198.51.100.4/32"], [2222]),
    }  # fmt: skip
    return account.make(label, **(wanted | changes))


# The token


def test_a_right_token_passes_and_costs_three_reads(account: Account, cloud: Cloud) -> None:
    account.check()
    assert [(one.method, one.path) for one in cloud.requests] == [
        ("GET", INSTANCES), ("GET", FIREWALLS), ("GET", "/volumes"),
    ]  # fmt: skip


@pytest.mark.parametrize("token", ["", "two words", "line\n", "schlüssel"])
def test_what_is_no_token_is_refused_before_it_is_sent(token: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Account(token)
    assert "LINODE_TOKEN" in str(raised.value)
    assert not token or token not in str(raised.value)


def test_a_wrong_token(cloud: Cloud) -> None:
    with pytest.raises(SettingsError, match="does not know the token in LINODE_TOKEN: Invalid Token") as raised:
        Account("f00" * 20, cloud.url).check()
    assert raised.value.hint and "cloud.linode.com/profile/tokens" in raised.value.hint
    assert "f00f00" not in repr(raised.value)


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        ("linodes:read_write firewall:read_only volumes:read_write", "firewall:read_write"),
        ("linodes:read_only firewall:read_only volumes:read_only", "linodes:read_write, firewall:read_write, volumes:"),
        ("linodes:read_write firewall:read_write", "volumes:read_only"),
        ("domains:read_write", "linodes:read_only"),
    ],
)
def test_a_scope_that_is_missing_is_named(account: Account, cloud: Cloud, scopes: str, missing: str) -> None:
    cloud.scopes = scopes
    with pytest.raises(SettingsError, match=f"lacks {missing}"):
        account.check()


def test_scopes_that_suffice(account: Account, cloud: Cloud) -> None:
    cloud.scopes = "images:read_only linodes:read_write firewall:read_write volumes:read_write"
    account.check()


def test_a_restricted_user(account: Account, cloud: Cloud) -> None:
    cloud.fail("POST", FIREWALLS, 403, reason="Unauthorized")
    with pytest.raises(SettingsError, match=r"could not make firewall chest: .*firewall:read_write, or .*Unauthorized"):
        account.firewall("chest", TAG, ["198.51.100.4/32"], [])


def test_the_token_is_in_nothing_that_is_shown(account: Account, cloud: Cloud) -> None:
    cloud.fail("GET", INSTANCES, 400, reason=f"what is {cloud.token}?")
    with pytest.raises(SettingsError, match="what is …") as raised:
        account.machines(TAG)
    assert cloud.token not in repr(account) + repr(raised.value)


def test_a_netrc_does_not_take_the_tokens_place(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    account.check()


# What there is, and what it costs


def test_a_type_and_its_price(account: Account) -> None:
    kind = account.kind("g6-standard-1", "us-east")
    assert (kind.memory, kind.disk, kind.vcpus, kind.gpus) == (2048, 51200, 1, 0)
    assert (kind.hourly, kind.monthly) == (0.018, 12.0)


def test_some_regions_have_prices_of_their_own(account: Account) -> None:
    kind = account.kind("g6-nanode-1", "br-gru")
    assert (kind.hourly, kind.monthly) == (0.0105, 7.0)
    assert account.kind("g6-nanode-1", "ap-south").monthly == 5.0


def test_a_price_of_0_is_none(account: Account) -> None:
    kind = account.kind("g2-gpu-rtx4000a1-s", "us-ord")
    assert (kind.gpus, kind.hourly, kind.monthly) == (1, None, None)


@pytest.mark.parametrize(
    ("name", "region", "message", "hint"),
    [
        ("g6-standart-1", "us-east", "no type 'g6-standart-1'", "g6-standard-1"),
        ("g6-nanode-1", "us-est", "no region 'us-est'", "us-east"),
        ("g2-gpu-rtx4000a1-s", "us-east", "not to be had in us-east, which has no GPU Linodes", "have it: us-ord"),
        ("g7-premium-2", "eu-central", "no Premium Plans", "us-ord, br-gru, id-cgk"),
        ("g6-nanode-1", "us-den-edge-1", "no Metadata", "us-east"),
        ("g6-standard-2", "ap-south", "not to be had in ap-south at the moment", "another region"),
    ],
)
def test_a_type_that_is_not_to_be_had(account: Account, name: str, region: str, message: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        account.kind(name, region)
    assert raised.value.hint and hint in raised.value.hint


def test_lists_are_read_once(account: Account, cloud: Cloud) -> None:
    for name in ("g6-nanode-1", "g6-standard-1"):
        account.kind(name, "us-east")
    assert len(cloud.asked("GET", "/linode/types")) == len(cloud.asked("GET", "/regions")) == 1


def test_images(account: Account) -> None:
    account.images_has("linode/debian13")
    with pytest.raises(SettingsError, match="no image 'linode/debian31'") as raised:
        account.images_has("linode/debian31")
    assert raised.value.hint and "linode/debian13" in raised.value.hint
    with pytest.raises(SettingsError, match=r"slackware15\.0 does not read user data"):
        account.images_has("linode/slackware15.0")


# Finding


def test_only_what_has_the_tag_is_found_over_all_pages(account: Account, cloud: Cloud) -> None:
    cloud.page = 2
    for number in range(5):
        cloud.add_machine(f"chest-{number}", [TAG], address=f"203.0.113.{number}")
        cloud.add_machine(f"other-{number}", ["other"])
    found = account.machines(TAG)
    assert [one.label for one in found] == [f"chest-{number}" for number in range(5)]
    assert found[3].address == "203.0.113.3"
    assert [one.filters for one in cloud.requests] == [{"tags": TAG}] * 3
    assert not any("tag" in one.query for one in cloud.requests)


def test_a_machine_as_the_api_tells_it(account: Account, cloud: Cloud) -> None:
    raw = cloud.add_machine("chest-a", [TAG], "booting")
    raw["ipv4"] = ["192.168.130.9", "203.0.113.9"]
    (found,) = account.machines(TAG)
    created = datetime.fromisoformat(raw["created"] + "Z")
    assert found == Machine(raw["id"], "chest-a", "booting", "203.0.113.9", "g6-nanode-1", "us-east", created)
    assert datetime.now(UTC) - found.created < timedelta(minutes=1)


def test_all_that_bills_or_blocks(account: Account, cloud: Cloud) -> None:
    ours = [cloud.add_machine("chest-b", [TAG]), cloud.add_machine("chest-a", [TAG, "more"])]
    cloud.add_machine("other", ["fedssh-chest-2"])
    wall, volume = cloud.add_firewall("chest", [TAG]), cloud.add_volume("chest-data", [TAG])
    cloud.add_volume("other")
    assert account.things(TAG) == [
        Thing("machine", ours[1]["id"], "chest-a"), Thing("machine", ours[0]["id"], "chest-b"),
        Thing("firewall", wall["id"], "chest"), Thing("volume", volume["id"], "chest-data"),
    ]  # fmt: skip


def test_a_filter_that_is_not_heeded_does_not_give_others_machines(account: Account, cloud: Cloud) -> None:
    cloud.heeds_filters = False
    cloud.add_machine("other", ["other"])
    cloud.add_firewall("other")
    assert account.machines(TAG) == [] and account.things(TAG) == []


def test_a_list_that_changes_while_it_is_read_is_read_again(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.page = 2
    for number in range(3):
        cloud.add_machine(f"chest-{number}", [TAG])

    def appear(method: str, path: str) -> None:
        if len(cloud.requests) == 1:
            cloud.add_machine("chest-9", [TAG])

    cloud.before = appear
    assert len(account.machines(TAG)) == 4
    assert waits == [1]


# The firewall


def test_a_firewall_lets_in_ssh_the_door_and_pings(account: Account, cloud: Cloud) -> None:
    number = account.firewall("chest", TAG, ["198.51.100.4/32", "2001:db8::/48"], [2222, 2200])
    (request,) = cloud.asked("POST", FIREWALLS)
    everywhere = {"ipv4": ["0.0.0.0/0"], "ipv6": ["::/0"]}
    assert request.body == {
        "label": "chest",
        "tags": [TAG],
        "rules": {
            "inbound_policy": "DROP",
            "outbound_policy": "ACCEPT",
            "outbound": [],
            "inbound": [
                {
                    "label": "ssh", "action": "ACCEPT", "protocol": "TCP", "ports": "22",
                    "addresses": {"ipv4": ["198.51.100.4/32"], "ipv6": ["2001:db8::/48"]},
                },
                {
                    "label": "door", "action": "ACCEPT", "protocol": "TCP", "ports": "2200, 2222",
                    "addresses": everywhere,
                },
                {"label": "ping", "action": "ACCEPT", "protocol": "ICMP", "addresses": everywhere},
            ],
        },
    }  # fmt: skip
    assert list(cloud.firewalls) == [number]


def test_a_firewall_that_is_as_it_should_be_is_left(account: Account, cloud: Cloud) -> None:
    first = account.firewall("chest", TAG, ["198.51.100.4"], [2222, 22022])
    assert account.firewall("chest", TAG, ["198.51.100.4"], [22022, 2222]) == first
    assert not cloud.asked("PUT", f"{FIREWALLS}/{first}/rules")


@pytest.mark.parametrize(
    ("ssh_from", "ports"), [(["198.51.100.5/32"], [2222]), (["198.51.100.4/32"], []), (["198.51.100.4/32"], [2223])]
)
def test_rules_are_brought_up_to_date(account: Account, cloud: Cloud, ssh_from: list[str], ports: list[int]) -> None:
    first = account.firewall("chest", TAG, ["198.51.100.4/32"], [2222])
    assert account.firewall("chest", TAG, ssh_from, ports) == first
    assert len(cloud.asked("PUT", f"{FIREWALLS}/{first}/rules")) == 1
    assert account.firewall("chest", TAG, ssh_from, ports) == first
    assert len(cloud.asked("PUT", f"{FIREWALLS}/{first}/rules")) == 1


def test_a_firewall_of_ours_that_stands_open_is_closed(account: Account, cloud: Cloud) -> None:
    wall = cloud.add_firewall("chest", [TAG])
    assert account.firewall("chest", TAG, ["198.51.100.4/32"], []) == wall["id"]
    assert wall["rules"]["inbound_policy"] == "DROP"


def test_a_firewall_of_somebody_else_is_not_touched(account: Account, cloud: Cloud) -> None:
    cloud.add_firewall("chest", ["other"])
    with pytest.raises(SettingsError, match=f"firewall chest is there already and does not have the tag {TAG}"):
        account.firewall("chest", TAG, ["198.51.100.4/32"], [])
    assert {one.method for one in cloud.requests} == {"GET"}


@pytest.mark.parametrize("status", [0, 502, 504])
def test_a_firewall_whose_making_nobody_told_of_is_found(account: Account, cloud: Cloud, status: int) -> None:
    cloud.fail("POST", FIREWALLS, status, after=True)
    assert list(cloud.firewalls) == [] and account.firewall("chest", TAG, ["198.51.100.4/32"], []) in cloud.firewalls
    assert len(cloud.firewalls) == 1


@pytest.mark.parametrize(
    ("ssh_from", "message"), [([], "no network may log in"), (["198.51.100.4/24"], "host bits set")]
)
def test_wrong_networks(account: Account, cloud: Cloud, ssh_from: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        account.firewall("chest", TAG, ssh_from, [])
    assert cloud.requests == []


# Making a machine


def test_what_is_asked_of_a_new_machine(account: Account, cloud: Cloud) -> None:
    machine = make(account)
    (request,) = cloud.asked("POST", INSTANCES)
    password = request.body.pop("root_pass")
    assert request.body == {
        "label": "chest-a", "tags": [TAG], "region": "us-east", "type": "g6-standard-1", "image": "linode/debian13",
        "authorized_keys": [KEY], "metadata": {"user_data": base64.b64encode(DATA.encode()).decode()},
        "firewall_id": cloud.attached[machine.id], "booted": True,
    }  # fmt: skip
    assert len(password) == 64
    assert (machine.label, machine.status) == ("chest-a", "provisioning")
    make(account, "chest-b")
    assert cloud.asked("POST", INSTANCES)[1].body["root_pass"] != password


def test_a_machine_of_ours_is_returned_as_far_as_it_has_come(account: Account, cloud: Cloud) -> None:
    raw = cloud.add_machine("chest-a", [TAG], "provisioning")
    machine = make(account)
    assert (machine.id, machine.status, machine.address) == (raw["id"], "provisioning", "")
    assert cloud.asked("POST", INSTANCES) == []


def test_a_machine_of_somebody_else_is_not_touched(account: Account, cloud: Cloud) -> None:
    cloud.add_machine("chest-a", ["other"])
    with pytest.raises(SettingsError, match=f"machine chest-a is there already and does not have the tag {TAG}"):
        make(account)
    assert cloud.asked("POST", INSTANCES) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("status", [0, 408, 500, 502, 503, 504])
def test_a_lost_answer_makes_no_second_machine(
    account: Account, cloud: Cloud, waits: list[float], status: int, after: bool
) -> None:
    cloud.fail("POST", INSTANCES, status, after=after)
    machine = make(account)
    assert list(cloud.machines) == [machine.id]
    assert len(cloud.asked("POST", INSTANCES)) == (1 if after else 2)
    assert waits == [1]


def test_a_label_that_another_run_of_ours_has_just_taken(account: Account, cloud: Cloud) -> None:
    taken = "Label must be unique among your linodes"
    cloud.fail("POST", INSTANCES, 400, after=True, reason=taken, about="label")
    assert make(account).id in cloud.machines


def test_a_machine_that_is_never_made(account: Account, cloud: Cloud) -> None:
    cloud.fail("POST", INSTANCES, 502, times=99)
    with pytest.raises(UnreachableError, match="could not make machine chest-a: Linode's API: 502") as raised:
        make(account)
    assert raised.value.hint and cloud.machines == {}


def test_the_apis_own_reasons(account: Account, cloud: Cloud) -> None:
    with pytest.raises(SettingsError, match="could not make machine a--b: Linode's API: label: Label must be between"):
        make(account, "a--b")
    cloud.limit = 0
    with pytest.raises(SettingsError, match="Account Limit reached") as raised:
        make(account)
    assert raised.value.hint and "support/tickets" in raised.value.hint
    passwords = [one.body["root_pass"] for one in cloud.asked("POST", INSTANCES)]
    assert len(passwords) == 2 and not any(password in repr(raised.value) for password in passwords)


# Patience


def test_a_429_is_waited_for_also_by_what_is_not_done_twice(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.fail("POST", INSTANCES, 429, headers={"Retry-After": "14"})
    assert make(account).id in cloud.machines
    assert waits == [14]


def test_a_429_without_an_hour_is_waited_for_as_anything_else(
    account: Account, cloud: Cloud, waits: list[float]
) -> None:
    cloud.fail("GET", INSTANCES, 429, times=3)
    account.machines(TAG)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("after", ["301", "86400"])
def test_who_asks_for_too_much_patience_does_not_get_it(
    account: Account, cloud: Cloud, waits: list[float], after: str
) -> None:
    cloud.fail("GET", INSTANCES, 429, headers={"Retry-After": after})
    with pytest.raises(UnreachableError, match="could not list machines: Linode's API: 429 Too many requests"):
        account.machines(TAG)
    assert waits == []


def test_patience_has_an_end(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.fail("GET", INSTANCES, 429, headers={"Retry-After": "100"}, times=99)
    with pytest.raises(UnreachableError):
        account.machines(TAG)
    assert waits == [100, 100, 100]


@pytest.mark.parametrize("status", [0, 408, 500, 502, 503, 504])
def test_reading_is_tried_again_with_growing_waits(
    account: Account, cloud: Cloud, waits: list[float], status: int
) -> None:
    cloud.fail("GET", INSTANCES, status, times=4)
    assert account.machines(TAG) == []
    assert waits == [1, 2, 4, 8]


def test_an_api_that_does_not_answer(waits: list[float]) -> None:
    with Cloud() as cloud:
        pass
    with pytest.raises(UnreachableError, match="could not list machines: Linode's API: ConnectionError") as raised:
        Account(cloud.token, cloud.url, waits.append).machines(TAG)
    assert raised.value.hint and "status.linode.com" in raised.value.hint
    assert waits == list(linode.WAITS)


def test_an_api_that_keeps_silent(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linode, "TIMEOUTS", (1, 0.05))
    speaks = threading.Event()
    cloud.before = lambda method, path: speaks.wait(10)
    account = Account(cloud.token, cloud.url, lambda seconds: speaks.set())
    assert account.machines(TAG) == []
    assert speaks.is_set()


# Waiting for a machine


def test_a_machine_is_waited_for(account: Account, cloud: Cloud, waits: list[float]) -> None:
    heard: list[str] = []
    machine = make(account)
    ready = account.ready(machine.id, 60, heard.append)
    assert heard == ["provisioning", "booting", "running"]
    assert (ready.status, ready.address) == ("running", cloud.machines[machine.id]["ipv4"][0])
    assert waits == [5, 5]


def test_a_slow_machine(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.stages = ["provisioning"] * 9 + ["booting"] * 5 + ["running"]
    assert account.ready(make(account).id, 600, lambda status: None).status == "running"
    assert sum(waits) == 70


def test_a_machine_that_never_boots(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.stages = ["provisioning", "booting"]
    with pytest.raises(UnreachableError, match="chest-a is still booting after 60 s"):
        account.ready(make(account).id, 60, lambda status: None)
    assert sum(waits) == 60


def test_waiting_for_the_api_counts(account: Account, cloud: Cloud, waits: list[float]) -> None:
    cloud.stages = ["provisioning"]
    machine = make(account)
    cloud.fail("GET", f"{INSTANCES}/", 503, times=5)
    with pytest.raises(UnreachableError, match="still provisioning after 60 s"):
        account.ready(machine.id, 60, lambda status: None)
    assert sum(waits) == 61


def test_a_running_machine_without_address_is_not_ready(account: Account, cloud: Cloud) -> None:
    raw = cloud.add_machine("chest-a", [TAG])
    with pytest.raises(UnreachableError, match="still running"):
        account.ready(raw["id"], 10, lambda status: None)


def test_a_machine_that_is_off_is_booted(account: Account, cloud: Cloud) -> None:
    cloud.stages = ["provisioning", "offline"]
    heard: list[str] = []
    machine = make(account)
    assert account.ready(machine.id, 60, heard.append).status == "running"
    assert heard == ["provisioning", "offline", "booting", "running"]
    assert len(cloud.asked("POST", f"{INSTANCES}/{machine.id}/boot")) == 1


def test_a_machine_that_is_about_to_boot_by_itself(account: Account, cloud: Cloud) -> None:
    cloud.stages = ["provisioning", "offline", "booting", "running"]
    machine = make(account)
    assert account.ready(machine.id, 60, lambda status: None).status == "running"
    assert [one.status for one in cloud.asked("POST", f"{INSTANCES}/{machine.id}/boot")] == [400]


def test_a_machine_that_cannot_boot(account: Account, cloud: Cloud) -> None:
    raw = cloud.add_machine("chest-a", [TAG], "offline")
    cloud.fail("POST", f"{INSTANCES}/{raw['id']}/boot", 400, reason="This Linode has no configs")
    with pytest.raises(SettingsError, match=r"could not boot machine chest-a: .*no configs"):
        account.ready(raw["id"], 60, lambda status: None)


def test_a_machine_that_is_gone_or_suspended(account: Account, cloud: Cloud) -> None:
    with pytest.raises(AgentError, match="machine 17 is gone"):
        account.ready(17, 60, lambda status: None)
    raw = cloud.add_machine("chest-a", [TAG], "billing_suspension")
    with pytest.raises(SettingsError, match="chest-a is suspended"):
        account.ready(raw["id"], 60, lambda status: None)


def test_who_waits_at_the_same_time_waits_for_one_machine_each(cloud: Cloud) -> None:
    cloud.stages = ["provisioning"] * 8 + ["running"]
    both = threading.Barrier(2, timeout=10)
    account = Account(cloud.token, cloud.url, lambda seconds: both.wait())
    numbers = [make(account, label).id for label in ("chest-a", "chest-b")]
    with ThreadPoolExecutor() as pool:
        ready = list(pool.map(lambda number: account.ready(number, 40, lambda status: None), numbers))
    assert [one.status for one in ready] == ["running", "running"]


# Deleting


def test_everything_is_deleted(account: Account, cloud: Cloud, waits: list[float]) -> None:
    number = make(account).id
    cloud.add_volume("chest-data", [TAG], number)
    for thing in account.things(TAG):
        account.delete(thing)
    assert account.things(TAG) == [] and not (cloud.machines or cloud.firewalls or cloud.volumes)
    assert waits == []


@pytest.mark.parametrize("kind", ["machine", "firewall", "volume"])
def test_what_is_gone_already_is_fine(account: Account, cloud: Cloud, kind: str) -> None:
    account.delete(Thing(kind, 17, "chest-a"))
    assert [(one.method, one.status) for one in cloud.requests] == [("DELETE", 404)]


@pytest.mark.parametrize("status", [0, 502])
def test_a_deletion_that_nobody_told_of(account: Account, cloud: Cloud, status: int) -> None:
    raw = cloud.add_machine("chest-a", [TAG])
    cloud.fail("DELETE", INSTANCES, status, after=True)
    account.delete(Thing("machine", raw["id"], "chest-a"))
    assert cloud.machines == {}


def test_a_busy_machine_is_waited_for_as_long_as_that_makes_sense(
    account: Account, cloud: Cloud, waits: list[float]
) -> None:
    raw = cloud.add_machine("chest-a", [TAG], "provisioning")
    thing = Thing("machine", raw["id"], "chest-a")
    cloud.fail("DELETE", INSTANCES, 400, reason="Linode busy.", times=2)
    account.delete(thing)
    assert waits == [2, 4] and cloud.machines == {}
    cloud.fail("DELETE", INSTANCES, 400, reason="Linode busy.", times=99)
    with pytest.raises(SettingsError, match="could not delete machine chest-a: Linode's API: Linode busy"):
        account.delete(thing)


def test_a_volume_is_deleted_when_its_machine_lets_go_of_it(cloud: Cloud) -> None:
    volume = cloud.add_volume("chest-data", [TAG], cloud.add_machine("chest-a", [TAG])["id"])
    account = Account(cloud.token, cloud.url, lambda seconds: volume.update(linode_id=None))
    account.delete(Thing("volume", volume["id"], "chest-data"))
    assert cloud.volumes == {}
    assert [one.status for one in cloud.requests] == [400, 200]


def test_what_may_not_be_deleted(account: Account, cloud: Cloud, waits: list[float]) -> None:
    raw = cloud.add_machine("chest-a", [TAG])
    cloud.fail("DELETE", INSTANCES, 400, reason="This Linode is locked")
    with pytest.raises(SettingsError, match="is locked"):
        account.delete(Thing("machine", raw["id"], "chest-a"))
    assert waits == [] and raw["id"] in cloud.machines


# The fake itself: what breaks the schema is seen, and the API's traps are in it


def ask(cloud: Cloud, method: str, path: str, body: Any = None, **headers: str) -> Any:
    request = urllib.request.Request(cloud.url + path, json.dumps(body).encode() if body is not None else None)
    request.method = method
    for name, value in ({"Authorization": f"Bearer {cloud.token}"} | headers).items():
        request.add_header(name, value)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def test_a_tag_in_the_query_gives_the_whole_account_and_is_seen(cloud: Cloud) -> None:
    cloud.add_machine("other", ["other"])
    assert [one["label"] for one in ask(cloud, "GET", f"{INSTANCES}?tags={TAG}")["data"]] == ["other"]
    assert [one.rpartition(": ")[2] for one in cloud.violations] == ["unknown query tags"]
    cloud.violations.clear()


def test_filters(cloud: Cloud) -> None:
    for label, tags in (("one", ["a"]), ("two", ["a", "b"]), ("three", ["b"])):
        cloud.add_machine(label, tags)
    for wanted, found in (
        ({"tags": "a"}, ["one", "two"]),
        ({"+and": [{"tags": "a"}, {"tags": "b"}]}, ["two"]),
        ({"+or": [{"label": "one"}, {"label": "three"}]}, ["one", "three"]),
        ({"label": {"+contains": "t"}}, ["two", "three"]),
    ):
        said = ask(cloud, "GET", INSTANCES, **{"X-Filter": json.dumps(wanted)})
        assert [one["label"] for one in said["data"]] == found
    assert cloud.violations == []
    ask(cloud, "GET", INSTANCES, **{"X-Filter": '{"status": "running"}'})
    assert cloud.violations.pop() == f"GET {INSTANCES}: filter by status"


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"flavour": "big"}, "unknown field flavour"),
        ({"type": None}, "type is null"),
        ({"booted": "yes"}, "booted is str, not boolean"),
        ({"firewall_id": True}, "firewall_id is bool, not integer"),
        ({"tags": [TAG, 3]}, "tags[1] is int, not string"),
        ({"metadata": {"userdata": ""}}, "unknown field metadata.userdata"),
        ({"metadata": "data"}, "metadata is str, not object"),
    ],
)
def test_a_body_that_breaks_the_schema(change: dict[str, Any], violation: str) -> None:
    right = {"label": "chest-a", "type": "g6-nanode-1", "region": "us-east", "image": "linode/debian13", "tags": [TAG]}
    assert Schema().check_body("post", INSTANCES, right) == []
    assert Schema().check_body("post", INSTANCES, right | change) == [violation]


def test_fields_that_are_missing_or_not_ours_to_set() -> None:
    assert Schema().check_body("post", INSTANCES, {"region": "us-east"}) == ["missing field type"]
    wall: dict[str, Any] = {"label": "chest", "rules": {"inbound": [{"port": "22"}], "inbound_policy": "DROP"}}
    assert Schema().check_body("post", FIREWALLS, wall | {"id": 3}) == [
        "id is read-only", "rules.inbound[0]: unknown field port",
    ]  # fmt: skip


def test_an_operation_that_there_is_not(cloud: Cloud) -> None:
    assert ask(cloud, "GET", "/linode/machines") == {"errors": [{"reason": "Not found"}]}
    assert cloud.violations.pop() == "GET /linode/machines: no such operation"


def test_a_page_that_the_api_does_not_give(cloud: Cloud) -> None:
    assert ask(cloud, "GET", f"{INSTANCES}?page_size=10")["errors"] == [
        {"reason": "Must be 25-500", "field": "page_size"}
    ]
    assert ask(cloud, "GET", f"{INSTANCES}?page=2")["errors"] == [{"reason": "Not found"}]


def test_the_hooks_start_and_stop_machines() -> None:
    bodies: list[dict[str, Any]] = []
    stopped: list[int] = []

    def start(body: dict[str, Any]) -> str:
        bodies.append(body)
        return "10.213.1.2"

    with Cloud(start, stopped.append) as cloud:
        account = Account(cloud.token, cloud.url, lambda seconds: None)
        machine = make(account)
        account.delete(Thing("machine", machine.id, machine.label))
    assert (machine.address, stopped) == ("10.213.1.2", [machine.id])
    assert bodies[0]["id"] == machine.id and bodies[0]["authorized_keys"] == [KEY]
    assert cloud.violations == []
