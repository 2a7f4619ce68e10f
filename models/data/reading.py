"""What a data set says of itself, and what a person and the federation say beside it. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedssh.models.data import classes
from fedssh.models.data.columns import Columns
from fedssh.models.data.holdout import Cut
from fedssh.models.data.pixel_file import Store
from fedssh.models.data.pixels import Size, White
from fedssh.models.tasks import CLASSES


@dataclass(frozen=True)
class Reading:
    """What a data set's own files do not say.

    Attributes:
        names: The federation's class names in label order; None where it has none, and labels are taken as they are.
        given: The federation's name by the data set's own, see `classes`.
        white: What white is in integer pixels, see `pixels.White`; None is the largest value of their type.
        tell: Called with one line on everything that is changed or passed over.
        dark: Take pixels that would be nearly black as they are: so did federations that were never asked for white.
        patient: A regular expression that finds the patient in a file's name or path: its first group, or all of it.
        columns: What the columns of a table are called, see `table`; of a table of features also by agreed name.
        cut: How a holdout is cut out of `train`, see `holdout`.
        target: The column of a table that is to be predicted; it says that it is a table of features.
        features, leave_out: Which columns of such a table are learnt from, where nothing is agreed yet, see `columns`.
        table: What is agreed of such a table.
        raw: The numbers of an .npz file are as the network takes them.
        store: Where images stand that would take too much memory, see `pixel_file`; None keeps all in memory.
        task: What labels are, see `labels`; None is what they look like, and where images are loaded, classes.
    """

    names: Sequence[str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    white: int | None = None
    tell: Callable[[str], None] = lambda line: None
    dark: bool = False
    patient: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    cut: Cut | None = None
    target: str | None = None
    features: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    table: Columns | None = None
    raw: bool = False
    store: Store | None = None
    task: str | None = None

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

    def patients(self, names: Sequence[str], where: str) -> list[str | None]:
        """The patient of each file, by `patient`; one line is told on files that it does not fit.

        Args:
            names: Their names and paths below the data set.
            where: For messages.

        Raises:
            ValueError: It is no regular expression, or fits no file at all.
        """
        if self.patient is None:
            return [None] * len(names)
        try:
            pattern = re.compile(self.patient)
        except re.error as error:
            raise ValueError(f"--patient {self.patient!r} is no regular expression: {error}") from None
        found = [match and match[1 if pattern.groups else 0] for match in map(pattern.search, names)]
        if names and not any(found):
            raise ValueError(f"--patient {self.patient!r} fits no file of {where}, such as {classes.shown(names[0])}")
        if without := [name for name, one in zip(names, found, strict=True) if not one]:
            self.tell(
                f"--patient fits {len(names) - len(without):,} of {len(names):,} files; each of the others, such as "
                f"{classes.shown(without[0])}, counts as a patient of its own"
            )
        return [one or None for one in found]

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
        classes: How many classes there are, or targets.
        names: Theirs, in label order; None where it has none.
        ignored: One line on what was passed over, or None.
        table: Of a table of features, what would be agreed.
        task: What its labels are, see `labels`.
    """

    found: Counter[Size]
    classes: int
    names: tuple[str, ...] | None
    ignored: str | None = None
    table: Columns | None = None
    task: str = CLASSES

    @property
    def input(self) -> Size | None:
        """The size and channels of every image; None when they differ."""
        return next(iter(self.found)) if len(self.found) == 1 else None
