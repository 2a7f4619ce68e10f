"""An age header with many stanzas: how long the coordinator is busy with it, and an honest site waits behind it.

    python tests/attacks/age_stanzas.py [--old CHECKOUT] [--limit SECONDS]

Any site can sign such a bundle. age's library reads the stanzas before anew with every further one, so the time is
quadratic: the first table shows it alone. The second lays a hostile bundle into alice-1's inbox and an honest one into
alice-2's, and lets the coordinator work until alice-2 has her verdict: with the agents of this checkout and, with
--old, of another.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.attacks.victim import ROOT, Victim, attack

SIZES = {"10 kB": 10_000, "106 kB": 106_000, "1 MiB": (1 << 20) - 4096}  # what an earlier version let pass as 1 MiB
STANZA = b"-> x\n\n"


def stanzas(size: int) -> bytes:
    """So many bytes of stanzas for nobody."""
    return STANZA * (size // len(STANZA))


def age_alone(size: int) -> None:
    """Let age open a file with such a header."""
    import pyrage

    from fedssh.keys import make_key

    with tempfile.TemporaryDirectory() as folder:
        key = make_key(Path(folder) / "key", "key")
    body = pyrage.encrypt(b"x" * 1000, [pyrage.ssh.Recipient.from_str(key.public.line)])
    start = body.index(b"-> ")
    try:
        sealed = io.BytesIO(body[:start] + stanzas(size) + body[start:])
        pyrage.decrypt_io(sealed, io.BytesIO(), [pyrage.ssh.Identity.from_buffer(key.pem)])
    except pyrage.DecryptError:
        pass


def ours(size: int) -> str:
    """Read the same header as `bundle.open_bundle` does."""
    from fedssh import age
    from fedssh.errors import BundleError

    file = io.BytesIO(b"age-encryption.org/v1\n" + stanzas(size))
    start = time.perf_counter()
    try:
        age.read_header(file, 1)
    except BundleError:
        return f"{1000 * (time.perf_counter() - start):.2f} ms"
    return "taken"


def timed(size: int, limit: float) -> str:
    """How long age took in a process of its own, which is ended at the limit."""
    process = get_context("fork").Process(target=age_alone, args=(size,))
    start = time.perf_counter()
    process.start()
    process.join(limit)
    seconds = time.perf_counter() - start
    if process.is_alive():
        process.kill()
        return f"more than {limit:.0f} s"
    return f"{seconds:.2f} s"


def waited(tree: Path, size: int, limit: float) -> str:
    """How long the honest site waited."""
    with tempfile.TemporaryDirectory() as folder:
        said, ended = attack(__file__, tree, Path(folder) / "x", ["--size", str(size)], limit)
    if "judged" in said:
        return f"{said['judged']:.2f} s"
    return said.get("error") or f"more than {limit:.0f} s; SIGTERM " + (
        "without effect for 10 s" if said["killed"] else f"took {ended:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="CHECKOUT", help="another checkout to attack, too")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="when to give up (60)")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        victim = Victim(options.folder)
        victim.submit("alice-1", stanzas(options.size))
        victim.serve("alice-2", victim.submit("alice-2"))
        return
    print(f"{'header':10}{'opened by age alone':28}{'looked at here':28}")
    for name, size in SIZES.items():
        print(f"{name:10}{timed(size, options.limit):28}{ours(size):28}", flush=True)
    trees = {"this checkout": ROOT} | ({"the other": options.old.resolve()} if options.old else {})
    print(f"\nan honest site waits behind one such bundle:\n{'header':10}" + "".join(f"{name:28}" for name in trees))
    for name, size in SIZES.items():
        cells = "".join(f"{waited(tree, size, options.limit):28}" for tree in trees.values())
        print(f"{name:10}{cells}", flush=True)


if __name__ == "__main__":
    main()
