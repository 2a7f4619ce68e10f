"""What Bob can be told, per verb. Read for every `--help`, so nothing heavy is loaded here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedssh.address import VIA, Via
from fedssh.settings import setting

_STATE = "This site's folder: key, spool, receipts."
_EXCHANGE = "The folder shared with Alice."
_VIA = "The way out: socks5://, http:// or ssh://, @FILE or direct."
_VIA_KEY = "What logs in at an ssh:// way; else the site key."
_VIA_KNOWN_HOSTS = "Pins the host key of an ssh:// way."


@dataclass(frozen=True)
class StateSettings:
    """For `bob keygen` and `bob receipts`."""

    state: Path = setting(Path("site"), _STATE, metavar="DIR")


@dataclass(frozen=True)
class JoinSettings:
    """For `bob join`."""

    state: Path = setting(Path("site"), _STATE, metavar="DIR")
    timeout: float = setting(10.0, "Seconds in which the door must answer.", metavar="SECONDS", at_least=1)
    via: Via | None = setting(None, _VIA, metavar="URL", form=VIA)
    via_key: Path | None = setting(None, _VIA_KEY, metavar="FILE")
    via_known_hosts: Path | None = setting(None, _VIA_KNOWN_HOSTS, metavar="FILE")
    via_host_key: str | None = setting(None, "That host key itself, as in its .pub file.", metavar="'TYPE KEY'")
    address: str | None = setting(None, "Where the door is seen from here.", metavar="[USER@]HOST:PORT")


@dataclass(frozen=True)
class StatusSettings:
    """For `bob status`."""

    state: Path = setting(Path("site"), _STATE, metavar="DIR")
    exchange: Path = setting(Path("exchange"), _EXCHANGE, metavar="DIR")


@dataclass(frozen=True)
class WatchSettings:
    """For `bob watch`."""

    state: Path = setting(Path("site"), _STATE, metavar="DIR")
    exchange: Path = setting(Path("exchange"), _EXCHANGE, metavar="DIR")
    drain: bool = setting(False, "Ship what is there, wait for the verdicts, then end.")
    timeout: float = setting(10.0, "Seconds in which the door must answer.", metavar="SECONDS", at_least=1)
    retry: float = setting(1.0, "First pause after a failure; doubles.", metavar="SECONDS", at_least=0.05)
    retry_max: float = setting(300.0, "The longest pause.", metavar="SECONDS", at_least=0.05)
    wait: int = setting(300, "How long the door may hold a question.", metavar="SECONDS", at_least=0)
    rescan: float = setting(5.0, "Look into the exchange at least this often.", metavar="SECONDS", at_least=0.1)
    max_megabytes: int = setting(1024, "The largest model to send or accept.", metavar="MB", at_least=1)
    decisions: str = setting(
        "refuse", "What to do when the coordinator decides otherwise than was agreed.", choices=("refuse", "tell")
    )
    via: Via | None = setting(None, _VIA, metavar="URL", form=VIA)
    via_key: Path | None = setting(None, _VIA_KEY, metavar="FILE")
    via_known_hosts: Path | None = setting(None, _VIA_KNOWN_HOSTS, metavar="FILE")
