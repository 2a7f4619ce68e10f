"""Sums under masks: every way to drop out, a coordinator who lies, sites that lie, and what is never told."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedssh.errors import MaskError
from fedssh.keys import PrivateKey, make_key
from fedssh.masks import shamir, signing, words
from fedssh.masks.numbers import Fixed
from fedssh.masks.site import MaskedRound, check_keys, own_mask
from fedssh.masks.total import Opened, opened
from fedssh.rules.masking import Answer, Roster, Shares, bad_shares, threshold, to_agree

FEDERATION = "f" * 64
NAMES = ("alice-1", "alice-2", "alice-3", "alice-4", "alice-5")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder / name, name) for name in (*NAMES, "mallory")}


class Round:
    """A round of some sites, as far as everybody agreed to the roster."""

    def __init__(self, keys: Mapping[str, PrivateKey], names: Sequence[str], number: int = 1) -> None:
        self.pinned = {name: keys[name].public for name in names}
        begun = {name: MaskedRound.begin(FEDERATION, number, name) for name in names}
        self.roster = Roster.of([begun[name].advert(keys[name]) for name in names])
        self.sites = {name: begun[name].agree(self.roster, self.pinned) for name in names}
        self.vectors = {name: vector(place) for place, name in enumerate(names)}

    def shares(self, partners: Sequence[str]) -> dict[str, Shares]:
        return {name: self.sites[name].shares() for name in partners}

    def masked(self, partners: Sequence[str], arrived: Sequence[str]) -> bytes:
        total = bytes(4 * 5)
        for name in arrived:
            self.sites[name], one = self.sites[name].mask(self.vectors[name], partners)
            total = words.added(total, one)
        return total

    def answer(self, name: str, arrived: Sequence[str], given: Mapping[str, Shares]) -> Answer:
        self.sites[name], answer = self.sites[name].answer(arrived, given, arrived)
        return answer

    def rest(
        self, partners: Sequence[str], arrived: Sequence[str], answering: Sequence[str], given: Mapping[str, Shares]
    ) -> Opened:
        """All that comes after the shares."""
        total = self.masked(partners, arrived)
        answers = [self.answer(name, arrived, given) for name in answering]
        for answer in answers:  # of each site one secret, and of nobody both
            assert set(answer.shares) == set(partners)
        return opened(self.roster, partners, arrived, total, given, answers)

    def wanted(self, arrived: Sequence[str]) -> bytes:
        return functools.reduce(words.added, (self.vectors[name] for name in arrived))


def vector(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 2**32, 5, dtype=np.uint32).tobytes()


def stream(key: bytes, number: int) -> np.ndarray:
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * number)), "<u4")


@pytest.mark.parametrize("number", [0, 1, 2, 65535, 65536, 65537, 150_001])
def test_masks_are_added_and_taken_as_numpy_does(number: int) -> None:
    start = np.random.default_rng(number).integers(0, 2**32, number, dtype=np.uint32)
    start[:1], start[-1:] = 0, 2**32 - 1
    keys = [bytes([place]) * 32 for place in range(7)]
    wanted = start.copy()
    for place, key in enumerate(keys):
        wanted = wanted + stream(key, number) if place < 3 else wanted - stream(key, number)
    assert words.masked(start.tobytes(), keys[:3], keys[3:]) == wanted.tobytes()
    assert words.added(start.tobytes(), wanted.tobytes()) == (start + wanted).tobytes()


def test_what_are_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes are no words"):
        words.masked(bytes(5), [], [])
    with pytest.raises(ValueError, match="4 and 8 bytes have no sum"):
        words.added(bytes(4), bytes(8))


@pytest.mark.parametrize(("places", "least"), [(3, 3), (4, 3), (5, 4), (10, 7)])
def test_any_threshold_of_shares_gives_the_secret_and_one_less_any_other(places: int, least: int) -> None:
    secret, randomness = bytes(range(32)), words.expanded(b"r" * 32, shamir.coefficient_bytes(least))
    shares = dict(enumerate(shamir.split(secret, places, least, randomness), 1))
    for some in itertools.combinations(shares, least):
        assert shamir.join({place: shares[place] for place in some}) == secret
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.join({place: shares[place] for place in range(1, least)})
    # For every other secret there is a share of the one place that is missing: so few shares say nothing.
    other = shamir.split(bytes(32), places, least, words.expanded(b"o" * 32, shamir.coefficient_bytes(least)))
    mixed = {place: shares[place] for place in range(1, least)} | {least: other[least - 1]}
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.join(mixed)


def test_what_cannot_be_shared_or_joined_is_refused() -> None:
    with pytest.raises(ValueError, match="a threshold of 4 among 3 places"):
        shamir.split(bytes(32), 3, 4, bytes(240))
    with pytest.raises(ValueError, match="with 79 bytes"):
        shamir.split(bytes(32), 3, 2, bytes(79))
    for share in (bytes(65), b"\xff" * 66):
        with pytest.raises(ValueError, match="the share of place 1 is none"):
            shamir.join({1: share})


# what happens to a site: it gives no shares; gives them and sends nothing; sends and does not answer; does all of it
FATES = ("absent", "silent", "gone", "there")


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_way_to_drop_out_gives_the_sum_of_who_came_or_nothing(keys: dict[str, PrivateKey], count: int) -> None:
    names = NAMES[:count]
    least = threshold(count)
    round_, sums = Round(keys, names), 0
    begun = dict(round_.sites)
    given_of = round_.shares(names)
    for fates in itertools.product(FATES, repeat=count):
        round_.sites = dict(begun)
        fate = dict(zip(names, fates, strict=True))
        partners = tuple(name for name in names if fate[name] != "absent")
        arrived = tuple(name for name in names if fate[name] in ("gone", "there"))
        answering = [name for name in names if fate[name] in ("silent", "there")]
        given = {name: given_of[name] for name in partners}
        if len(arrived) < least or len(answering) < least:
            with pytest.raises(MaskError):
                round_.rest(partners, arrived, answering, given)
            continue
        found = round_.rest(partners, arrived, answering, given)
        assert (found.vector, found.liars) == (round_.wanted(arrived), ())
        sums += 1
    assert sums == {3: 1, 4: 25, 5: 36}[count]


def test_a_sum_tells_nothing_of_a_summand(keys: dict[str, PrivateKey]) -> None:
    """What is masked is as random as its mask: it has nothing of the vector, and two rounds have nothing in common."""
    names, seen = NAMES[:3], list[bytes]()
    for number in (1, 2):
        round_ = Round(keys, names, number)
        round_.vectors = dict.fromkeys(names, bytes(4 * 5))
        seen += [round_.sites[name].mask(bytes(4 * 5), names)[1] for name in names]
    assert len({one[at : at + 4] for one in seen for at in range(0, 20, 4)}) == len(seen) * 5


def test_after_a_crash_the_same_is_said_again(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:4]
    round_ = Round(keys, names)
    site = round_.sites["alice-1"]
    again = dataclasses.replace(MaskedRound(FEDERATION, 1, "alice-1", site.secret), roster=site.roster)
    assert again.advert(keys["alice-1"]) == round_.roster.advert("alice-1")
    assert again.shares() == site.shares()
    assert again.mask(vector(0), names)[1] == site.mask(vector(0), names)[1]
    given = round_.shares(names)
    assert again.answer(names[:3], given, names)[1] == site.answer(names[:3], given, names)[1]


# a coordinator who lies


def test_another_roster_of_a_round_is_refused(keys: dict[str, PrivateKey]) -> None:
    round_ = Round(keys, NAMES[:4])
    fewer = Roster(round_.roster.adverts[:3])
    with pytest.raises(MaskError, match="two rosters of round 1 came"):
        round_.sites["alice-1"].agree(fewer, round_.pinned)
    assert round_.sites["alice-1"].agree(round_.roster, round_.pinned) == round_.sites["alice-1"]


def test_invented_sites_and_exchanged_keys_are_refused(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:3]
    sites = {name: MaskedRound.begin(FEDERATION, 1, name) for name in (*names, "mallory")}
    adverts = {name: site.advert(keys[name]) for name, site in sites.items()}
    pinned = {name: keys[name].public for name in names}
    with pytest.raises(MaskError, match="has mallory, who is no peer of this site") as raised:
        sites["alice-1"].agree(Roster.of(list(adverts.values())), pinned)
    assert raised.value.exit_code == 3 and "bob peers add mallory" in str(raised.value.hint)
    # Keys that the coordinator has made in a site's name, signed with another key or with none.
    for signed in (sites["alice-2"].advert(keys["mallory"]), dataclasses.replace(adverts["alice-2"], signed="")):
        with pytest.raises(MaskError, match="the key that is pinned of alice-2 has not signed"):
            sites["alice-1"].agree(Roster.of([adverts["alice-1"], signed, adverts["alice-3"]]), pinned)
    swapped = dataclasses.replace(adverts["alice-2"], masking=adverts["mallory"].masking)
    with pytest.raises(MaskError, match="has not signed"):
        sites["alice-1"].agree(Roster.of([adverts["alice-1"], swapped, adverts["alice-3"]]), pinned)
    other = MaskedRound.begin(FEDERATION, 1, "alice-1").advert(keys["alice-1"])
    with pytest.raises(MaskError, match="other keys of this site"):
        sites["alice-1"].agree(Roster.of([other, adverts["alice-2"], adverts["alice-3"]]), pinned)
    with pytest.raises(MaskError, match="lacks this site"):
        sites["alice-1"].agree(Roster.of([adverts[name] for name in ("alice-2", "alice-3", "mallory")]), pinned)


def test_a_key_that_agrees_to_the_same_with_everybody_is_refused(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:3]
    sites = {name: MaskedRound.begin(FEDERATION, 1, name) for name in names}
    adverts = [sites[name].advert(keys[name]) for name in names]
    for key in ("00" * 32, "00" * 31, "zz"):
        bad = signing.sign(dataclasses.replace(adverts[1], masking=key), keys["alice-2"])
        with pytest.raises(MaskError, match="a key of alice-2 for masks is none"):
            sites["alice-1"].agree(
                Roster.of([adverts[0], bad, adverts[2]]), {name: keys[name].public for name in names}
            )


def test_a_round_that_is_over_is_not_played_again(keys: dict[str, PrivateKey]) -> None:
    old, names = Round(keys, NAMES[:3], 1), NAMES[:3]
    new = MaskedRound.begin(FEDERATION, 2, "alice-1")
    with pytest.raises(MaskError, match="the roster is of round 1, this is round 2"):
        new.agree(old.roster, old.pinned)
    mixed = [new.advert(keys["alice-1"]), *old.roster.adverts[1:]]
    with pytest.raises(MaskError, match="of several rounds"):
        Roster.of(mixed)
    assert old.sites["alice-1"].mask(vector(0), names)[0].vector == hashlib.sha256(vector(0)).hexdigest()


def test_a_roster_has_at_least_three_sites_each_once(keys: dict[str, PrivateKey]) -> None:
    adverts = Round(keys, NAMES[:3]).roster.adverts
    with pytest.raises(MaskError, match="a roster of 2 sites, it takes at least 3"):
        Roster(adverts[:2])
    with pytest.raises(MaskError, match="not in order"):
        Roster((adverts[0], adverts[0], adverts[2]))


def test_a_site_answers_once_and_tells_one_secret_of_each(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:4]
    round_ = Round(keys, names)
    given = round_.shares(names)
    total = round_.masked(names, names)
    early = round_.answer("alice-1", names[:3], given)  # as if alice-4 had not come
    with pytest.raises(MaskError, match="answered already in round 1, about other sites") as raised:
        round_.sites["alice-1"].answer(names, given, names)
    assert raised.value.exit_code == 3
    # Whoever comes late cannot be added any more: too few tell the other secret.
    late = [round_.answer(name, names, given) for name in names[1:3]]
    with pytest.raises(MaskError, match="2 of 4 sites have told a share of alice-1, it takes 3"):
        opened(round_.roster, names, names, total, given, [early, *late])
    told = {name: set(answer.shares.values()) for name, answer in zip(names, [early, *late], strict=False)}
    assert all(len(shares) == 4 for shares in told.values())


def test_a_vector_is_masked_once_and_never_after_the_answer(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:4]
    round_ = Round(keys, names)
    given = round_.shares(names)
    site, first = round_.sites["alice-1"].mask(vector(1), names)
    assert site.mask(vector(1), names) == (site, first)
    with pytest.raises(MaskError, match="another vector is masked in round 1 already"):
        site.mask(vector(2), names)
    with pytest.raises(MaskError, match="other partners of round 1 came than before"):
        site.mask(vector(1), names[:3])
    closing, _ = round_.sites["alice-4"].answer(names[:3], given, names)  # it was told that its vector has not come
    with pytest.raises(MaskError, match="this vector comes too late"):
        closing.mask(vector(1), names)


@pytest.mark.parametrize(
    ("partners", "said"),
    [
        (NAMES[:2], "partners of round 1 are 2 sites, of 4 it takes 3"),
        (("alice-2", "alice-3", "alice-4"), "this site, alice-1, is not among the partners"),
        (("alice-2", "alice-1", "alice-3"), "not of its sites, in order"),
        ((*NAMES[:3], "mallory"), "not of its sites, in order"),
    ],
)
def test_partners_are_enough_and_of_the_roster(
    keys: dict[str, PrivateKey], partners: tuple[str, ...], said: str
) -> None:
    with pytest.raises(MaskError, match=said):
        Round(keys, NAMES[:4]).sites["alice-1"].mask(vector(0), partners)


def test_no_sum_of_too_few_is_opened(keys: dict[str, PrivateKey]) -> None:
    round_ = Round(keys, NAMES)
    given = round_.shares(NAMES)
    with pytest.raises(MaskError, match="arrived of round 1 are 1 sites, of 5 it takes 4"):
        round_.sites["alice-1"].answer(("alice-2",), given, NAMES)
    with pytest.raises(MaskError, match="not of its sites"):
        round_.sites["alice-1"].mask(vector(0), NAMES[:4])[0].answer(NAMES[1:], given, NAMES)


def test_nothing_is_answered_before_enough_have_signed_the_same(keys: dict[str, PrivateKey]) -> None:
    """A coordinator tells alice-2 of other partners than alice-3 and alice-4; alice-1 is hers."""
    round_ = Round(keys, NAMES[:4])
    names, given = NAMES[:4], round_.shares(NAMES[:4])
    public = {name: keys[name].public for name in names}
    two, _ = round_.sites["alice-2"].mask(vector(0), names[:3])  # as if alice-4 had given no shares
    for name in ("alice-1", "alice-3", "alice-4"):
        round_.sites[name], _ = round_.sites[name].mask(vector(0), names)
    came = ("alice-1", "alice-2", "alice-4")
    with pytest.raises(MaskError, match="arrived of round 1 are not of its sites"):
        two.confirm(came, keys["alice-2"])
    agreed = {name: round_.sites[name].confirm(came, keys[name])[1] for name in ("alice-1", "alice-4")}
    agreed["alice-2"] = agreed["alice-1"]
    signed = signing.signers(to_agree(round_.roster, names, came), agreed, public)
    assert signed == {"alice-1", "alice-4"}
    for name in ("alice-3", "alice-4"):
        with pytest.raises(MaskError, match="2 sites have signed who came in round 1 as this site was"):
            round_.sites[name].answer(came, given, signed)
    with pytest.raises(MaskError, match="cannot say whose are"):
        round_.sites["alice-3"].confirm(came, keys["alice-3"])
    # Whoever has signed answers about nothing else.
    four, _ = round_.sites["alice-4"].confirm(came, keys["alice-4"])
    with pytest.raises(MaskError, match="has signed already in round 1 that others came"):
        four.confirm(names, keys["alice-4"])
    with pytest.raises(MaskError, match="has answered already in round 1, about other sites"):
        four.answer(names, given, names)


def test_keys_with_which_every_exchange_gives_the_same_are_none(keys: dict[str, PrivateKey]) -> None:
    advert = MaskedRound.begin(FEDERATION, 1, "alice-1").advert(keys["alice-1"])
    check_keys(advert)
    for bad in (dataclasses.replace(advert, sealing="00" * 32), dataclasses.replace(advert, masking="00" * 32)):
        with pytest.raises(MaskError, match="a key of alice-1 for masks is none"):
            check_keys(bad)


def test_before_a_roster_nothing_is_said() -> None:
    site = MaskedRound.begin(FEDERATION, 1, "alice-1")
    for act in (site.shares, lambda: site.mask(vector(0), NAMES), lambda: site.answer(NAMES, {}, NAMES)):
        with pytest.raises(MaskError, match="agreed to no roster"):
            act()


# sites that lie


def test_a_share_that_was_changed_is_found_and_its_teller_named(keys: dict[str, PrivateKey]) -> None:
    names = NAMES[:4]
    round_ = Round(keys, names)
    given = round_.shares(names)
    total = round_.masked(names, names)
    answers = [round_.answer(name, names, given) for name in names]
    for lie in ("00" * 66, "no", ""):
        answers[2] = dataclasses.replace(answers[2], shares={**answers[2].shares, "alice-1": lie})
        found = opened(round_.roster, names, names, total, given, answers)
        assert (found.vector, found.liars) == (round_.wanted(names), ("alice-3",))
    with pytest.raises(MaskError, match="2 of 4 sites have told a share of alice-1"):
        opened(round_.roster, names, names, total, given, answers[1:])


def test_shares_of_something_else_are_found(keys: dict[str, PrivateKey]) -> None:
    """A site that gives shares of other secrets than its own; only the sum is lost, and it is named."""
    names = NAMES[:4]
    round_ = Round(keys, names)
    other = dataclasses.replace(round_.sites["alice-2"], secret=b"x" * 32)
    false = other.shares()
    given = {**round_.shares(names), "alice-2": false}
    with pytest.raises(MaskError, match="the shares of alice-2 are not sealed for this site by it"):
        round_.sites["alice-1"].answer(names, given, names)
    # Sealed well, but marked as others.
    mine = round_.sites["alice-2"].shares()
    given["alice-2"] = dataclasses.replace(mine, marks=dict.fromkeys(names, ("0" * 64, "0" * 64)))
    with pytest.raises(MaskError, match="not those that it marked"):
        round_.sites["alice-1"].answer(names, given, names)
    # Shares that fit together, of a seed that is not the one it masked with.
    given["alice-2"] = dataclasses.replace(mine, seed="0" * 64)
    total = round_.masked(names, names)
    answers = [round_.answer(name, names, given) for name in names]
    with pytest.raises(MaskError, match="alice-2 had given shares of another seed"):
        opened(round_.roster, names, names, total, given, answers)


def test_shares_are_for_each_site_of_the_roster(keys: dict[str, PrivateKey]) -> None:
    round_ = Round(keys, NAMES[:4])
    shares = round_.sites["alice-1"].shares()
    assert bad_shares(round_.roster, shares, "alice-1") == ""
    assert "of another roster" in bad_shares(Round(keys, NAMES[:3]).roster, shares, "alice-1")
    less = dataclasses.replace(shares, sealed=dict(list(shares.sealed.items())[1:]))
    assert "not for each site" in bad_shares(round_.roster, less, "alice-1")
    with pytest.raises(MaskError, match="there are no shares of alice-1 for this site"):
        round_.sites["alice-2"].answer(
            NAMES[:4], {**round_.shares(NAMES[1:4]), "alice-1": dataclasses.replace(shares, sealed={})}, NAMES
        )


def test_who_answers_cannot_open_a_seed_alone(keys: dict[str, PrivateKey]) -> None:
    """What lies on the board has no secret, and no fewer than the threshold of sites can make one of it."""
    names = NAMES[:4]
    round_ = Round(keys, names)
    given = round_.shares(names)
    answers = [round_.answer(name, names, given) for name in names[:2]]
    told = {round_.roster.place(one.site): bytes.fromhex(one.shares["alice-4"]) for one in answers}
    with pytest.raises(ValueError, match="not of one secret"):
        shamir.join(told)
    board = repr(given) + repr(answers)
    for name in names:
        site = round_.sites[name]
        for secret in (site.secret, site._seed(), own_mask(site._seed())):
            assert secret.hex() not in board and repr(secret) not in board


# numbers


def test_the_mean_under_masks_is_that_of_fedavg(keys: dict[str, PrivateKey]) -> None:
    random = np.random.default_rng(3)
    steps, counts = random.normal(0, 0.2, (5, 400)).clip(-1, 1), [1200, 351, 64, 4000, 900]
    fixed = Fixed(sites=5, reach=1.0, most=4096)
    round_ = Round(keys, NAMES)
    round_.vectors = {name: fixed.write(step, count) for name, step, count in zip(NAMES, steps, counts, strict=True)}
    arrived, partners = NAMES[:4], NAMES
    given = round_.shares(partners)
    total = bytes(4 * 401)
    for name in arrived:
        round_.sites[name], one = round_.sites[name].mask(round_.vectors[name], partners)
        total = words.added(total, one)
    answers = [round_.answer(name, arrived, given) for name in NAMES if name != "alice-2"]
    mean, examples = fixed.read(opened(round_.roster, partners, arrived, total, given, answers).vector, len(arrived))
    assert examples == sum(counts[:4])
    wanted = np.average(steps[:4], axis=0, weights=counts[:4])
    assert np.abs(mean - wanted).max() < 1e-8


@pytest.mark.parametrize(
    ("steps", "examples", "said"),
    [
        ([0.1, 1.5], 10, "1 weights have gone further than 1: 1.5"),
        ([0.1, float("nan")], 10, "1 weights have gone further"),
        ([0.1], 0, "0 examples, a sum under masks takes 1 to 4,096"),
        ([0.1], 4097, "4,097 examples"),
    ],
)
def test_nothing_is_cut_off(steps: list[float], examples: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Fixed(3, 1.0, 4096).write(np.array(steps), examples)


def test_extremes_of_all_sites_do_not_run_over() -> None:
    fixed = Fixed(7, 2.0, 100)
    for reach in (2.0, -2.0):
        total = functools.reduce(words.added, [fixed.write(np.full(3, reach), 100)] * 7)
        mean, examples = fixed.read(total, 7)
        assert examples == 700 and np.abs(mean - reach).max() < 1e-7
    with pytest.raises(ValueError, match="examples of 7 sites cannot be"):
        fixed.read(bytes(16), 7)


def test_bob_needs_no_numpy_for_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; import fedssh.masks.site, fedssh.masks.words, fedssh.masks.total;"
        "print([name for name in ('numpy', 'keras', 'tensorflow') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
