"""The short form of `imprint`: few images, the same checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedssh.keys import PrivateKey
from tests.attacks.imprint import checked, imprint, site_data, unchecked

WORDS = {
    "bob writes the release himself": "SignatureError: signed by key",
    "the coordinator changes architecture and plan midway": "BundleError: 'plan' of release 2 is not what record 1",
    "she changes the weights' architecture only": "WeightsError: ",
    "she begins another federation for it": "UntrustedError: bob brought the genesis",
    "she has had it agreed to from the beginning": "UntrustedError: the federation asks for a batch size of 1,048,576",
}


def test_an_imprint_network_takes_images_below_the_checks_and_none_from_alice(
    tmp_path: Path, keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSSH_DATA", str(tmp_path))  # nothing there: handwritten digits
    data, brightness = site_data(tmp_path, 120)
    attack = imprint(data, 2000, brightness)
    found, of = unchecked(data, tmp_path / "evil.safetensors", attack)
    assert of == 120 and found > 60, "the attack works where nothing is checked"
    said = checked(tmp_path, data, keys["coordinator"], attack)
    assert said.keys() == WORDS.keys()
    for who, words in WORDS.items():
        assert said[who].startswith(words)
