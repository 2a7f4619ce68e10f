"""Which host keys are believed. Everything is pinned before the first packet; nothing is trusted on first use.

A given machine: the inventory's `host_key`, else what the user's own known_hosts has. A machine of a cloud: its first
key is made at home, travels in its creation request, and is replaced at once by one that is made on the machine.

    pins.json    {"<label>": ["ssh-ed25519 …", …]}      public keys only
    known_hosts  the same for `ssh`, by HostKeyAlias, so that an address that changes does not matter
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedssh.errors import SettingsError
from fedssh.files import locked, write_whole


class Pins:
    """The pinned keys of a federation's machines, in its folder at home."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "pins.json"
        self.known_hosts = folder / "known_hosts"

    def of(self, label: str) -> list[str]:
        """The keys that are believed of a machine; more than one while its own replaces the first."""
        return self._read().get(label, [])

    def pin(self, label: str, keys: list[str]) -> None:
        """Believe these keys and no others; an empty list forgets the machine."""
        with locked(self.known_hosts.with_name("pins.lock")):
            pins = self._read()
            if pins.get(label, []) == keys:
                return
            pins[label] = keys
            if not keys:
                del pins[label]
            lines = [f"{name} {key}\n" for name, each in sorted(pins.items()) for key in each]
            write_whole(self.known_hosts, "".join(lines).encode())
            # Last, because what is pinned here is taken for done.
            write_whole(self._file, (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode())

    def _read(self) -> dict[str, list[str]]:
        try:
            found = json.loads(self._file.read_bytes())
            if not isinstance(found, dict) or not all(map(_are_keys, found.values())):
                raise ValueError("it is no table of lists of keys")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise SettingsError(f"{self._file} is damaged: {error}", "restore it; it pins the machines' keys") from None
        return dict(found)


def _are_keys(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def born_with() -> tuple[str, str]:
    """A new host key: the private half for the machine, which nobody keeps, and the public one to pin."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def user_data(private: str, public: str) -> str:
    """What cloud-init is told: the host key, no passwords. JSON is YAML.

    https://docs.cloud-init.io/en/latest/reference/modules.html#ssh
    """
    config = {
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": private, "ed25519_public": public},
        "ssh_pwauth": False,
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"
