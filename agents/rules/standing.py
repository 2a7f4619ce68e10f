"""Where the federation stands, as a release tells it to whoever trains next."""

from __future__ import annotations

from dataclasses import dataclass

from fedssh.rules.typed import ABSENT, Absent, Typed, known, said


@dataclass(frozen=True)
class Started:
    """What a release says about the state that training from it starts from.

    Attributes:
        version: How often the current model had changed.
        turn: Whose turn it was in a relay.
        turns: How often the turn had been passed, or the number of the newest round; None from an older version.
    """

    version: int
    turn: str | None
    turns: int | None


@dataclass(frozen=True, kw_only=True)
class OpenRound(Typed):
    """The round that is open."""

    number: int = said("From 1.")
    sites: tuple[str, ...] = said("Who may send an update.")
    of: int | None = said("How many rounds there shall be; null is without end.")


@dataclass(frozen=True, kw_only=True)
class LastRound(Typed):
    """The last round that closed."""

    round: int = said("From 1.")
    event: str = said("`round-accepted` or `round-refused`.")
    reason: str = said("Why.")


@dataclass(frozen=True, kw_only=True)
class Layers(Typed):
    """The site's layers of the current model, where they are for sites alone."""

    record: int = said("The record that handed them on.")
    site: str = said("Whose turn they came out of.")
    submission: str = said("By which the door hands them out: `layers ID`.")
    sha256: str = said("SHA-256 of the plain file, by that site's word.")
    size: int = said("Its bytes.")


@dataclass(frozen=True, kw_only=True)
class Standing(Typed):
    """The block `federation` of a release. Who is older left some of it out."""

    name: str = said("The federation's name.")
    policy: str = said("How models become one, as agreed in genesis.")
    gate: str | Absent = said("What the holdout must say, as agreed; `off` where it is missing.", absent=True)
    margin: float | Absent = said("The gate's margin; 0 where it is missing.", absent=True)
    version: int | Absent = said("How often the current model has changed; genesis is 0.", absent=True)
    schedule: str = said("`free`, `relay` or `rounds`.")
    turn: str | None = said("Whose turn it is in a relay.")
    turns: int | Absent = said("How often the turn was passed; the number of the newest round.", absent=True)
    round: OpenRound | Absent | None = said("The round that is open.", absent=True)
    last: LastRound | Absent | None = said("The last round that closed.", absent=True)
    layers: Layers | Absent = said(
        "Under `split` with `weights=sites`: where the site's layers are. The release's model has the coordinator's, "
        "and in the place of the site's those of record 1; what it says it scored, that first model scored.",
        absent=True,
    )
    state: str = said("`open` or `finished`.")
    sessions: int | None = said("How many sessions each site shall train; null is without end, and in rounds.")
    sites: tuple[str, ...] = said("The sites that train, in order of enrolment.")

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be trained."""
        return self.state == "finished"

    @property
    def started(self) -> Started:
        """What training from the release starts from."""
        return Started(known(self.version, 0), self.turn, None if self.turns is ABSENT else self.turns)

    @property
    def open_round(self) -> OpenRound | None:
        """The round that is open."""
        return known(self.round, None)

    @property
    def last_round(self) -> LastRound | None:
        """The last round that closed."""
        return known(self.last, None)
