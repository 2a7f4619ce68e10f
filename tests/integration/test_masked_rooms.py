"""Sums under masks in real rooms: what comes out, what is in no file, who is missing, and who is not known."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.harness.masks import MaskedRooms, furthest, mean_of, parts, pieces, words_of
from tests.harness.waiting import last_words, until


def test_the_mean_comes_out_and_no_update_is_in_any_file(tmp_path: Path) -> None:
    with MaskedRooms(tmp_path, sites=3, sessions=2, epochs=2) as rooms:
        rooms.begin()
        with rooms.searched() as files:
            rooms.run()
        closed = rooms.happened("round-accepted", "round-refused")
        assert [record["event"] for record in closed] == ["round-accepted"] * 2
        examples = {name: rooms.images_of(name) for name in rooms.names}
        start = rooms.records()[0]["model"]["sha256"]
        for number, record in enumerate(closed, 1):
            before, update = rooms.tensors(start), rooms.trained(start, dict.fromkeys(rooms.names, number))
            assert record["examples"] == sum(examples.values())
            assert [part["examples"] for part in record["updates"]] == [0, 0, 0]
            assert furthest(rooms.tensors(record["model"]["sha256"]), mean_of(update, examples)) < 1e-7
            known = b"".join(array.tobytes() for array in before.values())  # some weights do not move
            plain = [piece for one in update.values() for piece in pieces(one) if piece not in known]
            plain += [part for name in update for part in parts(words_of(update[name], before, 3, examples[name]))]
            assert len(plain) > 300
            assert len(files) > 50
            for data, name in {data: name for name, data in files.items()}.items():
                assert not [piece for piece in plain if piece in data], name
            start = record["model"]["sha256"]
        assert {record["claim"] for record in rooms.happened("counted")} == {None}
        assert {record["examples"] for record in rooms.happened("counted", "report")} == {0}
        rooms.command("charity", "verify", rooms.state)


def test_who_leaves_after_its_shares_is_taken_out_of_the_sum(tmp_path: Path) -> None:
    with MaskedRooms(tmp_path, "deadline=12,cap=64", sites=4, sessions=2, epochs=1) as rooms:
        rooms.begin()
        rooms.start_coordinator()
        for name in rooms.names:
            rooms.start_bob(name)
        for name in rooms.names[:3]:
            rooms.start_alice(name)
        rooms.until(lambda: rooms.happened("round-partners"))
        rooms.find("bob", "alice-4").signal(signal.SIGSTOP)  # it has given shares, and is gone
        rooms.until(lambda: rooms.happened("round-accepted", "round-refused"))
        [closed] = rooms.happened("round-accepted", "round-refused")
        assert closed["event"] == "round-accepted", closed["reason"]
        assert closed["missing"] == ["alice-4"]
        [partners], [closing] = rooms.happened("round-partners"), rooms.happened("round-closing")
        assert (len(partners["sites"]), len(closing["sites"])) == (4, 3)
        start, three = rooms.records()[0]["model"]["sha256"], rooms.names[:3]
        update = rooms.trained(start, dict.fromkeys(three, 1))
        wanted = mean_of(update, {name: rooms.images_of(name) for name in three})
        assert furthest(rooms.tensors(closed["model"]["sha256"]), wanted) < 1e-7
        rooms.find("bob", "alice-4").signal(signal.SIGCONT)
        rooms.command("charity", "verify", rooms.state)


def test_a_bob_who_is_shown_a_stranger_ends_and_says_why(tmp_path: Path) -> None:
    with MaskedRooms(tmp_path, sites=3, sessions=1, epochs=1) as rooms:
        rooms.begin()
        state = f"--state={rooms.site('alice-1') / 'bob'}"
        rooms.command("bob", "peers", "remove", "alice-3", state)
        rooms.start_coordinator()
        for name in rooms.names:
            rooms.start_bob(name)
        bob = rooms.find("bob", "alice-1")
        until(lambda: bob.code() is not None, 60, lambda: last_words(rooms.logs))
        assert bob.code() == 3
        assert "the roster of round 1 has alice-3, who is no peer of this site" in " ".join(
            rooms.said("bob", "alice-1")[-2:]
        )
        assert "alice-1" not in {record["site"] for record in rooms.happened("masks") if "shares" in record}
        key = rooms.site("alice-3") / "bob" / "site_key.pub"  # their people have given it to ours
        rooms.command("bob", "peers", "add", "alice-3", str(key), state)
        known = json.loads(rooms.command("bob", "peers", "list", "--json", state))
        assert [one["name"] for one in known] == ["alice-2", "alice-3"]
        rooms.agents.remove(bob)
        rooms.start_bob("alice-1")
        rooms.until(lambda: rooms.happened("round-partners"))
        assert rooms.happened("round-partners")[0]["sites"] == rooms.names
