"""Class names held against the federation's: every way in which they can be the same, or be something else."""

from __future__ import annotations

import shlex

import pytest

from fedssh.models.data.classes import NamesError, check_names, hold, read_classes, settle, written

AGREED = ("NORMAL", "PNEUMONIA")


@pytest.mark.parametrize(
    ("own", "given", "numbers"),
    [
        (("NORMAL", "PNEUMONIA"), "", (0, 1)),
        (("PNEUMONIA", "NORMAL"), "", (1, 0)),
        (("normal", "Pneumonia"), "", (0, 1)),
        (("PNEUMONIA",), "", (1,)),  # a site may have patients of one kind only
        (("infiltrate", "no_finding"), "infiltrate=PNEUMONIA,no_finding=NORMAL", (1, 0)),
        (("bacteria", "normal", "virus"), "bacteria=PNEUMONIA,virus=PNEUMONIA", (1, 0, 1)),
        (("NORMAL", "PNEUMONIA", "other"), "other=", (0, 1, None)),
        (("0", "1"), "0=PNEUMONIA,1=NORMAL", (1, 0)),
        (("normal", "NORMAL"), "normal=PNEUMONIA", (1, 0)),
        (("PNEUMONIA", "NORMAL"), "PNEUMONIA=NORMAL,NORMAL=PNEUMONIA", (0, 1)),  # said is said
    ],
)
def test_names_that_are_the_federations(own: tuple[str, ...], given: str, numbers: tuple[int | None, ...]) -> None:
    assert hold(own, AGREED, read_classes(given)).numbers == numbers


def test_the_same_letters_written_in_two_ways_are_one_name() -> None:
    assert hold(("Lungenentzu\u0308ndung", "x"), ("x", "Lungenentz\u00fcndung"), {}).numbers == (1, 0)


@pytest.mark.parametrize(
    ("own", "given", "message", "hint"),
    [
        (
            ("infiltrate", "no_finding"),
            "",
            "the classes here are infiltrate, no_finding, the federation's are NORMAL, PNEUMONIA",
            "write which is which: --classes 'infiltrate=?,no_finding=?' with one of NORMAL, PNEUMONIA for each ?",
        ),
        (("normal", "sick"), "", "the classes here are normal, sick", "--classes 'normal=NORMAL,sick=?' with one of"),
        (("0", "1"), "", "the classes here are 0, 1", "--classes 0=NORMAL,1=PNEUMONIA if that is what these numbers"),
        (("normal", "Normal", "PNEUMONIA"), "", "the classes here are normal, Normal", "'normal=?,Normal=?,PNEUMONIA="),
        (AGREED, "gone=NORMAL", "the data here has no class gone; its classes are NORMAL, PNEUMONIA", "OWN=AGREED"),
        (("a", "b"), "a=normal,b=PNEUMONIA", "the federation has no class normal", "'a=?,b=PNEUMONIA'"),
        (("a", "b"), "a=?,b=?", "the federation has no class ?", "'a=?,b=?'"),  # pasted without thinking
        (("a", "b"), "a=,b=", "leaves out every class", "--classes a=,b="),
        (("a,b", "c"), "", "a,b, c", """'{"a,b": "?", "c": "?"}'"""),
        (("\x1b[2J", "c"), "", r"the classes here are ?[2J, c", ""),
    ],
)
def test_names_that_are_not_are_refused_with_what_to_write(
    own: tuple[str, ...], given: str, message: str, hint: str
) -> None:
    with pytest.raises(NamesError) as caught:
        hold(own, AGREED, read_classes(given))
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_the_federation_may_tell_upper_and_lower_case_apart() -> None:
    assert hold(("a", "A"), ("A", "a"), {}).numbers == (1, 0)
    with pytest.raises(NamesError):
        hold(("b", "B"), ("A", "b", "a"), {})
    with pytest.raises(NamesError):
        hold(("ß",), ("SS", "ss"), {})


@pytest.mark.parametrize("pairs", [{"a": "b", "c": ""}, {"a,b": "c=d", "e": "f"}, {"it's": "a b"}, {"{x": "y"}])
def test_what_is_proposed_is_read_as_it_was_meant(pairs: dict[str, str]) -> None:
    (word,) = shlex.split(written(pairs))
    assert read_classes(word) == pairs


@pytest.mark.parametrize("text", ["a", "a=b=c", "=b", "a=b,a=c", "{", '{"a": 1}', '{"a": "b", "a": "c"}', "a=b,,"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(NamesError, match=r"^--classes: "):
        read_classes(text)


def test_what_a_coordinator_calls_her_classes() -> None:
    held = settle(("infiltrate", "no_finding"), 2, {"infiltrate": "PNEUMONIA", "no_finding": "NORMAL"})
    assert held
    assert (held.names, held.numbers) == (("PNEUMONIA", "NORMAL"), (0, 1))
    held = settle(("bacteria", "none", "other", "virus"), 4, {"bacteria": "ill", "virus": "ill", "other": ""})
    assert held
    assert (held.names, held.numbers) == (("ill", "none"), (0, 1, None, 0))
    held = settle(None, 2, {"0": "NORMAL", "1": "PNEUMONIA"})
    assert held
    assert held.names == AGREED
    assert settle(None, 2, {}) is None
    with pytest.raises(NamesError, match="has no class 2"):
        settle(None, 2, {"2": "x"})


@pytest.mark.parametrize("names", [["a", "a"], ["", "b"], ["a\nb", "b"], ["a\x1b", "b"], ["x" * 101, "b"]])
def test_names_that_no_federation_may_have(names: list[str]) -> None:
    with pytest.raises(NamesError):
        check_names(names)


def test_what_is_told_of_a_mapping() -> None:
    assert hold(AGREED, AGREED, {}).told([3, 4]) is None
    assert hold(("PNEUMONIA", "NORMAL"), AGREED, {}).told([3, 4]) == "classes: PNEUMONIA (3), NORMAL (4)"
    held = hold(("a", "b", "c"), AGREED, {"a": "PNEUMONIA", "b": "PNEUMONIA", "c": ""})
    assert held.told([1, 2, 3000]) == (
        "classes: a as PNEUMONIA (1), b as PNEUMONIA (2); left out: c (3,000 images); no images here of NORMAL"
    )
