"""A fake of Linode's API v4 over HTTP on loopback: what it does, how it fails, and whether it is asked as it wants.

with Cloud() as cloud:
    account = Account(cloud.token, base_url=cloud.url)
    cloud.fail("POST", "/linode/instances", 502, after=True)    made, and nobody was told
    ...
    assert cloud.violations == []                               every request fits the vendor's own schema

Texts of refusals are the real ones where we know them. Time passes by looking: each GET of a machine moves it on.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.harness.linode_schema import Schema

Raw = dict[str, Any]
EVERY = ("Linodes", "Metadata", "Cloud Firewall", "Block Storage", "VPCs", "Backups", "Disk Encryption")
REGIONS = {
    "us-east": ("us", "Newark, NJ, USA", EVERY),
    "us-ord": ("us", "Chicago, IL, USA", (*EVERY, "GPU Linodes", "Premium Plans")),
    "eu-central": ("de", "Frankfurt, DE", EVERY),
    "ap-south": ("sg", "Singapore, SG", EVERY),
    "br-gru": ("br", "Sao Paulo, BR", (*EVERY, "Premium Plans")),
    "id-cgk": ("id", "Jakarta, ID", (*EVERY, "Premium Plans")),
    "us-den-edge-1": ("us", "Denver, CO, USA", ("Linodes", "Cloud Firewall", "Distributed Plans")),
}
# Name: (label, class, MB of memory, MB of disk, CPUs, GPUs, $ an hour, $ a month, prices elsewhere)
TYPES: dict[str, tuple[str, str, int, int, int, int, float, float, dict[str, tuple[float, float]]]] = {
    "g6-nanode-1": (
        "Nanode 1GB", "nanode", 1024, 25600, 1, 0, 0.0075, 5.0, {"id-cgk": (0.009, 6.0), "br-gru": (0.0105, 7.0)},
    ),
    "g6-standard-1": (
        "Linode 2GB", "standard", 2048, 51200, 1, 0, 0.018, 12.0,
        {"id-cgk": (0.0216, 14.4), "br-gru": (0.0252, 16.8)},
    ),
    "g6-standard-2": (
        "Linode 4GB", "standard", 4096, 81920, 2, 0, 0.036, 24.0,
        {"id-cgk": (0.0432, 28.8), "br-gru": (0.0504, 33.6)},
    ),
    "g7-premium-2": ("Premium 4GB", "premium", 4096, 81920, 2, 0, 0.0645, 43.0, {}),
    "g2-gpu-rtx4000a1-s": ("RTX4000 Ada x1 Small", "gpu", 16384, 524288, 4, 1, 0, 0, {}),
}  # fmt: skip
SOLD_OUT = {("ap-south", "g6-standard-2")}
IMAGES = {
    "linode/debian12": ("Debian 12", ["cloud-init"]), "linode/debian13": ("Debian 13", ["cloud-init"]),
    "linode/ubuntu24.04": ("Ubuntu 24.04 LTS", ["cloud-init"]), "linode/slackware15.0": ("Slackware 15.0", []),
}  # fmt: skip
SCOPES = {"/linode/instances": "linodes", "/networking/firewalls": "firewall", "/volumes": "volumes"}
UNKNOWN_SCOPE = "Your OAuth token is not authorized to use this endpoint."
KEY = re.compile(r"(ssh-(rsa|ed25519|dss)|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/=]+( .*)?")


class Refused(Exception):
    """The answer is an error."""

    def __init__(self, status: int, reason: str, about: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.errors = [{"reason": reason} | ({"field": about} if about else {})]


@dataclass
class Fault:
    """What goes wrong.

    Args:
        status: The answer; 0 cuts the connection.
        after: It comes after what was asked for has been done.
        times: How often; the next request is answered as it should be.
    """

    method: str
    path: str
    status: int
    after: bool = False
    times: int = 1
    reason: str = ""
    about: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request, and how it was answered."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]]
    filters: Any
    body: Any
    status: int


class Cloud:
    """An account with nothing in it, at `url`.

    Args:
        start: Gets the body of a POST for a machine, with its "id"; starts one and returns its address.
        stop: Gets the id of a machine that is deleted.
    """

    def __init__(self, start: Callable[[Raw], str] | None = None, stop: Callable[[int], None] | None = None) -> None:
        self.token = "c0ffee" * 10 + "cafe"
        self.scopes = "*"
        self.page = 100  # things on a page, and the fewest that may be asked for
        self.limit = 100  # machines of this account
        self.stages = ["provisioning", "booting", "running"]  # of a new machine; the last one lasts
        self.heeds_filters = True
        self.before: Callable[[str, str], object] = lambda method, path: None  # hears of each request before it is done
        self.machines: dict[int, Raw] = {}
        self.firewalls: dict[int, Raw] = {}
        self.volumes: dict[int, Raw] = {}
        self.attached: dict[int, int] = {}  # the firewall of each machine
        self.user_data: dict[int, str] = {}
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self._start, self._stop = start, stop
        self._schema = Schema()
        self._next = itertools.count(1001)
        self._ahead: dict[int, list[str]] = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v4"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop answering; what runs goes on running."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fail(self, method: str, path: str, status: int, **more: Any) -> None:
        """Answer the next requests of a method, to a path that begins like this, with an error; see `Fault`."""
        self.faults.append(Fault(method, path, status, **more))

    def add_machine(
        self, label: str, tags: Iterable[str] = (), status: str = "running", address: str = "", **more: Any
    ) -> Raw:
        """A machine that is there already, as of somebody else, or half-made."""
        machine = self._machine({"label": label, "tags": list(tags), "type": "g6-nanode-1", "region": "us-east"} | more)
        machine |= {"status": status, "ipv4": [address] if address else []}
        self._ahead[machine["id"]] = []
        return machine

    def add_firewall(self, label: str, tags: Iterable[str] = ()) -> Raw:
        """A firewall that is there already, and lets everything in."""
        rules = {"inbound": [], "inbound_policy": "ACCEPT", "outbound": [], "outbound_policy": "ACCEPT"}
        return self._firewall({"label": label, "tags": list(tags), "rules": rules})

    def add_volume(self, label: str, tags: Iterable[str] = (), machine: int | None = None) -> Raw:
        """A volume, which bills."""
        volume: Raw = {
            "id": next(self._next), "label": label, "status": "active", "size": 20, "region": "us-east",
            "linode_id": machine, "linode_label": machine and self.machines[machine]["label"], "tags": list(tags),
            "created": _now(), "updated": _now(), "encryption": "disabled", "hardware_type": "nvme",
            "filesystem_path": f"/dev/disk/by-id/scsi-0Linode_Volume_{label}",
        }  # fmt: skip
        self.volumes[volume["id"]] = volume
        return volume

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of a method to just this path."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]

    def answer(self, method: str, target: str, headers: Mapping[str, str], content: bytes) -> tuple[int, Any, Raw]:
        """A request's status, its answer and its headers; status 0 cuts the connection."""
        parts = urlsplit(target)
        path, query = unquote(parts.path).removeprefix("/v4"), parse_qs(parts.query, keep_blank_values=True)
        body = json.loads(content) if content else None
        filters = json.loads(headers.get("X-Filter") or "{}")
        more: Raw = {"X-OAuth-Scopes": self.scopes}
        try:
            status, said = 200, self._answer_or_fail(method, path, query, filters, body, headers)
        except Refused as refused:
            status, said = refused.status, {"errors": refused.errors}
        except _FailedError as failed:
            status, said = failed.fault.status, {"errors": _errors(failed.fault)}
            more |= failed.fault.headers
        except Exception:  # noqa: BLE001 - whatever it is, the test hears of it
            self.violations.append(f"{method} {path}: the fake failed: {traceback.format_exc()}")
            status, said = 500, {"errors": [{"reason": "An unexpected error occurred."}]}
        with self._lock:
            self.requests.append(Request(method, path, query, filters, body, status))
        return status, said, more

    def _answer_or_fail(
        self,
        method: str,
        path: str,
        query: Mapping[str, Sequence[str]],
        filters: Any,
        body: Any,
        headers: Mapping[str, str],
    ) -> Any:
        self.before(method, path)
        fault = self._fault(method, path)
        if fault and not fault.after:
            raise _FailedError(fault)
        self._admit(method, path, headers)
        pattern = self._schema.path(method.lower(), path)
        if pattern is None:
            self.violations.append(f"{method} {path}: no such operation")
            raise Refused(404, "Not found")
        wrong = self._schema.check_body(method.lower(), pattern, body)
        wrong += self._schema.check_query(method.lower(), pattern, query)
        if filters:
            wrong += [f"filter by {name}" for name in _filtered(filters) - self._schema.filterable(pattern)]
        self.violations += [f"{method} {path}: {one}" for one in wrong]
        said = self._act(f"{method} {pattern}", path, body)
        if isinstance(said, _List):
            said = self._paged(said.things, query, filters)
        self.violations += [
            f"{method} {path}: the fake: {one}" for one in self._schema.check_answer(method.lower(), pattern, said)
        ]
        if fault:
            raise _FailedError(fault)
        return said

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method == method and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def _admit(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Invalid Token")
        for start, scope in SCOPES.items():
            needed = {"*", f"{scope}:read_write"} | ({f"{scope}:read_only"} if method == "GET" else set())
            if path.startswith(start) and not needed & set(self.scopes.split()):
                raise Refused(401, UNKNOWN_SCOPE)

    def _act(self, operation: str, path: str, body: Any) -> Any:
        if operation == "POST /linode/instances":
            return self._post_machine(body)  # not under the lock: it takes its time
        with self._lock:
            return self._quick(operation, path, body or {})

    def _quick(self, operation: str, path: str, body: Raw) -> Any:
        known: dict[str, Callable[[], Any]] = {
            "GET /linode/types": lambda: _List([_type(name) for name in TYPES]),
            "GET /regions": lambda: _List([_region(name) for name in REGIONS]),
            "GET /regions/{regionId}/availability": lambda: _availability(path.split("/")[2]),
            "GET /images": lambda: _List([_image(name) for name in IMAGES]),
            "GET /images/{imageId}": lambda: _image(path.removeprefix("/images/")),
            "GET /linode/instances": lambda: _List(list(self.machines.values())),
            "GET /linode/instances/{linodeId}": lambda: self._look(_id(path, self.machines)),
            "POST /linode/instances/{linodeId}/boot": lambda: self._boot(_id(path, self.machines)),
            "DELETE /linode/instances/{linodeId}": lambda: self._delete_machine(_id(path, self.machines)),
            "GET /networking/firewalls": lambda: _List(list(self.firewalls.values())),
            "POST /networking/firewalls": lambda: self._post_firewall(body),
            "GET /networking/firewalls/{firewallId}/rules": lambda: self.firewalls[_id(path, self.firewalls)]["rules"],
            "PUT /networking/firewalls/{firewallId}/rules": lambda: self._put_rules(_id(path, self.firewalls), body),
            "DELETE /networking/firewalls/{firewallId}": lambda: self._delete_firewall(_id(path, self.firewalls)),
            "GET /volumes": lambda: _List(list(self.volumes.values())),
            "DELETE /volumes/{volumeId}": lambda: self._delete_volume(_id(path, self.volumes)),
        }
        return known[operation]()

    def _paged(self, things: Sequence[Raw], query: Mapping[str, Sequence[str]], filters: Any) -> Raw:
        number, size = (int(query.get(name, [usual])[0]) for name, usual in (("page", 1), ("page_size", self.page)))
        if not min(25, self.page) <= size <= 500:
            raise Refused(400, "Must be 25-500", "page_size")
        found = [thing for thing in things if not self.heeds_filters or _matches(thing, filters)]
        pages = max(1, -(-len(found) // size))
        if number > pages:
            raise Refused(404, "Not found")
        return {
            "data": found[(number - 1) * size : number * size],
            "page": number,
            "pages": pages,
            "results": len(found),
        }

    def _post_machine(self, body: Raw) -> Raw:
        with self._lock:
            _check_machine(body)
            if body.get("firewall_id") is not None and body["firewall_id"] not in self.firewalls:
                raise Refused(400, "firewall_id is not valid", "firewall_id")
            if body["label"] in (one["label"] for one in self.machines.values()):
                raise Refused(400, "Label must be unique among your linodes", "label")
            if len(self.machines) >= self.limit:
                raise Refused(400, "Account Limit reached. Please open a support ticket.")
            machine = self._machine(body)
        address = (
            self._start(body | {"id": machine["id"]}) if self._start else f"203.0.113.{len(self.machines) % 250 + 1}"
        )
        machine["ipv4"] = [address]
        return machine

    def _machine(self, body: Raw) -> Raw:
        number = next(self._next)
        _, _, memory, disk, cpus, gpus, *_ = TYPES[body["type"]]
        specs = {
            "memory": memory,
            "disk": disk,
            "vcpus": cpus,
            "gpus": gpus,
            "transfer": 1000,
            "accelerated_devices": 0,
        }
        self.machines[number] = machine = {
            "id": number, "label": body["label"], "status": self.stages[0], "ipv4": [], "type": body["type"],
            "region": body["region"], "image": body.get("image"), "tags": body.get("tags", []), "created": _now(),
            "updated": _now(), "ipv6": f"2600:3c03::f03c:{number:x}/128", "group": "", "hypervisor": "kvm",
            "specs": specs, "has_user_data": "metadata" in body, "watchdog_enabled": True, "lke_cluster_id": None,
            "capabilities": [], "disk_encryption": "enabled", "placement_group": None, "site_type": "core",
            "interface_generation": "legacy_config", "host_uuid": f"{number:040x}",
        }  # fmt: skip
        self._ahead[number] = list(self.stages[1:])
        if body.get("firewall_id") is not None:
            self.attached[number] = body["firewall_id"]
        if encoded := body.get("metadata", {}).get("user_data"):
            self.user_data[number] = base64.b64decode(encoded).decode()
        return machine

    def _look(self, number: int) -> Raw:
        """A machine; looking at it takes it one stage on, and shows what it was."""
        machine = dict(self.machines[number])
        if self._ahead[number]:
            self.machines[number]["status"] = self._ahead[number].pop(0)
        return machine

    def _boot(self, number: int) -> Raw:
        if self.machines[number]["status"] != "offline":
            raise Refused(400, "Linode busy.")
        self.machines[number]["status"] = "booting"
        self._ahead[number] = ["running"]
        return {}

    def _delete_machine(self, number: int) -> Raw:
        del self.machines[number]
        self.attached.pop(number, None)
        for volume in self.volumes.values():
            if volume["linode_id"] == number:
                volume["linode_id"] = volume["linode_label"] = None
        if self._stop:
            self._stop(number)
        return {}

    def _post_firewall(self, body: Raw) -> Raw:
        if not re.fullmatch(r"(?!.*(--|__|\.\.))[a-zA-Z][a-zA-Z0-9._-]{2,31}", body["label"]):
            raise Refused(400, "Label must be 3-32 characters, and begin with a letter", "label")
        if body["label"] in (one["label"] for one in self.firewalls.values()):
            raise Refused(400, "Label must be unique among your Cloud Firewalls", "label")
        _check_rules(body["rules"], "rules.")
        return self._firewall(body)

    def _firewall(self, body: Raw) -> Raw:
        number = next(self._next)
        rules = _as_kept(body["rules"]) | {"version": 1, "fingerprint": "997dd135"}
        self.firewalls[number] = {
            "id": number, "label": body["label"], "status": "enabled", "rules": rules, "tags": body.get("tags", []),
            "created": _now(), "updated": _now(), "entities": [],
        }  # fmt: skip
        return self.firewalls[number]

    def _put_rules(self, number: int, body: Raw) -> Raw:
        _check_rules(body, "")
        kept: Raw = self.firewalls[number]["rules"]
        kept |= _as_kept(body) | {"version": kept["version"] + 1}
        return kept

    def _delete_firewall(self, number: int) -> Raw:
        del self.firewalls[number]
        self.attached = {machine: wall for machine, wall in self.attached.items() if wall != number}
        return {}

    def _delete_volume(self, number: int) -> Raw:
        if self.volumes[number]["linode_id"] is not None:
            raise Refused(400, "Volume must be detached from its Linode first.")
        del self.volumes[number]
        return {}


@dataclass
class _List:
    """An answer in pages."""

    things: list[Raw]


class _FailedError(Exception):
    """The answer is a fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _respond(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said, more = cloud.answer(self.command, self.path, dict(self.headers), content)
            self.close_connection = status == 0
            if status == 0:
                return
            written = json.dumps(said).encode()
            self.send_response(status)
            for name, value in (
                {"Content-Type": "application/json", "Content-Length": str(len(written))} | more
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(written)

        def handle(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asks may have been killed
                super().handle()

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815 - as the server's own class names them

        def log_message(self, format: str, *values: object) -> None:
            """Tests have their own log."""

    return Handler


def _errors(fault: Fault) -> list[Raw]:
    reason = fault.reason or {429: "Too many requests", 401: "Invalid Token"}.get(fault.status, "Please try again")
    return [{"reason": reason} | ({"field": fault.about} if fault.about else {})]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _id(path: str, known: Mapping[int, Raw]) -> int:
    number = int(next(part for part in path.split("/") if part.isdecimal()))
    if number not in known:
        raise Refused(404, "Not found")
    return number


def _filtered(filters: Raw) -> set[str]:
    """The fields that a filter asks for."""
    fields: set[str] = set()
    for name, value in filters.items():
        if name in ("+and", "+or"):
            fields |= set().union(*map(_filtered, value))
        elif name == "+order_by":
            fields.add(value)
        elif name != "+order":
            fields.add(name)
    return fields


def _matches(thing: Raw, filters: Raw) -> bool:
    """Whether a filter lets a thing through; a list matches by each of its elements."""
    every = []
    for name, wanted in filters.items():
        if name == "+and":
            every.append(all(_matches(thing, one) for one in wanted))
        elif name == "+or":
            every.append(any(_matches(thing, one) for one in wanted))
        elif not name.startswith("+order"):
            value = thing.get(name)
            several = value if isinstance(value, list) else [value]
            every.append(any(_fits(one, wanted) for one in several))
    return all(every)


def _fits(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    tests: dict[str, Callable[[], bool]] = {
        "+contains": lambda: wanted["+contains"] in value,
        "+neq": lambda: value != wanted["+neq"],
    }
    return all(tests[name]() for name in wanted)


def _type(name: str) -> Raw:
    label, kind, memory, disk, cpus, gpus, hourly, monthly, elsewhere = TYPES[name]
    prices = [{"id": region, "hourly": one, "monthly": month} for region, (one, month) in elsewhere.items()]
    backups = {"price": {"hourly": 0.003, "monthly": 2.0}, "region_prices": []}
    return {
        "id": name, "label": label, "class": kind, "memory": memory, "disk": disk, "vcpus": cpus, "gpus": gpus,
        "price": {"hourly": hourly, "monthly": monthly}, "region_prices": prices, "addons": {"backups": backups},
        "network_out": 1000, "transfer": 1000, "successor": None, "accelerated_devices": 0,
    }  # fmt: skip


def _region(name: str) -> Raw:
    country, label, capabilities = REGIONS[name]
    return {
        "id": name, "label": label, "country": country, "capabilities": list(capabilities), "status": "ok",
        "site_type": "distributed" if "edge" in name else "core", "resolvers": {"ipv4": "66.228.42.5", "ipv6": "::1"},
        "placement_group_limits": {"maximum_pgs_per_customer": 100, "maximum_linodes_per_pg": 5},
    }  # fmt: skip


def _availability(region: str) -> list[Raw]:
    if region not in REGIONS:
        raise Refused(404, "Not found")
    return [
        {"region": region, "plan": name, "available": (region, name) not in SOLD_OUT}
        for name, row in TYPES.items()
        if row[1] != "nanode"  # the real one does not list every type either
    ]


def _image(name: str) -> Raw:
    if name not in IMAGES:
        raise Refused(404, "Not found")
    label, capabilities = IMAGES[name]
    return {
        "id": name, "label": label, "capabilities": capabilities, "status": "available", "type": "manual", "size": 1500,
        "vendor": label.split()[0], "is_public": True, "deprecated": False, "created": _now(), "updated": _now(),
        "created_by": "linode", "description": "", "expiry": None, "eol": None, "tags": [], "total_size": 0,
        "regions": [], "is_shared": None, "image_sharing": None,
    }  # fmt: skip


def _check_machine(body: Raw) -> None:
    """What the real API refuses of a machine, beyond the schema."""
    for name, known in (("type", TYPES), ("region", REGIONS), ("image", IMAGES)):
        if body[name] not in known:
            raise Refused(400, f"{name} is not valid", name)
    if (body["region"], body["type"]) in SOLD_OUT:
        raise Refused(400, "Availability of this plan is limited in this region. Choose another.", "region")
    if not re.fullmatch(r"(?!.*(--|__|\.\.))[a-zA-Z0-9][a-zA-Z0-9._-]{1,62}[a-zA-Z0-9]", body["label"]):
        raise Refused(400, "Label must be between 3 and 64 characters", "label")
    if not all(KEY.fullmatch(key) for key in body.get("authorized_keys", [])):
        raise Refused(400, "SSH Key 1 is invalid", "authorized_keys")
    if not body.get("authorized_keys") and not 11 <= len(body.get("root_pass", "")) <= 128:
        raise Refused(400, "Password does not meet complexity requirements.", "root_pass")
    if not all(3 <= len(tag) <= 50 for tag in body.get("tags", [])):
        raise Refused(400, "Tag must be between 3 and 50 characters", "tags")
    try:
        data = base64.b64decode(body.get("metadata", {}).get("user_data", ""), validate=True)
    except binascii.Error:
        raise Refused(400, "user_data must be base64 encoded", "metadata.user_data") from None
    if len(data) > 16384:
        raise Refused(400, "user_data must not exceed 16384 bytes", "metadata.user_data")


def _check_rules(rules: Raw, prefix: str) -> None:
    """What the real API refuses of rules, beyond the schema."""
    for direction in ("inbound", "outbound"):
        if rules.get(f"{direction}_policy") not in ("ACCEPT", "DROP"):
            raise Refused(400, f"{direction}_policy is required", f"{prefix}{direction}_policy")
        for rule in rules[direction]:
            if rule["protocol"] in ("ICMP", "IPENCAP") and rule.get("ports"):
                raise Refused(400, "ports cannot be specified for protocol ICMP", f"{prefix}{direction}")
            if not any(rule.get("addresses", {}).values()):
                raise Refused(400, "Must contain addresses", f"{prefix}{direction}")


def _as_kept(rules: Raw) -> Raw:
    """Rules as the API gives them back: in another order, and without spaces."""
    kept = {name: value for name, value in rules.items() if name in ("inbound_policy", "outbound_policy")}
    for direction in ("inbound", "outbound"):
        kept[direction] = [
            rule | ({"ports": rule["ports"].replace(" ", "")} if "ports" in rule else {}) | {"description": None}
            for rule in reversed(rules[direction])
        ]
    return kept
