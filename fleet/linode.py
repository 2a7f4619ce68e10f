"""Everything that speaks to Linode: what a machine costs, making it, finding it again, and leaving nothing that bills.

Labels are unique within an account, and every thing that is made carries its federation's tag. So each call looks
before it acts, and one whose answer was lost is made good by the next look. The token stands in no message.
"""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from linode_api4 import ApiError, Firewall, Image, Instance, LinodeClient, Region, UnexpectedResponseError, Volume
from requests.adapters import HTTPAdapter

from fedssh.errors import AgentError, SettingsError, UnreachableError
from fleet.firewall import compared, rules_for

MAKE_ONE = "make one at https://cloud.linode.com/profile/tokens, and put it into the variable LINODE_TOKEN"
WAITS = (1, 2, 4, 8, 16, 30)  # seconds before trying again what failed in passing
MOST_WAIT = 300  # seconds in all that one call waits when the API asks for patience
BUSY_WAITS = (2, 4, 8, 15, 15, 30, 30)  # seconds, while a machine that is being made cannot be deleted
POLL = 5  # seconds
TIMEOUTS = (10, 60)  # seconds to connect, and between two bytes of an answer
SCOPES = ("linodes", "firewall", "volumes")
# What the request was about, so that a refusal can name the scope that it takes.
PATHS = {
    "/linode/instances": "linodes",
    "/networking/firewalls": "firewall",
    "/volumes": "volumes",
    "/images": "images",
}
NEEDS = ("Linodes", "Metadata", "Cloud Firewall")  # what we use in a region, in the API's words
CLASS_NEEDS = {"gpu": "GPU Linodes", "premium": "Premium Plans", "accelerated": "NETINT Quadra T1U"}
PRIVATE = ipaddress.ip_network("192.168.128.0/17")  # Linode's private addresses stand beside the public one

Answer = TypeVar("Answer")
Raw = dict[str, Any]

logging.getLogger("linode_api4").addHandler(logging.NullHandler())  # it passes on the API's warnings


@dataclass(frozen=True)
class Kind:
    """A type of machine in a region.

    Args:
        memory: MB.
        disk: MB.
        hourly: US$; None where the API publishes no price.
        monthly: US$, the most that a month costs; None as above.
    """

    name: str
    memory: int
    disk: int
    vcpus: int
    gpus: int
    hourly: float | None
    monthly: float | None


@dataclass(frozen=True)
class Machine:
    """A machine as the API last saw it.

    Args:
        status: "running", "provisioning", "booting", "offline" …
        address: The public IPv4 address; "" while there is none.
        created: UTC.
    """

    id: int
    label: str
    status: str
    address: str
    kind: str
    region: str
    created: datetime


@dataclass(frozen=True)
class Thing:
    """What bills, or stands in the way of a label: a "machine", "firewall" or "volume"."""

    kind: str
    id: int
    label: str


