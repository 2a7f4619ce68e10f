"""Sockets in shared folders: at long paths, after a killed listener, and where something else stands."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fedssh.channel.sockets import NAME, connect, forget, listen
from fedssh.errors import UnreachableError, UntrustedError


def test_two_rooms_meet_at_a_path_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with listen(folder) as server, connect(folder) as client:
        there, _ = server.accept()
        with there:
            client.sendall(b"hello")
            assert there.recv(9) == b"hello"
        assert client.gettimeout() is None
    assert stat.S_IMODE(os.stat(folder / NAME).st_mode) == 0o660


def test_a_killed_listeners_socket_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path).close()  # what it leaves
    with pytest.raises(UnreachableError, match=f"nobody listens at .*{NAME}"):
        connect(tmp_path)
    with listen(tmp_path), connect(tmp_path):
        pass
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
    forget(tmp_path)
    with pytest.raises(UnreachableError):
        connect(tmp_path)


@pytest.mark.parametrize("what", ["file", "link", "link to a socket", "folder"])
def test_what_is_no_socket_is_refused_and_stays(tmp_path: Path, what: str) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    with listen(other) as elsewhere:
        path = folder / NAME
        if what == "file":
            path.write_text("mine")
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to(other / NAME if what == "link to a socket" else tmp_path / "nowhere")
        for do in (listen, connect):
            with pytest.raises(UntrustedError, match="expected a socket"):
                do(folder)
        forget(folder)
        assert os.path.lexists(path)
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_listener_that_lets_nobody_in_is_one_that_is_away(tmp_path: Path) -> None:
    with listen(tmp_path) as server:
        server.listen(0)
        with connect(tmp_path), pytest.raises(UnreachableError, match="nobody listens"):
            connect(tmp_path)


def test_where_there_is_no_folder_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listen(tmp_path / "nowhere")
    with pytest.raises(UnreachableError):
        connect(tmp_path / "nowhere")


def test_without_proc_the_path_itself_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedssh.channel.sockets._HANDLES", tmp_path / "no-proc")
    monkeypatch.chdir(tmp_path)
    with listen(Path()) as server, connect(Path()):
        assert server.getsockname() == NAME and isinstance(server, socket.socket)
