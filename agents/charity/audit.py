"""The coordinator's audit of a recorded model: with her own images, and with what somebody gives her."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedssh.charity.judge.own_images import reading_of, to_reading
from fedssh.errors import SettingsError
from fedssh.rules.plan import read_plan
from fedssh.use.audit import Asked, audit, images_at, place, show, told_apart
from fedssh.use.card import Origin


def run(
    origin: Origin, model: Path, private: Mapping[str, Any], members: str | None, non_members: str | None, split: str,
    asked: Asked,
) -> None:  # fmt: skip
    """Attack a model and print what was found.

    Args:
        private: Of vault/charity.json.
        members, non_members: PATH or PATH:SPLIT; None are her own images.
        split: Of her own images, the non-members.

    Raises:
        SettingsError: There are no such images, or no members.
        AgentError: An attack is above the limit.
    """
    genesis = origin.genesis
    if members is None and not genesis.get("epochs"):
        raise SettingsError(
            "the first model was not trained on the coordinator's images, so she has no members",
            "--members PATH gives some, or the site asks itself: `alice audit`",
        )
    spec, hers = genesis["spec"], str(private["data"])
    at = {"members": members, "non_members": non_members}
    others = {name: None if text is None else place(text)[0] for name, text in at.items()}
    readings = {name: to_reading(reading_of(genesis, private, other)) for name, other in others.items()}
    inside, of_inside = images_at(members or f"{hers}:train", "--members", ("train",), spec, readings["members"])
    outside, of_outside = images_at(
        non_members or f"{hers}:{split}", "--non-members", ("val", "test", "train"), spec, readings["non_members"]
    )
    sides = told_apart(inside, outside, (of_inside, of_outside), spec)
    found = audit(spec, read_plan(genesis["plan"]), model, sides, asked)
    show(origin.short(), found, sides, "rows" if genesis.get("table") else "images", asked)
