"""The images have what a private federation needs: the packages that count, in one installation with the others."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from scripts import terms
from scripts.demo import setup

PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)( ; .*?)? \\$", re.MULTILINE)
ROOMS = {"Dockerfile.alice": ("alice.txt", "alice-gpu.txt"), "Dockerfile.charity": ("charity.txt",)}


def pins(path: Path) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for name, version, condition in PIN.findall(path.read_text()):
        found.setdefault(name, set()).add((version, condition))
    return found


@pytest.mark.parametrize("file", ROOMS)
def test_an_image_counts_what_privacy_costs(root: Path, file: str) -> None:
    stages = re.split(r"^FROM ", (root / file).read_text(), flags=re.MULTILINE)
    room = file.partition(".")[2]
    [stage] = [one for one in stages if one.startswith(f"build AS build-{room}\n")]
    assert re.search(r"^COPY locks/\S+ locks/privacy\.txt /build/locks/$", stage, re.MULTILINE)
    [install] = [line for line in re.sub(r"\\\n\s*", "", stage).splitlines() if line.startswith("RUN pip install ")]
    assert "--require-hashes" in install and "--requirement /build/locks/privacy.txt" in install
    other = [one for one in stages if not one.startswith(f"build AS build-{room}\n")]
    assert not any("privacy.txt" in one for one in other), "bob and the door count nothing"


@pytest.mark.parametrize("lock", [lock for locks in ROOMS.values() for lock in locks])
def test_its_packages_are_the_versions_that_the_room_has(root: Path, lock: str) -> None:
    ours, room = pins(root / "locks" / "privacy.txt"), pins(root / "locks" / lock)
    assert "dp-accounting" in ours and len(room) > 20
    differing = {
        name
        for name in ours.keys() & room.keys()
        if {version for version, _ in ours[name]} != {version for version, _ in room[name]}
    }
    assert not differing, "pip refuses two versions of one package"
    assert {"dp-accounting", "dm-tree", "mpmath", "attrs"} >= ours.keys() - room.keys(), "the image grows by more"


@pytest.mark.parametrize("given", ["", "unit=image,clip=1,noise=1.2,delta=1e-4,budget=3"])
def test_compose_hands_on_what_is_agreed_of_privacy(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    assert "      - --privacy=${FEDSSH_PRIVACY:-}\n" in (root / "docker-compose.yml").read_text()
    said: list[tuple[str, ...]] = []

    def charity(*words: str, show: bool = True) -> str:
        said.append(words)
        return '{"state": "training", "sessions": 8}'

    monkeypatch.setattr(setup, "charity", charity)
    options = argparse.Namespace(
        coordinator=tmp_path, holdout=tmp_path, seed=1, address="charity@door:2222", privacy=given, reopen=False
    )
    setup.begin(options, "{}", terms.agree("fedavg", "off", "free", None, None, 3))
    assert said[0][0] == "init"
    assert [word for word in said[0] if word.startswith("--privacy")] == [f"--privacy={given}"] * bool(given)
