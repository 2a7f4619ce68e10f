"""Class names: what a data set calls its classes, held against what the federation calls them. Pure; no NumPy.

    agreed    the federation's names in label order, as genesis recorded them; None where it has none
    own       the data set's names in its own label order; the labels of data without names are called "0", "1", …
    given     what a person says with --classes: own name -> agreed name; "" leaves the images of a class out

An own name stands for the agreed name that it equals; or, where no other name of either side could be meant, for the
one that differs only in upper and lower case. Whatever else a name may mean, only a person says: nothing is guessed
from the order of folders, because exchanged labels train a model that is wrong about everybody.
"""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MAX_LETTERS = 100  # of a name: the history shows them
MAX_BYTES = 16_384  # of all names together: they stand in one record
SHOWN = 12  # names in a message
BETWEEN = "\x1f"  # several numbers of one image, where labels are texts


class NamesError(ValueError):
    """Class names do not fit each other; `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Held:
    """What becomes of a data set's labels.

    Attributes:
        names: The federation's names in label order.
        own: The data set's names in its label order.
        numbers: For each own label the federation's; None leaves its images out.
    """

    names: tuple[str, ...]
    own: tuple[str, ...]
    numbers: tuple[int | None, ...]

    def told(self, counts: Sequence[int]) -> str | None:
        """One line on what is not as it would be without names; None when there is nothing to say.

        Args:
            counts: Images per own label.
        """
        parts = []
        kept = [(label, number) for label, number in enumerate(self.numbers) if number is not None]
        if any(number != label or self.own[label] != self.names[number] for label, number in kept):
            parts.append("classes: " + _some(self._as_agreed(*one, counts[one[0]]) for one in kept))
        if out := [label for label, number in enumerate(self.numbers) if number is None]:
            parts.append("left out: " + _some(f"{shown(self.own[label])} ({counts[label]:,} images)" for label in out))
        there = {number for number, count in zip(self.numbers, counts, strict=True) if count}
        if missing := [name for number, name in enumerate(self.names) if number not in there]:
            parts.append("no images here of " + _some(map(shown, missing)))
        return "; ".join(parts) or None

    def _as_agreed(self, label: int, number: int, count: int) -> str:
        own, name = shown(self.own[label]), shown(self.names[number])
        return f"{name if own == name else f'{own} as {name}'} ({count:,})"


def read_classes(text: str | None) -> dict[str, str]:
    """What `--classes` says: `A=B,C=D`, or a JSON object when a name has a comma or an equals sign.

    Raises:
        NamesError: It is neither, or a name stands there twice.
    """
    text = (text or "").strip()
    if not text:
        return {}
    hint = "such as --classes no_finding=NORMAL,infiltrate=PNEUMONIA; `other=` leaves a class out"
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        except ValueError:
            raise NamesError(f"--classes: {shown(text)} is no JSON object of names", hint) from None
    else:
        pairs = [tuple(map(str.strip, part.split("="))) for part in text.split(",")]
    if not all(len(pair) == 2 and all(isinstance(name, str) for name in pair) and pair[0] for pair in pairs):
        raise NamesError(f"--classes: {shown(text)} is no list of NAME=NAME", hint)
    given = {plain(own): plain(name) for own, name in pairs}
    if len(given) < len(pairs):
        raise NamesError(f"--classes: {shown(text)} names a class twice", hint)
    return given


def plain(name: str) -> str:
    """A name as it is compared: one of the ways in which systems write the same letters, no space around."""
    return unicodedata.normalize("NFC", name).strip()


def numbered(classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(map(str, range(classes)))


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that a federation may have: each different, printable and short.

    Raises:
        NamesError: One is not; the message says which.
    """
    names = tuple(plain(name) for name in names)
    hint = "--classes OLD=NEW gives a class another name"
    for name in names:
        if not name or len(name) > MAX_LETTERS or not name.isprintable():
            raise NamesError(
                f"the class name {shown(name)!r} is not of 1 to {MAX_LETTERS} letters that can be shown", hint
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise NamesError(f"two classes are called {shown(twice[0])}", hint)
    size = len(json.dumps(names).encode())
    if size > MAX_BYTES:
        raise NamesError(f"the class names take {size:,} bytes, a record has room for {MAX_BYTES:,}", hint)
    return names


def settle(own: Sequence[str] | None, classes: int, given: Mapping[str, str]) -> Held | None:
    """What a federation calls its classes: its coordinator's own names, or what she says instead.

    Several names may become one; the classes keep the order in which they first appear.

    Args:
        own: The names of her data, None where it has none.
        classes: How many classes her data has.
        given: What she says.

    Returns:
        None when there are no names.

    Raises:
        NamesError: A name cannot be one, or is said of a class that is not there; or of some numbers only.
    """
    if own is None and not given:
        return None
    own = tuple(map(plain, own if own is not None else numbered(classes)))
    _known(own, given, "her data")
    called = [given.get(name, name) for name in own]
    names = check_names(dict.fromkeys(name for name in called if name))
    return Held(names, own, tuple(names.index(name) if name else None for name in called))


def hold(own: Sequence[str], agreed: Sequence[str], given: Mapping[str, str]) -> Held:
    """Hold a data set's names against the federation's.

    Raises:
        NamesError: A name is not the federation's and nobody said what it means, or what was said fits neither.
    """
    own, agreed = tuple(map(plain, own)), tuple(map(plain, agreed))
    _known(own, given, "the data here")
    if strange := sorted({name for name in given.values() if name and name not in agreed}):
        raise NamesError(
            f"--classes: the federation has no class {_some(map(shown, strange))}; its classes are {_all(agreed)}",
            f"write {suggestion(own, agreed, given)}",
        )
    meant = {name: given[name] if name in given else _same(name, own, agreed, given) for name in own}
    if any(name is None for name in meant.values()):
        raise NamesError(
            f"the classes here are {_all(own)}, the federation's are {_all(agreed)}",
            f"if these mean the same, write which is which: {suggestion(own, agreed, given)}",
        )
    if not any(meant.values()):
        raise NamesError("--classes leaves out every class of the data here", suggestion(own, agreed, given))
    return Held(agreed, own, tuple(agreed.index(name) if (name := meant[one]) else None for one in own))


def suggestion(own: Sequence[str], agreed: Sequence[str], given: Mapping[str, str]) -> str:
    """The option to write, ready for a shell, with a question mark where only a person knows.

    Numbers stand for the federation's names in their order, as far as there are any: a proposal to be looked at.
    """
    known = {name: given[name] if given.get(name) in (*agreed, "") else _same(name, own, agreed, given) for name in own}
    numbers = list(own) == list(numbered(len(own))) and len(own) <= len(agreed) and None in known.values()
    if numbers and all(name is None for name in known.values()):
        known = dict(zip(own, agreed, strict=False))
    text = written({name: "?" if known[name] is None else str(known[name]) for name in own})
    if "?" in text and not numbers:
        return f"--classes {text} with one of {_all(agreed)} for each ?, or with nothing to leave a class out"
    return f"--classes {text}{' if that is what these numbers mean' if numbers else ''}"


def written(pairs: Mapping[str, str]) -> str:
    """What `read_classes` reads as `pairs`, quoted for a shell."""
    names = [*pairs, *pairs.values()]
    if any("," in name or "=" in name for name in names) or next(iter(pairs), "").startswith("{"):
        return shlex.quote(json.dumps(dict(pairs), ensure_ascii=False))
    return shlex.quote(",".join(f"{own}={name}" for own, name in pairs.items()))


def shown(name: str, letters: int = MAX_LETTERS) -> str:
    """A name for a message: short, and without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:letters])


def _known(own: Sequence[str], given: Mapping[str, str], whose: str) -> None:
    if strange := sorted(set(given) - set(own)):
        raise NamesError(
            f"--classes: {whose} has no class {_some(map(shown, strange))}; its classes are {_all(own)}",
            "--classes OWN=AGREED: the name here first, then the federation's",
        )


def _same(name: str, own: Sequence[str], agreed: Sequence[str], given: Mapping[str, str]) -> str | None:
    """The agreed name that a name stands for by itself."""
    if name in agreed:
        return name
    folded = name.casefold()
    theirs = [one for one in agreed if one.casefold() == folded]
    ours = [one for one in own if one.casefold() == folded and one not in given]
    return theirs[0] if len(theirs) == 1 and len(ours) == 1 else None


def _all(names: Sequence[str]) -> str:
    return _some(map(shown, names))


def _some(texts: Iterable[str]) -> str:
    texts = list(texts)
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
