"""What a recorded threshold and temperature make of a model's probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedssh.models.decision import tempered


@dataclass(frozen=True)
class Decision:
    """How probabilities become what an image is called, and how they are shown.

    Attributes:
        threshold: With two classes: the network's own probability from which on an image is called the second one. None
            calls what is most probable.
        temperature: What probabilities are shown after; it moves no decision. None shows them as they are.
        given: A threshold on the probabilities that are shown, which somebody gave; it beats `threshold`.
    """

    threshold: float | None = None
    temperature: float | None = None
    given: float | None = None

    @classmethod
    def recorded(cls, metrics: Mapping[str, Any], given: float | None = None) -> Decision:
        """By the scores of the model's record."""
        return cls(metrics.get("threshold"), metrics.get("temperature"), given)

    def shown(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        """Probabilities as they are shown."""
        if self.temperature is None:
            return tuple(probabilities)
        return tuple(tempered(np.array([probabilities]), self.temperature)[0].tolist())

    def label(self, probabilities: Sequence[float]) -> int:
        """The class that an image is called, from the network's own probabilities."""
        if self.given is not None:
            return int(self.shown(probabilities)[1] >= self.given)
        if self.threshold is not None:
            return int(probabilities[1] >= self.threshold)
        return int(np.argmax(probabilities))

    def told(self, names: Sequence[str], rule: str | None) -> str:
        """The same in words; empty where there is nothing to say.

        Args:
            names: What the classes are called.
            rule: How the threshold was found.
        """
        parts = []
        if self.given is not None:
            parts.append(f"called {names[1]} from {self.given:g} on, as --threshold says")
        elif self.threshold is not None:
            found = f", by {rule} on the holdout" if rule else ""
            parts.append(f"called {names[1]} from {self.threshold:.4g} on{found}")
        if self.temperature is not None:
            there = ""
            if self.given is None and self.threshold is not None:
                there = f", where the threshold is {self.shown((1 - self.threshold, self.threshold))[1]:.4g}"
            parts.append(f"probabilities are after the temperature {self.temperature:.4g}{there}")
        return "; ".join(parts)

    def value(self) -> dict[str, float | None]:
        """The same for programs."""
        return {"threshold": self.threshold if self.given is None else self.given, "temperature": self.temperature}