class _RefusedError(SettingsError):
    """The API said no, and why."""

    def __init__(self, message: str, hint: str | None, status: int, reasons: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.reasons = reasons


class _LostError(UnreachableError):
    """Whether it was done is not known; look before trying again."""


class _Patient(HTTPAdapter):
    """Asks once, and does not wait for ever; the client itself sets no limit."""

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        """Send with our limits."""
        return super().send(request, **{**options, "timeout": TIMEOUTS})


class _Waited(threading.local):
    """How long a thread has waited, also for others of its calls."""

    seconds = 0.0


class Account:
    """An account at Linode; several threads may ask at once.

    Args:
        token: A personal access token; it reaches the API and nothing else.
        base_url: Another address of the API, for tests.
        wait: Sleeps for so many seconds.

    Raises:
        SettingsError: There is no token, or no token looks like that.
    """

    def __init__(self, token: str, base_url: str | None = None, wait: Callable[[float], object] = time.sleep) -> None:
        if not re.fullmatch("[!-~]+", token):
            raise SettingsError("LINODE_TOKEN holds no token of Linode's API" if token else "no LINODE_TOKEN", MAKE_ONE)
        self._client = LinodeClient(token, user_agent="fedssh", **({"base_url": base_url} if base_url else {}))
        session = self._client.session
        # In place of its own, which repeats a POST blindly after a 502, and sleeps where a test cannot see it.
        session.mount("https://", _Patient())
        session.mount("http://", _Patient())
        session.auth = lambda request: request  # otherwise ~/.netrc would take the token's place
        session.hooks["response"].append(self._note_scopes)
        self._granted: str | None = None
        self._wait = wait
        self._waited = _Waited()

    def check(self) -> None:
        """See that the token is right and may do what `up` and `down` do.

        Raises:
            SettingsError: It is wrong, or the scope that is named is missing.
            UnreachableError: The API does not answer.
        """
        for scope, list_some in zip(SCOPES, (self._machines, self._firewalls, self._volumes), strict=True):
            self._ask(f"list {scope}", lambda list_some=list_some: list_some(Instance.label == "none"))  # type: ignore[misc]
        if self._granted is not None and (missing := _missing_scopes(self._granted)):
            raise SettingsError(f"the token in LINODE_TOKEN lacks {', '.join(missing)}", MAKE_ONE)

    def kind(self, name: str, region: str) -> Kind:
        """Look up a type of machine and its price in a region.

        Raises:
            SettingsError: One of the two does not exist, or the type is not to be had there.
        """
        if name not in self._kinds:
            raise SettingsError(f"Linode has no type {name!r}", _near(name, self._kinds))
        if region not in self._regions:
            raise SettingsError(f"Linode has no region {region!r}", _near(region, self._regions))
        raw = self._kinds[name]
        needs = [*NEEDS, *filter(None, [CLASS_NEEDS.get(raw["class"])])]
        if lacking := [need for need in needs if need not in self._regions[region]["capabilities"]]:
            having = [one for one, raw in self._regions.items() if set(needs) <= set(raw["capabilities"])]
            hint = f"regions that have it: {', '.join(having)}" if having else None
            raise SettingsError(f"{name} is not to be had in {region}, which has no {' and no '.join(lacking)}", hint)
        if name in self._sold_out(region):
            raise SettingsError(f"{name} is not to be had in {region} at the moment", "choose another region or type")
        return _kind(raw, region)

    def images_has(self, image: str) -> None:
        """See that a machine can be made from an image, and puts in our host key at its first start.

        Raises:
            SettingsError: There is no such image, or it does not read cloud-init's user data.
        """
        try:
            raw = _raw(self._ask(f"look up image {image}", lambda: self._client.load(Image, image)))
        except _RefusedError as refused:
            if refused.status != 404:
                raise
            names = [_raw(one)["id"] for one in self._ask("list images", lambda: list(self._client.images()))]
            raise SettingsError(f"Linode has no image {image!r}", _near(image, names)) from None
        if "cloud-init" not in raw["capabilities"]:
            hint = "take an image that has cloud-init, as linode/debian13"
            raise SettingsError(f"{image} does not read user data, so no host key could be put in", hint)

    def machines(self, tag: str) -> list[Machine]:
        """Every machine with a tag, by label."""
        found = self._ask("list machines", lambda: self._machines(Instance.tags == tag))
        return sorted((_machine(raw) for raw in found if _has(raw, tag)), key=lambda one: one.label)

    def things(self, tag: str) -> list[Thing]:
        """Everything with a tag that bills or keeps a label taken: machines, then firewalls, then volumes."""
        found = []
        for kind, list_some, filtered in (
            ("machine", self._machines, Instance.tags == tag),
            ("firewall", self._firewalls, Firewall.tags == tag),
            ("volume", self._volumes, Volume.tags == tag),
        ):
            some = self._ask(f"list {kind}s", lambda list_some=list_some, filtered=filtered: list_some(filtered))  # type: ignore[misc]
            # Looked at again: a filter that were not heeded would give the whole account.
            found += sorted((Thing(kind, raw["id"], raw["label"]) for raw in some if _has(raw, tag)), key=_label)
        return found

    def firewall(self, label: str, tag: str, ssh_from: Sequence[str], ports: Sequence[int]) -> int:
        """Make a firewall, or bring ours up to date; its id.

        In come SSH from `ssh_from`, `ports` and pings from everywhere, and answers; out goes everything.

        Args:
            ssh_from: Networks, as 198.51.100.4/32.
            ports: Of the door.

        Raises:
            SettingsError: No or a wrong network, or a firewall that is not ours has the label.
        """
        rules = rules_for(ssh_from, ports)
        post = lambda: self._client.networking.firewall_create(label, rules, tags=[tag])  # noqa: E731
        found = self._once(f"make firewall {label}", lambda: self._ours("firewall", label, tag), post)
        wall = Firewall(self._client, found["id"])
        if compared(self._ask(f"read the rules of firewall {label}", wall.get_rules)) != compared(rules):
            self._ask(f"change the rules of firewall {label}", lambda: wall.update_rules(rules))
        return int(found["id"])

    def make(
        self,
        label: str,
        tag: str,
        region: str,
        kind: str,
        image: str,
        authorized_key: str,
        user_data: str,
        firewall: int,
    ) -> Machine:
        """Make a machine, or return ours of that label as far as it has come.

        The password of its root is random, and known to nobody.

        Args:
            authorized_key: The public line that may log in as root.
            user_data: cloud-init's, as text.
            firewall: Its id.

        Raises:
            SettingsError: A machine that is not ours has the label, or the API refuses.
            UnreachableError: Whether it was made is not known; the next call finds out.
        """

        def post() -> Any:
            return self._client.linode.instance_create(
                kind, region, image=image, authorized_keys=[authorized_key], root_pass=secrets.token_urlsafe(48),
                firewall=firewall, metadata=self._client.linode.build_instance_metadata(user_data),
                label=label, tags=[tag], booted=True,
            )  # fmt: skip

        return _machine(self._once(f"make machine {label}", lambda: self._ours("machine", label, tag), post))

    def ready(self, machine_id: int, seconds: float, progress: Callable[[str], None]) -> Machine:
        """Wait until a machine runs and has an address; it is booted where it is off.

        Args:
            progress: Hears each new status.

        Raises:
            UnreachableError: It did not come to that in time.
            AgentError: It is gone.
        """
        status, end = "", self._waited.seconds + seconds
        while True:
            machine = self._view(machine_id)
            if machine.status != status:
                progress(status := machine.status)
            if status == "running" and machine.address:
                return machine
            if status == "billing_suspension":
                raise SettingsError(f"{machine.label} is suspended by Linode", "pay the account's open invoice")
            if self._waited.seconds >= end:
                hint = "the same command goes on waiting; https://cloud.linode.com shows its console"
                raise UnreachableError(f"{machine.label} is still {status} after {seconds:g} s", hint)
            if status == "offline":
                self._boot(machine)
            self._pause(POLL)

    def delete(self, thing: Thing) -> None:
        """Delete a machine with its disks, a firewall or a volume; one that is gone already is fine."""
        of = {"machine": Instance, "firewall": Firewall, "volume": Volume}[thing.kind]
        waits = list(BUSY_WAITS)
        while True:
            try:
                self._ask(f"delete {thing.kind} {thing.label}", of(self._client, thing.id).delete)
            except _RefusedError as refused:
                if refused.status == 404:
                    return
                if not waits or not re.search("busy|attached|detach", refused.reasons, re.IGNORECASE):
                    raise
                self._pause(waits.pop(0))
            else:
                return

    @cached_property
    def _kinds(self) -> dict[str, Raw]:
        return {raw["id"]: raw for raw in map(_raw, self._ask("list types", lambda: list(self._client.linode.types())))}

    @cached_property
    def _regions(self) -> dict[str, Raw]:
        return {raw["id"]: raw for raw in map(_raw, self._ask("list regions", lambda: list(self._client.regions())))}

    def _sold_out(self, region: str) -> set[str]:
        """What the API says is not to be had; a type that it does not list is."""
        entries = self._ask(f"see what {region} has", lambda: Region(self._client, region).availability)
        return {entry.plan for entry in entries if not entry.available}

    def _machines(self, *filters: Any) -> list[Raw]:
        return [_raw(one) for one in self._client.linode.instances(*filters)]

    def _firewalls(self, *filters: Any) -> list[Raw]:
        return [_raw(one) for one in self._client.networking.firewalls(*filters)]

    def _volumes(self, *filters: Any) -> list[Raw]:
        return [_raw(one) for one in self._client.volumes(*filters)]

    def _ours(self, kind: str, label: str, tag: str) -> Raw | None:
        """What has a label, if there is such a thing; it must have the tag."""
        list_some = self._machines if kind == "machine" else self._firewalls
        found = self._ask(f"look for {kind} {label}", lambda: list_some(Instance.label == label))
        for raw in found:
            if raw["label"] == label and not _has(raw, tag):
                hint = "rename or delete it, or give the federation another name"
                raise SettingsError(f"{kind} {label} is there already and does not have the tag {tag}", hint)
        return next((raw for raw in found if raw["label"] == label), None)

    def _once(self, what: str, look: Callable[[], Raw | None], post: Callable[[], Any]) -> Raw:
        """What is there, or is made now; a lost answer is looked for before anything is made again."""
        for wait in WAITS:
            if (found := look()) is not None:
                return found
            try:
                return _raw(self._ask(what, post, again=False))
            except _LostError as lost:
                failure: AgentError = lost
            except _RefusedError as refused:
                if not re.search("^label: .*unique", refused.reasons, re.IGNORECASE):
                    raise
                failure = refused
            self._pause(wait)
        if (found := look()) is not None:
            return found
        raise UnreachableError(str(failure), "the same command looks for it and goes on")

    def _view(self, machine_id: int) -> Machine:
        try:
            found = self._ask(f"look at machine {machine_id}", lambda: self._client.load(Instance, machine_id))
        except _RefusedError as refused:
            if refused.status != 404:
                raise
            raise AgentError(f"machine {machine_id} is gone", "somebody deleted it; `up` makes it anew") from None
        return _machine(_raw(found))

    def _boot(self, machine: Machine) -> None:
        """Boot a machine; one that has begun to by itself is fine."""
        try:
            self._ask(f"boot machine {machine.label}", Instance(self._client, machine.id).boot)
        except _RefusedError as refused:
            if not re.search("busy|already", refused.reasons, re.IGNORECASE):
                raise

    def _ask(self, what: str, call: Callable[[], Answer], again: bool = True) -> Answer:
        """The answer to a call; what fails in passing is tried again, after waiting.

        Args:
            what: The call in words, "list machines".
            again: It may be done twice. If not, a lost answer is a _LostError at once.
        """
        waits, end = list(WAITS), self._waited.seconds + MOST_WAIT
        while True:
            try:
                return call()
            except ApiError as error:
                if error.status not in (408, 429) and error.status < 500:
                    raise self._refused(what, error) from None
                failure, refusal = f"{error.status} {_reasons(error)}".strip(), error
            except UnexpectedResponseError as error:
                raise AgentError(
                    f"could not {what}: Linode's API gave an answer that its client does not know"
                ) from error
            except RuntimeError as error:
                if "has changed since creation" not in str(error):
                    raise
                failure, refusal = "the list changed while it was read", None
            except OSError as error:  # all that requests raises, an answer that is no JSON too
                failure, refusal = type(error).__name__, None
            throttled = refusal is not None and refusal.status == 429
            message = f"could not {what}: Linode's API: {self._quiet(failure)}"
            if not (again or throttled):
                raise _LostError(message)
            wait = _retry_after(refusal) if throttled else None
            if not waits or self._waited.seconds + (wait or waits[0]) > end:
                raise UnreachableError(message, "see https://status.linode.com, and try again later")
            self._pause(max(wait or 0, waits.pop(0)))

    def _refused(self, what: str, error: ApiError) -> AgentError:
        """The API's no, in one line."""
        reasons = self._quiet(_reasons(error))
        message, hint = f"could not {what}: Linode's API: {reasons}", None
        if error.status == 401 and "not authorized" not in reasons:
            message, hint = f"Linode's API does not know the token in LINODE_TOKEN: {reasons}", MAKE_ONE
        elif error.status in (401, 403):
            scope, hint = _scope(error), MAKE_ONE
            message = f"could not {what}: the token in LINODE_TOKEN lacks {scope}, or its user that grant: {reasons}"
        elif "limit" in reasons.lower():
            hint = (
                "the account may have no more of them; delete some, or ask at https://cloud.linode.com/support/tickets"
            )
        return _RefusedError(message, hint, error.status, _reasons(error))

    def _quiet(self, text: str) -> str:
        return text.replace(self._client.token, "…")

    def _pause(self, seconds: float) -> None:
        self._waited.seconds += seconds
        self._wait(seconds)

    def _note_scopes(self, response: Any, **options: Any) -> None:
        self._granted = response.headers.get("X-OAuth-Scopes", self._granted)


def _raw(thing: Any) -> Raw:
    """As the API said it: reading the client's own attributes may ask again, and takes times for local ones."""
    raw: Raw = thing._raw_json
    return raw


def _label(thing: Thing) -> str:
    return thing.label


def _has(raw: Raw, tag: str) -> bool:
    return tag.casefold() in (one.casefold() for one in raw["tags"])


def _machine(raw: Raw) -> Machine:
    public = [one for one in raw["ipv4"] or [] if ipaddress.ip_address(one) not in PRIVATE]
    created = datetime.fromisoformat(raw["created"]).replace(tzinfo=UTC)
    address = public[0] if public else ""
    return Machine(raw["id"], raw["label"], raw["status"], address, raw["type"], raw["region"], created)


def _kind(raw: Raw, region: str) -> Kind:
    price = next((one for one in raw.get("region_prices") or [] if one["id"] == region), raw["price"])
    hourly, monthly = (price[unit] or None for unit in ("hourly", "monthly"))
    return Kind(raw["id"], raw["memory"], raw["disk"], raw["vcpus"], raw["gpus"], hourly, monthly)


def _near(word: str, known: Iterable[str]) -> str:
    """Which of the known words may be meant."""
    known = list(known)
    return f"did you mean {' or '.join(difflib.get_close_matches(word, known, 3, 0.4) or known[:5])}?"


def _missing_scopes(granted: str) -> list[str]:
    """What of our scopes a token's do not cover, as "firewall:read_write"."""
    words = set(re.split(r"[\s,]+", granted))
    return [f"{scope}:read_write" for scope in SCOPES if not words & {"*", f"{scope}:read_write", f"{scope}:*"}]


def _scope(error: ApiError) -> str:
    """The scope that a request took."""
    request = error.response.request
    about = next((scope for path, scope in PATHS.items() if path in request.path_url), "a scope")
    return f"{about}:{'read_only' if request.method == 'GET' else 'read_write'}"


def _reasons(error: ApiError) -> str:
    """The API's own, "field: reason; …"."""
    errors = error.json.get("errors", []) if isinstance(error.json, dict) else []
    return "; ".join(": ".join(filter(None, (one.get("field"), one.get("reason")))) for one in errors)


def _retry_after(error: ApiError | None) -> int | None:
    """The seconds that the API asks for."""
    value = error.response.headers.get("Retry-After", "") if error is not None else ""
    return int(value) if value.isdecimal() else None
