"""The fuzzing of frames, in brief: `python -m tests.attacks.fuzzed_frames` is the long one."""

from __future__ import annotations

from fedssh.keys import PrivateKey
from tests.attacks.fuzzed_frames import Fuzz, run


def test_frames_are_taken_as_they_were_sent_or_refused_at_once(keys: dict[str, PrivateKey]) -> None:
    report = run(8000, Fuzz(7, keys["coordinator"], keys["alice-1"]))
    assert report.bad == []
    for end in ("sealed: taken", "sealed: ChannelError", "record: ChannelError", "offer: taken", "bob: signed"):
        assert report.ends[end], end  # it gets as far as that
