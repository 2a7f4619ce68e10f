"""What a demonstration agrees on: policy, gate, and how long it trains when nobody says so. Standard library only.

Shared by `scripts/quickstart` and `scripts/demo/setup.py`, and so by docker-compose.yml: here alone stand the
demonstration's own defaults. What a federation may agree on at all is in `fedssh.rules.terms`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedssh.rules.policies import read_policy
from fedssh.rules.rounds import least_sites
from fedssh.rules.terms import gate_of, schedule_of

POLICY = "gather"  # as good as rounds, and nobody waits: docs/explanation/results/policies.md
GATE = "on"
SESSIONS, EPOCHS = 3, 10  # sessions per site, and epochs of one at most
ROUNDS, ROUND_EPOCHS = 8, 3  # with policies that train in rounds


@dataclass(frozen=True)
class Terms:
    """What `charity init` is told.

    Attributes:
        policy: As text, with every option written out.
        gate: on, off, ladder or parameter-free-ladder.
        schedule: free or relay; a policy with rounds has its own.
        sessions: Per site, or the number of rounds.
        epochs: Of a session at most, or of each round.
    """

    policy: str
    gate: str
    schedule: str
    sessions: int
    epochs: int


def agree(
    policy: str | None, gate: str | None, schedule: str, sessions: int | None, epochs: int | None, sites: int
) -> Terms:
    """Write out what was left open, and check that it goes together.

    Args:
        policy, gate, sessions, epochs: None is the default.
        sites: How many sites there will be.

    Raises:
        ValueError: There is no such policy or gate, it has no relay, or needs more sites than there are.
    """
    chosen, kind = read_policy(policy or POLICY), gate or GATE
    gate_of(kind)
    schedule_of(schedule, chosen)
    if chosen.rounds and least_sites(chosen) > sites:
        raise ValueError(f"the policy {chosen.name} needs {least_sites(chosen)} sites, there are {sites}")
    usual = (ROUNDS, ROUND_EPOCHS) if chosen.rounds else (SESSIONS, EPOCHS)
    return Terms(chosen.text, kind, schedule, sessions or usual[0], epochs or usual[1])
