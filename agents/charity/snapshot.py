"""The state of the federation as of one record, signed: a start folds and verifies only what came after it.

    vault/snapshot.json   {"snapshot":"<canonical JSON>","signature":"…"}
    snapshot              {"format":1,"sequence":n,"head":"<hash of record n>","state":{…}}
    signature             SSHSIG by the coordinator over those bytes, namespace snapshot@fedssh

It is written when the newest one is 1,000 records old, after those records were verified or written by this very
coordinator and published. It may be removed at any time: the next start then folds and verifies the whole history.
`charity verify` never looks at it.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedssh.errors import LedgerError, SignatureError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.keys import PrivateKey, PublicKey
from fedssh.ledger import Ledger
from fedssh.rules.federation import Federation
from fedssh.rules.stored import from_value, to_value
from fedssh.signature import sign, verify

EVERY = 1000
FORMAT = 1
NAMESPACE = "snapshot@fedssh"


def write(path: Path, state: Federation, key: PrivateKey) -> None:
    """Sign a state and store it, whole or not at all."""
    text = canonical({"format": FORMAT, "sequence": state.sequence, "head": state.head, "state": to_value(state)})
    write_whole(path, canonical({"snapshot": text.decode(), "signature": sign(text, key, NAMESPACE)}) + b"\n")


def read(path: Path, coordinator: PublicKey, ledger: Ledger) -> Federation | None:
    """The state in a snapshot of this ledger's history; None where there is none, or one of another format.

    Raises:
        LedgerError: It is not what the coordinator signed, or the ledger has not the record that it is of.
    """
    try:
        outer = json.loads(path.read_bytes())
        text, signature = outer["snapshot"].encode(), outer["signature"]
        verify(text, signature, NAMESPACE, coordinator)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, SignatureError) as error:
        raise LedgerError(
            f"{path} is not a state that this coordinator signed: {error}",
            "remove it: the next start then goes through the whole history",
        ) from None
    value = json.loads(text)
    if value["format"] != FORMAT:
        return None
    head = ledger.head()
    if head is None or head.sequence < value["sequence"] or ledger.record(value["sequence"]).hash != value["head"]:
        raise LedgerError(
            f"the ledger has not the record {value['sequence']} of {path}",
            "an older ledger.db was put back: restore a newer one, or the sites will refuse what follows",
        )
    try:
        return from_value(value["state"], value["sequence"], value["head"])
    except LedgerError as error:
        hint = "another version wrote it; remove it: the next start then goes through the whole history"
        raise LedgerError(f"{path}: {error}", hint) from None
