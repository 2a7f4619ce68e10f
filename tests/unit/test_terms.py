"""What a demonstration agrees on when its user leaves something open, and the colours of what it shows."""

from __future__ import annotations

from typing import Any

import pytest

from fedssh.rules import terms as agreed_terms
from scripts import terms
from scripts.demo.screen import mood

FREE, ROUNDS = (3, 10), (8, 3)  # sessions and epochs, or rounds and epochs of each


def agree(**given: Any) -> terms.Terms:
    asked = {"policy": None, "gate": None, "schedule": "free", "sessions": None, "epochs": None, "sites": 3}
    return terms.agree(**(asked | given))


@pytest.mark.parametrize(
    ("policy", "text", "lengths"),
    [
        ("best", "best", FREE),
        ("merge:steps=2", "merge:steps=2,staleness=0.5", FREE),
        ("fedavg:deadline=9", "fedavg:fraction=1,minimum=0.5,deadline=9,sites=1", ROUNDS),
        ("trimmed:1", "trimmed:trim=1,fraction=1,minimum=0.5,deadline=600,sites=1", ROUNDS),
    ],
)
def test_what_is_left_open_depends_on_the_policy(policy: str, text: str, lengths: tuple[int, int]) -> None:
    agreed = agree(policy=policy)
    assert (agreed.policy, (agreed.sessions, agreed.epochs)) == (text, lengths)
    agreed = agree(policy=policy, sessions=7, epochs=2, gate="off")
    assert (agreed.sessions, agreed.epochs, agreed.gate) == (7, 2, "off")


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_said_is_the_default(nothing: str | None) -> None:
    agreed = agree(policy=nothing, gate=nothing)
    assert (agreed.policy, agreed.gate) == (agree(policy=terms.POLICY).policy, terms.GATE)


def test_the_default_goes_with_every_schedule() -> None:
    agreed = agree(schedule="relay", sites=1)
    assert (agreed.schedule, (agreed.sessions, agreed.epochs)) == ("relay", FREE)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"policy": "fedavgg"}, "no policy is called 'fedavgg'; did you mean 'fedavg'"),
        ({"gate": "ajar"}, "no gate is called 'ajar'"),
        ({"policy": "krum"}, "the policy krum needs 5 sites, there are 3"),
        ({"policy": "fedavg:sites=4"}, "the policy fedavg needs 4 sites, there are 3"),
        ({"policy": "median", "schedule": "relay"}, "the policy median trains in rounds, not in a relay"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        agree(**given)


@pytest.mark.parametrize("policy", [None, "fedavg:deadline=9"])
def test_a_demonstration_is_a_federation_like_any(policy: str | None) -> None:
    demonstration = vars(agree(policy=policy))
    assert demonstration.keys() <= agreed_terms.FORMS.keys()
    usual = vars(agreed_terms.Terms())
    written = agreed_terms.agree(usual | demonstration, {}, "auto")
    assert written["policy"] == demonstration["policy"]
    assert written["plan"]["epochs"] == demonstration["epochs"]


@pytest.mark.parametrize(
    ("event", "like"),
    [("round-accepted", "accepted"), ("round-refused", "refused"), ("counted", "refused"), ("round-opened", "turn")],
)
def test_rounds_are_coloured_like_the_other_events(event: str, like: str) -> None:
    assert mood({"event": event}) == mood({"event": like})
