"""What this site has agreed to: the beginning of one federation, pinned in Alice's own folder.

    state/terms.json   {"genesis": HASH, "coordinator": KEY or null, "site": NAME or null, "record": LINE or null}

The hash of record 1 covers the coordinator's public key, the architecture, the training plan, the class names and the
policy. A person pins it, by an invitation or by accepting what is offered; nothing that arrives later changes it.
`record` is the ledger line itself, kept as soon as Bob has brought it, so that later offers can be compared with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.chain import MAX_LINE_BYTES, Seen, read_line
from fedssh.errors import BundleError, LedgerError, SettingsError, UntrustedError
from fedssh.files import write_whole
from fedssh.forms import canonical, check_site
from fedssh.keys import PublicKey, parse_public
from fedssh.models import is_table
from fedssh.models.data.classes import NamesError, check_names
from fedssh.models.data.columns import Columns, read_columns_record
from fedssh.rules.events import Record
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.weights import architecture_hash

FILE = "terms.json"
MAX_INVITATION_BYTES = 64 * 1024
LEAST_LETTERS = 16  # of a hash that a person types: 64 bits, which nobody makes two records agree in
_HASH = re.compile(r"[0-9a-f]{64}")
SHOWN = 200  # letters of a line of what is agreed


@dataclass(frozen=True)
class Terms:
    """What a genesis record says, its signature checked.

    Attributes:
        record: Record 1 itself.
        line: Its signed ledger line, without newline.
        coordinator: The key that signs everything in this federation.
    """

    record: Record
    line: str
    coordinator: PublicKey

    @property
    def hash(self) -> str:
        """What a site pins."""
        return self.record.hash

    @property
    def name(self) -> str:
        """The federation's."""
        return str(self.record.fields["federation"])

    @property
    def spec(self) -> dict[str, Any]:
        """The architecture: a registered name and its parameters."""
        spec: dict[str, Any] = self.record.fields["spec"]
        return spec

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the classes are called, in label order; None where the federation does not name them."""
        names = self.record.fields.get("class_names")
        return None if names is None else tuple(names)

    @property
    def table(self) -> Columns | None:
        """What was agreed of a table of features; None of images."""
        found = self.record.fields.get("table")
        return None if found is None else read_columns_record(found)

    @property
    def network(self) -> Mapping[str, Any] | None:
        """What was agreed of a network that does not come with fedssh, see `models.likeness`; None of others."""
        found = self.record.fields.get("network")
        return found if isinstance(found, Mapping) else None

    @property
    def plan(self) -> dict[str, Any]:
        """How every site trains."""
        plan: dict[str, Any] = self.record.fields["plan"]
        return plan


@dataclass(frozen=True)
class Pin:
    """What is remembered of an agreement.

    Attributes:
        genesis: Hash of record 1.
        coordinator: The public key that the invitation named; None when nobody was invited by a file.
        site: This site's name by the invitation; None as above.
        record: The ledger line of record 1, once it was here.
    """

    genesis: str
    coordinator: str | None = None
    site: str | None = None
    record: str | None = None


def read_terms(line: bytes) -> Terms:
    """Read the ledger line of a genesis record and check that it is signed by the key that it names.

    That makes it consistent in itself; only its hash, compared with a pinned one, makes it ours.

    Raises:
        LedgerError: It is no genesis record, or lacks what a site must know.
        SignatureError: Not signed by the coordinator that it names.
        BundleError: The training plan cannot be read.
    """
    if len(line) > MAX_LINE_BYTES:
        raise LedgerError(f"the genesis record has {len(line):,} bytes, expected at most {MAX_LINE_BYTES:,}")
    line = line.removesuffix(b"\n")
    try:
        named = json.loads(json.loads(line)["record"])["coordinator"]
        coordinator = parse_public(named, "the genesis record's coordinator")
        text = line.decode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingsError) as error:
        raise LedgerError(f"this is not the ledger line of a genesis record: {error}") from None
    record = read_line(line, coordinator)
    fields = record.fields
    if record.event != "genesis" or record.sequence != 1 or fields.get("previous") != Seen().head:
        raise LedgerError(f"record {record.sequence} is not a genesis record")
    if not isinstance(fields.get("federation"), str) or not isinstance(fields.get("spec"), dict):
        raise LedgerError("the genesis record lacks the federation's name or its architecture")
    if not isinstance(fields.get("decision", {}), dict):
        raise LedgerError("the genesis record's decision is no object")
    if not all(isinstance(fields.get(name, ""), str) for name in ("site_scores", "evidence")):
        raise LedgerError("the genesis record's site scores, or its evidence, are no text")
    if fields.get("architecture") != architecture_hash(fields["spec"]):
        raise LedgerError("the genesis record's architecture is not the hash of its spec")
    if not isinstance(fields.get("plan"), dict):
        raise LedgerError("the genesis record lacks the training plan")
    read_plan(fields["plan"])
    _check_names(fields)
    _check_table(fields)
    return Terms(record, text, coordinator)


def _check_names(fields: Mapping[str, Any]) -> None:
    names, classes = fields.get("class_names"), _outputs(fields["spec"])
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != classes:
        raise LedgerError("the genesis record's class names are not a list with a name for each class")
    try:
        check_names(names)
    except NamesError as error:
        raise LedgerError(f"the genesis record's class names cannot be used: {error}") from None


def _check_table(fields: Mapping[str, Any]) -> None:
    table, spec = fields.get("table"), fields["spec"]
    try:
        width = None if table is None else read_columns_record(table).width
    except ValueError as error:
        raise LedgerError(f"the genesis record's table cannot be used: {error}") from None
    if (table is None) == is_table(spec) or (width is not None and spec.get("input") != [1, width, 1]):
        raise LedgerError("the genesis record's table is not what its network takes")


def _outputs(spec: Mapping[str, Any]) -> int | None:
    """How many classes there are, labels or targets; None where the spec does not say, which building it will."""
    targets = spec.get("targets")
    return len(targets) if isinstance(targets, list) else spec.get("labels", spec.get("classes"))


def read_invitation(path: Path) -> Pin:
    """What an invitation says of the federation: the same file that this site's Bob joins with.

    Raises:
        SettingsError: It is not an invitation of a site, or an older one that names no genesis.
    """
    hint = "`charity nodes add` prints an invitation; take all of it"
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(MAX_INVITATION_BYTES))
        if not isinstance(fields, dict) or fields.get("fedssh") != 1:
            raise ValueError("it does not say that it is one, of format 1")
        if fields.get("role") != "site":
            raise ValueError(f"it is for the role {str(fields.get('role'))[:20]!r}")
        site, coordinator = check_site(fields.get("site")), parse_public(fields["coordinator"], "its coordinator").line
        genesis = fields.get("genesis")
        if genesis is not None and not (isinstance(genesis, str) and _HASH.fullmatch(genesis)):
            raise ValueError("its genesis is not a SHA-256 in hexadecimal")
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist", hint) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, BundleError, SettingsError) as error:
        raise SettingsError(f"{path} is not an invitation: {error}", hint) from None
    if genesis is None:
        raise SettingsError(
            f"{path} is an older invitation that does not name the federation's genesis",
            "ask for a new one (`charity nodes invite`), or compare `alice terms` with the operator and accept",
        )
    return Pin(genesis, coordinator, site)


def load_pin(state: Path) -> Pin | None:
    """What this site has agreed to; None before it has.

    Raises:
        SettingsError: The file is not one that Alice wrote. It is what she trusts, so it is not guessed anew.
    """
    path = state / FILE
    try:
        fields = json.loads(path.read_bytes())
        pin = Pin(**{field.name: fields[field.name] for field in dataclasses.fields(Pin)})
        if not _HASH.fullmatch(pin.genesis):
            raise ValueError("the genesis is not a hash")
        return pin
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} is damaged: {error}", "remove it and `alice join` again") from None


def save_pin(state: Path, pin: Pin) -> None:
    """Remember an agreement, durably."""
    write_whole(state / FILE, canonical(dataclasses.asdict(pin)) + b"\n")


def check_pin(pin: Pin, offered: Terms) -> None:
    """Check that a genesis record is the one agreed to.

    Raises:
        UntrustedError: It is that of another federation.
    """
    if offered.hash != pin.genesis:
        raise UntrustedError(
            f"bob brought the genesis {offered.hash[:16]}… of the federation {offered.name[:40]!r}, "
            f"this site has agreed to {pin.genesis[:16]}…",
            "`alice terms` shows what differs; `alice accept HASH` agrees to what is offered",
        )
    if pin.coordinator is not None and pin.coordinator != offered.coordinator.line:
        raise UntrustedError(
            f"the genesis names the coordinator key {offered.coordinator.fingerprint}, the invitation another one"
        )


def join(state: Path, invited: Pin, offered: Terms | None) -> Pin:
    """Pin what an invitation names. Joining twice by the same invitation changes nothing.

    Args:
        offered: The genesis record that Bob brought, if he has.

    Raises:
        UntrustedError: Bob brought another federation's record than the invitation names.
        SettingsError: This site has agreed to another federation.
    """
    known = load_pin(state)
    if known is not None and known.genesis != invited.genesis:
        raise SettingsError(
            f"the invitation names the genesis {invited.genesis[:16]}…, this site has agreed to {known.genesis[:16]}…",
            "once bob has joined by it, `alice terms` shows what differs, and `alice accept HASH` agrees",
        )
    if offered is not None:
        check_pin(invited, offered)
    record = offered.line if offered else known.record if known else None
    pin = dataclasses.replace(invited, record=record)
    if pin != known:
        save_pin(state, pin)
    return pin


def accept(state: Path, text: str, offered: Terms | None) -> Terms:
    """Pin what is offered, when its hash begins as given.

    Raises:
        SettingsError: Too few letters, nothing is offered, or something else.
    """
    start = text.strip().lower()
    if len(start) < LEAST_LETTERS or not re.fullmatch("[0-9a-f]{1,64}", start):
        raise SettingsError(
            f"{text[:80]!r} is not the beginning of a genesis hash", f"at least {LEAST_LETTERS} letters of 0-9 and a-f"
        )
    if offered is None:
        raise SettingsError("nothing is offered: bob has brought no genesis record yet", "is bob running?")
    if not offered.hash.startswith(start):
        raise SettingsError(
            f"what is offered has the genesis {offered.hash}, not {start}",
            "compare `alice terms` with what the coordinator's operator says",
        )
    known = load_pin(state)
    same = known is not None and known.genesis == offered.hash
    save_pin(state, Pin(offered.hash, offered.coordinator.line, known.site if known and same else None, offered.line))
    return offered


def agreed(pin: Pin, offered: Terms | None) -> Terms | None:
    """The terms that are pinned, from what is kept or what Bob brought; None when record 1 has not come yet.

    Raises:
        UntrustedError: What Bob brought is another federation's.
    """
    if offered is not None:
        check_pin(pin, offered)
    return kept(pin, offered)


def kept(pin: Pin, offered: Terms | None) -> Terms | None:
    """The terms that are pinned, whatever is offered beside them; None when record 1 has not come yet."""
    if offered is not None and offered.hash == pin.genesis:
        return offered
    if pin.record is None:
        return None
    terms = read_terms(pin.record.encode())
    check_pin(pin, terms)
    return terms


def rows(terms: Terms, weights: int | None = None) -> dict[str, str]:
    """What is agreed, for people: a name and a line each.

    Args:
        weights: How many the architecture has; None when it cannot be built here.
    """
    fields = terms.record.fields
    shown: dict[str, Any] = {
        "federation": terms.name,
        "genesis": terms.hash,
        "coordinator": terms.coordinator.fingerprint,
        "architecture": _pairs(terms.spec),
        **_apart("architecture", terms.spec),
        "weights": f"{weights:,}" if weights is not None else "this site cannot build it",
        **{f"plan: {name}": value for name, value in sorted(terms.plan.items())},
        "class names": fields.get("class_names"),
        **({"target": terms.table.target} if terms.table else {}),
        **{f"column {n}": name for n, name in enumerate(terms.table.names if terms.table else (), 1)},
        "policy": fields.get("policy"),
        **_leaves(str(fields.get("policy"))),
        "gate": f"{fields.get('gate', 'off')}, margin {fields.get('margin', 0.0)}",
        "schedule": fields.get("schedule"),
        "sessions": fields.get("sessions") or "until the coordinator ends it",
        **({"site scores": fields["site_scores"]} if "site_scores" in fields else {}),
        **({"evidence": fields["evidence"]} if "evidence" in fields else {}),
        **{f"decision: {name}": value for name, value in sorted((fields.get("decision") or {}).items())},
        "rates": fields.get("rates"),
    }
    return {name: _text(value) for name, value in shown.items()}


def _leaves(policy: str) -> dict[str, str]:
    """What the coordinator gets of each image, where the network is trained in two rooms."""
    try:
        agreed = read_policy(policy)
    except ValueError:  # of a newer version: who trains says so
        return {}
    if not agreed.split:
        return {}
    labels = "" if agreed.values["labels"] == "site" else ", and its label"
    return {"leaves this site": f"of each image, in every epoch, what {agreed.values['cut']} gives{labels}"}


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name and both values of what differs; what one of them lacks is a dash."""
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield name, one.get(name, "–"), other.get(name, "–")


def _apart(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The members one by one, where they would not all be seen in a line."""
    if len(_pairs(value)) <= SHOWN:
        return {}
    return {f"{name}: {key}": item for key, item in sorted(value.items()) if key != "name"}


def _pairs(value: Mapping[str, Any]) -> str:
    named = [str(value["name"])] if "name" in value else []
    return " ".join([*named, *(f"{key}={json.dumps(item)}" for key, item in sorted(value.items()) if key != "name")])


def _text(value: Any) -> str:
    """One short line, and nothing that a terminal would act on."""
    if value is None:
        text = "none"
    elif isinstance(value, Mapping):
        text = _pairs(value)
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    text = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    if len(text) <= SHOWN:
        return text
    whole = f"… (SHA-256 of all {len(text):,} letters: {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return text[: SHOWN - len(whole)] + whole
