"""The images of the rooms: built at home from this checkout, and the way of their missing layers to a machine.

A registry of Debian's own package, in a container that listens on 127.0.0.1 only, holds what machines fetch through
their `ssh` connection: a layer that a machine has does not travel again. An image is called on a machine by the hash
of its contents, so that one glance says whether it is there. `--ship tar` sends whole images instead.
"""

from __future__ import annotations

import collections
import http.client
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedssh.commands import printable
from fedssh.errors import AgentError, SettingsError
from fleet.ssh import Connection, StepError
from fleet.tunnel import Tunnel

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {
    "charity": ("Dockerfile.charity", "charity", ()),
    "door": ("Dockerfile.charity", "door", ()),
    "alice": ("Dockerfile.alice", "alice", ()),
    "alice-gpu": ("Dockerfile.alice", "alice", ("--build-arg", "LOCK=alice-gpu.txt")),
    "bob": ("Dockerfile.alice", "bob", ()),
}
REGISTRY_PORT = 5035  # the same every time if it is free, so that the engine remembers what it has pushed there
_REGISTRY = """\
FROM debian:bookworm-slim
RUN apt-get update \\
 && apt-get install -y --no-install-recommends docker-registry \\
 && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN printf '%s\\n' 'version: 0.1' 'storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}' \\
    'http: {addr: ":5000"}' > /etc/docker/registry/config.yml
# It ends when its input does: also when whoever started it is killed.
ENTRYPOINT ["sh", "-c", "docker-registry serve /etc/docker/registry/config.yml & echo $HOSTNAME; read end; kill $!"]
"""
Say = Callable[[str], None]
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: Of the room.
        source: Where machines fetch it: a reference with a digest; None where it was built here.
        called: Its name on a machine, which tells its contents.
        size: Its layers in bytes; 0 where that is not known.
        identity: By which the engine here knows it, whatever is built under its name meanwhile; "" as for `source`.
    """

    name: str
    source: str | None
    called: str
    size: int
    identity: str = ""


def wanted(names: Iterable[str], given: Mapping[str, str] | None, say: Say) -> dict[str, Image]:
    """The images of these names: from the inventory's table, or built from this checkout.

    Raises:
        SettingsError: There is no Docker engine here, a build fails, or the table lacks one.
    """
    chosen = sorted(set(names))
    if given is not None:
        missing = [name for name in chosen if name not in given]
        if missing:
            raise SettingsError(f"[images] has no {' and no '.join(missing)}", "each needs a reference with its digest")
        return {name: _from_registry(name, given[name]) for name in chosen}
    check_engine()
    with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        try:
            return dict(zip(chosen, pool.map(lambda name: _built(name, say), chosen), strict=True))
        except BaseException:
            stop()
            raise


def check_engine() -> None:
    """Raise SettingsError where no Docker engine answers at home."""
    try:
        done = docker("version", "--format", "{{.Server.Version}}")
    except FileNotFoundError:
        raise SettingsError(
            "the command docker is missing here", "images are built at home; or give [images]"
        ) from None
    if done.returncode:
        raise SettingsError(f"no Docker engine answers here: {_last(done.stderr)}", "start it, or give [images]")


def docker(*words: str, give: str | None = None, seconds: float = 3600) -> subprocess.CompletedProcess[str]:
    """Run `docker` at home; `stop` ends it."""
    process = subprocess.Popen(
        ["docker", *words], stdin=subprocess.PIPE if give is not None else subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    _running.add(process)
    try:
        output, said = process.communicate(give, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AgentError(f"docker {words[0]} did not end in {seconds:.0f} s here") from None
    finally:
        _running.discard(process)
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, output, said)


def stop() -> None:
    """End every `docker` that still runs, for a command that was told to stop."""
    for process in list(_running):
        process.kill()


def _built(name: str, say: Say) -> Image:
    file, target, more = TARGETS[name]
    tag = f"fedssh-{name}:deploy"
    start = time.monotonic()
    words = ["build", "--quiet", "--file", str(ROOT / file), "--target", target, *more, "--tag", tag, str(ROOT)]
    with _Patience(lambda: say(f"building {tag}, {time.monotonic() - start:.0f} s so far")):
        done = docker(*words)
    if done.returncode:
        raise SettingsError(
            f"{tag} cannot be built: {_last(done.stderr)}", f"docker build -f {file} --target {target} ."
        )
    found = docker("image", "inspect", "--format", "{{.Id}} {{.Size}}", done.stdout.strip())
    if found.returncode:
        raise SettingsError(f"{tag} was built and is gone: {_last(found.stderr)}", "run it again")
    identity, size = found.stdout.split()
    return Image(name, None, f"fedssh-{name}:{identity.removeprefix('sha256:')[:16]}", int(size), identity)


def _from_registry(name: str, reference: str) -> Image:
    return Image(name, reference, f"fedssh-{name}:{reference.partition('@sha256:')[2][:16]}", 0)


class Shipper:
    """Brings images to machines; several at once.

    Args:
        images: By name.
        owner: For whom the registry at home runs; its container's label.
        tar: Send whole images, for a machine that forwards no ports.
        say: Told what happens.
    """

    def __init__(self, images: Mapping[str, Image], owner: str, tar: bool, say: Say) -> None:
        self._images = images
        self._owner = owner
        self._tar = tar
        self._say = say
        self._registry: _Registry | None = None
        self._tagged: set[str] = set()
        self._lock = threading.Lock()

    def ship(self, connection: Connection, missing: Iterable[str]) -> int:
        """Bring what is missing on a machine there.

        Returns:
            The bytes that travelled through the connection.

        Raises:
            StepError: The machine's disk is full, or it cannot fetch.
        """
        names = list(missing)
        away = [name for name in names if self._images[name].source]
        for name in away:
            image = self._images[name]
            connection.run("pull", str(image.source), image.called)
        home = [name for name in names if name not in away]
        if not home:
            return 0
        return self._send(connection, home) if self._tar else self._through_tunnel(connection, home)

    def close(self) -> None:
        """End the registry, and what still packs for it; images lose the names that they had on their way."""
        stop()
        if self._registry:
            self._registry.close()
        for called in self._tagged:
            docker("rmi", called)

    def _through_tunnel(self, connection: Connection, names: list[str]) -> int:
        with self._lock:
            if self._registry is None:
                self._registry = _Registry(self._owner)
        digests = {name: self._registry.push(self._images[name], self._say) for name in names}
        with Tunnel(self._registry.port) as tunnel:
            port = connection.forward(tunnel.port)
            for name in names:
                text = f"{connection.target.name}: {self._images[name].called}"
                with _Patience(lambda text=text: self._say(f"{text}, {tunnel.sent / 1e6:.1f} MB so far")):  # type: ignore[misc]
                    reference = f"127.0.0.1:{port}/fedssh-{name}@{digests[name]}"
                    connection.run("pull", reference, self._images[name].called, seconds=3600)
            return tunnel.sent + tunnel.received

    def _send(self, connection: Connection, names: list[str]) -> int:
        sent = 0
        for name in names:
            image = self._images[name]
            self._tagged.add(image.called)  # until all machines have it
            docker("tag", image.identity, image.called)
            with subprocess.Popen(
                ["docker", "save", image.called], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as save:
                assert save.stdout
                connection.run("load", image.called, give=save.stdout, seconds=3600)
            if save.returncode:
                raise AgentError(f"docker save {image.called} ended with code {save.returncode} here")
            sent += image.size
        return sent


class _Registry:
    """Debian's docker-registry in a container of its own, on 127.0.0.1 only; its volume stays."""

    def __init__(self, owner: str) -> None:
        made = docker("build", "--quiet", "--tag", "fedssh-registry", "-", give=_REGISTRY)
        if made.returncode:
            raise SettingsError(f"no registry can be made here: {_last(made.stderr)}", "--ship tar does without")
        self._pushed: dict[str, str] = {}
        self._pushing: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        for port in (str(REGISTRY_PORT), ""):
            words = ["docker", "run", "--rm", "--interactive", "--label", f"fedssh.registry={owner}"]
            words += ["--publish", f"127.0.0.1:{port}:5000", "--volume", "fedssh-registry:/var/lib/docker-registry"]
            words += ["--read-only", "--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE"]
            words += ["--security-opt", "no-new-privileges:true", made.stdout.strip()]
            if self._start(words):
                break
        else:
            raise SettingsError(f"the registry does not start: {self._complaint}", "--ship tar does without")
        self.port = int(docker("port", self._container, "5000").stdout.split()[0].rpartition(":")[2])
        self._wait()

    def _start(self, words: list[str]) -> bool:
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
            )
            assert self._process.stdout
            self._container = self._process.stdout.readline().decode().strip()
            if not self._container:
                self._process.communicate()
                said.seek(0)
                self._complaint = _last(said.read().decode(errors="replace"))
        return bool(self._container)

    def _wait(self) -> None:
        """Until it answers; its port is open before that."""
        for _ in range(100):
            line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                line.request("GET", "/v2/")
                if line.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
            finally:
                line.close()
        self.close()
        raise SettingsError("the registry at home does not answer", "--ship tar does without")

    def push(self, image: Image, say: Say) -> str:
        """Give it an image, once; returns the digest under which machines fetch it."""
        with self._pushing[image.name]:
            if image.name not in self._pushed:
                self._pushed[image.name] = self._push(image, say)
            return self._pushed[image.name]

    def _push(self, image: Image, say: Say) -> str:
        reference = f"127.0.0.1:{self.port}/fedssh-{image.name}:{image.called.rpartition(':')[2]}"
        docker("tag", image.identity, reference)
        start = time.monotonic()
        with _Patience(lambda: say(f"packing {image.called}, {time.monotonic() - start:.0f} s so far")):
            done = docker("push", reference)
        docker("rmi", reference)
        found = re.search(r"digest: (sha256:[0-9a-f]{64})", done.stdout)
        if done.returncode or not found:
            raise StepError(f"the registry at home does not take {image.called}: {_last(done.stderr or done.stdout)}")
        return found[1]

    def close(self) -> None:
        """End the container."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            docker("rm", "--force", self._container)
            self._process.kill()
            self._process.communicate()


class _Patience:
    """Says something every ten seconds while something slow is done."""

    def __init__(self, say: Callable[[], object]) -> None:
        self._say = say
        self._done = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._repeat, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _repeat(self) -> None:
        while not self._done.wait(10):
            self._say()


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1][:300]) if lines else "no reason given"
