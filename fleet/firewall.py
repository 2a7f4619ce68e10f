"""The rules of a cloud firewall in the words of Linode's API: who gets to a machine at all.

What is not named here does not get in; everything gets out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from fedssh.errors import SettingsError

EVERYWHERE = ("0.0.0.0/0", "::/0")


def rules_for(ssh_from: Sequence[str], ports: Sequence[int]) -> dict[str, Any]:
    """A firewall's rules in the API's form."""
    if not ssh_from:
        raise SettingsError("no network may log in with SSH", "name yours in admin_from, as 198.51.100.4/32")
    try:
        networks = [str(ipaddress.ip_network(one)) for one in ssh_from]
    except ValueError as error:
        raise SettingsError(f"admin_from: {error}", "write a network as 198.51.100.4/32") from None
    inbound = [_rule("ssh", "TCP", networks, [22])]
    if ports:
        inbound.append(_rule("door", "TCP", EVERYWHERE, ports))
    inbound.append(_rule("ping", "ICMP", EVERYWHERE, []))
    return {"inbound": inbound, "inbound_policy": "DROP", "outbound": [], "outbound_policy": "ACCEPT"}


def _rule(label: str, protocol: str, networks: Sequence[str], ports: Sequence[int]) -> dict[str, Any]:
    addresses = {"ipv4": [one for one in networks if ":" not in one], "ipv6": [one for one in networks if ":" in one]}
    rule = {"label": label, "action": "ACCEPT", "protocol": protocol}
    at = {"ports": ", ".join(map(str, sorted(ports)))} if ports else {}
    return {**rule, **at, "addresses": {version: some for version, some in addresses.items() if some}}


def compared(rules: Mapping[str, Any]) -> tuple[Any, ...]:
    """What rules mean, without the order and the spaces that the API may change."""
    several = [
        sorted(
            (
                rule["action"], rule["protocol"], sorted((rule.get("ports") or "").replace(" ", "").split(",")),
                *(sorted(rule["addresses"].get(version) or []) for version in ("ipv4", "ipv6")),
            )
            for rule in rules[direction]
        )
        for direction in ("inbound", "outbound")
    ]  # fmt: skip
    return (*several, rules["inbound_policy"], rules["outbound_policy"])
