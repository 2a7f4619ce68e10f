"""What Alice trains: her own network, or a script's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from fedssh.alice.fitting import Epoch
    from fedssh.alice.incoming import Received
    from fedssh.models.data.columns import Columns
    from fedssh.models.firing import Singled
    from fedssh.rules.events import Local, Measured
    from fedssh.rules.membership import Attacked
    from fedssh.rules.plan import Plan
    from fedssh.split.site import Past, SiteTurn

    Weights = Mapping[str, np.ndarray]


class Trainee(Protocol):
    """What takes over releases, is scored and is trained; `learner.Network` says what each part means."""

    class_names: Sequence[str] | None
    table: Columns | None
    agreed: Mapping[str, Any] | None

    @property
    def examples(self) -> int:
        """How many examples it trains on."""
        ...

    @property
    def validation_examples(self) -> int:
        """How many it is scored on."""
        ...

    def shapes(self, spec: dict[str, Any]) -> Mapping[str, tuple[int, ...]]:
        """The shapes of a network's weights by name."""
        ...

    def adopt(
        self, received: Received, plan: Plan, stop: threading.Event | None = None, own: Weights | None = None
    ) -> Local:
        """Take over a release, with the site's own weights in the place of some; return what it scores here."""
        ...

    def staying(self, plan: Plan) -> Weights:
        """Of the weights as they are now, what stays at the site by the plan."""
        ...

    def measure(self, received: Received, loss: float) -> Measured | None:
        """What the release that was taken over scores here, as the terms may ask; None where that cannot be told."""
        ...

    def singled(self) -> Sequence[Singled]:
        """How many training images single themselves out in each layer."""
        ...

    def singled_to_score(self) -> list[Singled]:
        """The same of the images that a release is scored on."""
        ...

    def membership(self, stop: threading.Event) -> Attacked:
        """How well an attack by loss tells the training images from the validation images, with the weights now."""
        ...

    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights as they are now."""
        ...

    def fit(
        self, session: int, plan: Plan, start: Local, ended: Callable[[Epoch], bool], stop: threading.Event
    ) -> bool:
        """Train one session; whether it ended early."""
        ...

    def fresh(self, spec: dict[str, Any], known: frozenset[bytes]) -> int:
        """Look for images that are not known, to train on these and no others; how many there are."""
        ...

    @property
    def new(self) -> list[bytes]:
        """What the images are known by that `fresh` found."""
        ...

    def turn(
        self, session: int, plan: Plan, received: Received, id: str, kept: Path, told: Callable[[Past], None],
        decoder: Weights | None = None,
    ) -> SiteTurn:  # fmt: skip
        """This site's part in a turn under `split`, which began with the release that was taken over."""
        ...
