"""A model as a folder that is ready for a model hub, with all that it takes to check where it comes from.

    README.md          the model card, after the front matter in YAML that model hubs read: `library_name`, `tags`,
                       `pipeline_tag`, and as `model-index` what it scored; who publishes it adds the license
    model.keras        the network on raw pixels, or on the cells of a table: see `export`
    model.safetensors  the weights as they were judged: the file whose SHA-256 the record names
    class_names.json   what goes in and comes out, what the classes are called, and the record: as in model.keras
    config.json        {"architecture", "plan", "policy"}: the network, and how it was trained
    ledger.jsonl       the signed history
    allowed_signers    the coordinator's key, whose signatures those are
    verify             scripts/verify: checks the history with stock tools

The folder is there whole or not at all, and none is written over. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedssh.errors import AgentError, SettingsError
from fedssh.files import sha256_file
from fedssh.history.published import export as escaped_lines
from fedssh.models import tasks
from fedssh.use.card import Origin, card
from fedssh.use.export import ENTRY, export_keras

SIGNER = "charity"  # her name in allowed_signers
_PIPELINES = {tasks.CLASSES: "classification", tasks.LABELS: "classification", tasks.REGRESSION: "regression"}


def export(origin: Origin, model: Path, lines: Iterable[bytes], folder: Path, white: int = 255) -> dict[str, Any]:
    """Write the folder.

    Args:
        model: The stored model file.
        lines: The ledger lines of the whole history.
        folder: Where; there is nothing yet.
        white: What white is in the pixels that the exported network takes.

    Returns:
        What its class_names.json says.

    Raises:
        SettingsError: There is something of that name, or not the folder that it should be in.
        AgentError: The model file is not the one that the record names.
    """
    if os.path.lexists(folder):
        raise SettingsError(f"{folder} exists already", "a folder is not written over; copy from another one")
    if not folder.absolute().parent.is_dir():
        raise SettingsError(f"--to hub:{folder}: its folder does not exist")
    genesis, part = origin.genesis, folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    try:
        part.mkdir()
        shutil.copyfile(model, part / "model.safetensors")
        if (found := sha256_file(part / "model.safetensors")) != origin.model:
            raise AgentError(f"{model} hashes to {found}, which is not the model of {origin.named}")
        table = genesis.get("table")
        said = export_keras(
            model,
            genesis["spec"],
            genesis["plan"],
            genesis.get("class_names"),
            part / "model.keras",
            white,
            origin,
            table,
        )
        config = {"architecture": genesis["spec"], "plan": genesis["plan"], "policy": genesis["policy"]}
        _write(part / ENTRY, json.dumps(said, ensure_ascii=False, indent=2) + "\n")
        _write(part / "config.json", json.dumps(config, indent=2) + "\n")
        _write(part / "allowed_signers", f"{SIGNER} {' '.join(genesis['coordinator'].split()[:2])}\n")
        with (part / "ledger.jsonl").open("wb") as file:
            file.writelines(escaped_lines(lines))
        shutil.copyfile(verify_script(), part / "verify")
        (part / "verify").chmod(0o755)
        _write(part / "README.md", "\n".join([*front_matter(origin), "", ""]) + card(origin, said) + _here(origin))
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return said


def verify_script() -> Path:
    """scripts/verify, which an installation has beside this module, and a checkout by a link."""
    return Path(__file__).with_name("verify.sh")


def front_matter(origin: Origin) -> Iterator[str]:
    """The lines that model hubs read."""
    genesis, task = origin.genesis, tasks.task_of(origin.genesis["spec"])
    what = "image" if genesis.get("table") is None else "tabular"
    pipeline = f"{what}-{_PIPELINES[task]}"
    name = str(genesis["federation"])
    known = pipeline != "image-regression"  # which is no task of model hubs
    yield "---"
    yield "# license: is for whoever publishes this to say"
    yield "library_name: keras"
    yield from [f"pipeline_tag: {pipeline}"] if known else []
    yield "tags:"
    yield from (f"- {_quoted(tag)}" for tag in ("keras", "federated-learning", "fedssh", *_names(origin)))
    results = [("holdout", "validation", origin.metrics)]
    results += [("test split", "test", origin.on_test["metrics"])] if origin.on_test else []
    yield "model-index:"
    yield f"- name: {_quoted(f'{name}, record {origin.record}')}"
    yield "  results:"
    for where, split, metrics in results:
        yield "  - task:"
        yield f"      type: {pipeline if known else 'other'}"
        yield "    dataset:"
        yield f"      name: {_quoted(f'the {where} of the coordinator of {name}')}"
        yield f"      type: {_quoted(name)}"
        yield f"      split: {split}"
        yield "    metrics:"
        for metric, value in metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                yield f"    - type: {_quoted(metric)}"
                yield f"      value: {_number(value)}"
                yield f"      name: {_quoted(f'{metric} on the {where}')}"
    yield "---"


def _names(origin: Origin) -> list[str]:
    return [str(one["tag"]) for one in origin.names]


def _number(value: float) -> str:
    """A number in YAML, where `1e-05` is a text and `1.0e-05` is none."""
    digits, e, exponent = repr(value).partition("e")
    return f"{digits}.0e{exponent}" if e and "." not in digits else f"{digits}{e}{exponent}"


def _quoted(text: str) -> str:
    """A text in YAML, whatever is in it."""
    letters = (letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}" for letter in text)
    return f'"{"".join(letters)}"'


def _here(origin: Origin) -> str:
    return f"""
All that it takes is in this folder. `verify` needs a shell, jq and ssh-keygen; whose key stands in `allowed_signers` is
for the coordinator's operator to say (`ssh-keygen -lf`), by another way than this folder's:

```sh
./verify --head {origin.hash} ledger.jsonl allowed_signers
sha256sum model.safetensors  # {origin.model}
```
"""


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def told(said: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What to say of it to whoever asked for it."""
    yield f"wrote {folder}: takes {said['input']}; gives {said['output']}"
    yield f"check it: cd {folder} && ./verify ledger.jsonl allowed_signers"
    yield "before it is published: say a license in README.md, write there what it is for, and look at ledger.jsonl,"
    yield "which names every site that took part, what each claimed, and why it was refused"
