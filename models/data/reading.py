"""What a data set says of itself, and what a person and the federation say beside it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedssh.models.data import classes
from fedssh.models.data.pixels import Size, White


@dataclass(frozen=True)
class Reading:
    """What a data set's own files do not say.

    Attributes:
        names: The federation's class names in label order; None where it has none, and labels are taken as they are.
        given: The federation's name by the data set's own, see `classes`.
        white: What white is in integer pixels, see `pixels.White`; None is the largest value of their type.
        tell: Called with one line on everything that is changed or passed over.
        dark: Take pixels that would be nearly black as they are: so did federations that were never asked for white.
    """

    names: Sequence[str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    white: int | None = None
    tell: Callable[[str], None] = lambda line: None
    dark: bool = False

    def numbers(
        self, own: Sequence[str] | None, number: int, split: str, counts: Sequence[int]
    ) -> Sequence[int | None]:
        """The federation's label for each of a data set's; None leaves its images out.

        Args:
            own: The data set's names, if it has any.
            number: How many classes the network tells apart.
            split: For the line that is told.
            counts: Images of the split by own label.

        Raises:
            classes.NamesError: The names are not the federation's.
        """
        if not self.held:
            if own is not None:
                called = ", ".join(
                    f"{label} is {classes.shown(name)}" for label, name in enumerate(own[: classes.SHOWN])
                )
                self.tell(f"the federation has no class names; here {called}: compare that with the coordinator")
            return range(max(number, len(counts)))
        agreed = self.names if self.names is not None else classes.numbered(number)
        held = classes.hold(own if own is not None else classes.numbered(len(counts)), agreed, self.given)
        if line := held.told(counts):
            self.tell(f"{split}: {line}")
        return held.numbers

    def new_white(self) -> White:
        """White, as nothing has been measured by it yet."""
        return White(self.white, self.dark)

    @property
    def held(self) -> bool:
        """Whether the data set's names are held against any."""
        return self.names is not None or bool(self.given)


def meaning(names: Sequence[str]) -> str:
    """What each label means, for people."""
    more = f" and {len(names) - classes.SHOWN} more" if len(names) > classes.SHOWN else ""
    return ", ".join(f"{label} is {classes.shown(name)}" for label, name in enumerate(names[: classes.SHOWN])) + more


AS_IT_IS = Reading()


@dataclass(frozen=True)
class Description:
    """What a data set says of itself.

    Attributes:
        found: How many images of which height, width and channels.
        classes: How many classes there are.
        names: Theirs, in label order; None where it has none.
        ignored: One line on what was passed over, or None.
    """

    found: Counter[Size]
    classes: int
    names: tuple[str, ...] | None
    ignored: str | None = None

    @property
    def input(self) -> Size | None:
        """The size and channels of every image; None when they differ."""
        return next(iter(self.found)) if len(self.found) == 1 else None
