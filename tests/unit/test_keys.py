"""Making a key: whole, once, and finished after a kill."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from fedssh import files
from fedssh.errors import SettingsError
from fedssh.keys import PrivateKey, load_private, load_public, make_key
from tests.harness.killed import killed_at


def test_killed_anywhere_the_next_call_finishes(
    tmp_path: Path, keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keys["alice-1"].rsa  # so that each of the many calls does not cost a new key
    monkeypatch.setattr("fedssh.keys.rsa.generate_private_key", lambda **options: made)

    step, alive = 0, False
    while not alive:
        step += 1
        path = tmp_path / str(step) / "site_key"
        alive = not killed_at(step, partial(make_key, path, "site"))
        if path.exists() and path.with_name("site_key.pub").exists():  # both were there when it was killed
            key = load_private(path)
        else:
            key = make_key(path, "site")
        assert load_public(path.with_name("site_key.pub")) == key.public == load_private(path).public
        assert path.stat().st_mode & 0o777 == 0o600
    assert step > 6, "hardly any step was counted: are the names still those that make_key uses?"


def test_keys_are_never_overwritten(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    path = tmp_path / "site_key"
    public = path.with_name("site_key.pub")
    files.write_whole(public, b"somebody's")
    with pytest.raises(SettingsError, match=r"site_key\.pub exists, and keys are never overwritten"):
        make_key(path, "site")
    files.write_whole(path, keys["alice-1"].pem)
    with pytest.raises(SettingsError, match="site_key exists, and keys are never overwritten"):
        make_key(path, "site")
    assert path.read_bytes() == keys["alice-1"].pem and public.read_bytes() == b"somebody's"
    public.unlink()
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="site_key exists"):
        make_key(path, "site")
    assert not (tmp_path / "nowhere").exists() and os.listdir(tmp_path) == ["site_key"]


def test_a_key_that_is_made_at_the_same_moment_stays(
    tmp_path: Path, keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, slow = tmp_path / "site_key", keys["alice-2"].rsa

    def somebody_is_faster(**options: object) -> object:
        files.write_whole(path, keys["alice-1"].pem)
        return slow

    monkeypatch.setattr("fedssh.keys.rsa.generate_private_key", somebody_is_faster)
    with pytest.raises(SettingsError, match="never overwritten"):
        make_key(path, "site")
    assert load_private(path).public == keys["alice-1"].public
    assert os.listdir(tmp_path) == ["site_key"]  # and the next call makes its public half
    assert make_key(path, "site").public == keys["alice-1"].public


def test_of_many_at_once_one_makes_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, start = tmp_path / "site_key", threading.Barrier(4)
    generate = rsa.generate_private_key

    def together(**options: Any) -> object:
        key = generate(**options)
        start.wait(60)
        return key

    monkeypatch.setattr("fedssh.keys.rsa.generate_private_key", together)
    made, refused = [], []

    def work() -> None:
        try:
            made.append(make_key(path, "site").public)
        except SettingsError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(refused) == 3
    assert load_private(path).public == load_public(path.with_name("site_key.pub")) == made[0]
