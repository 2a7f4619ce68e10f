"""The forced command: everything a site or an auditor can do over SSH, and nothing else.

The door starts it for every channel, with the client's words in SSH_ORIGINAL_COMMAND:

    scp -t .                                site           takes one bundle into this site's inbox
    verdict [--wait SECONDS] ID             site           prints the signed verdict
    release [--after SEQ] [--wait SECONDS]  site           streams the newest release, if it is newer than SEQ
    channel                                 site           bytes to the judge and back, while a turn is on
    history, show, diff, best, tags,        site, auditor  read the ledger; see agents/history/verbs.py
    nodes, status, verify, help

The words pick a verb, a number or an identifier; no path or file name of the client's is ever used. The site
and its role come from the line of authorized_keys that let the client in.

Exit codes: 0 done, 1 the door failed, 2 not a verb, 3 refused, 4 nothing yet or try again later.

It starts in about 12 ms: it runs as `python -I -S -c "…; main()"`, because a script named on the command line is
compiled anew each time, and imports nothing large before a verb needs it. `json` alone would double that,
`argparse`, `dataclasses` or `pathlib` cost more still, so paths are strings here.

    command.py   which verb
    channel.py   who asks, and the answer's way back
    upload.py    scp -t
    fetch.py     verdict, release
    relay.py     channel
    show.py      the views of the ledger, as text or JSON
    follow.py    history --follow
"""

from __future__ import annotations

import os
import sys

from fedssh.door.channel import (
    Client,
    Revoked,
    Stop,
    answer,
    end_connection,
    printable,
    refused,
    remember_connection,
    say,
    split,
    take_slot,
)

FOR_SITES = ("scp", "verdict", "release", "layers", "channel")


def main() -> None:
    """Serve one channel and end the process."""
    try:
        code = serve(Client(sys.argv[1:]), os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    except (BrokenPipeError, ConnectionResetError):
        code = 4  # the client has gone
    except OSError as error:
        code = 1
        say(f"the door failed: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one line
        code = 1
        say(f"the door failed: {type(error).__name__}")
    os._exit(code)  # nothing is buffered, and the interpreter's own tidying costs milliseconds


def serve(client: Client, line: str) -> int:
    """Do what one command line asks; returns the exit code."""
    verb = ""
    try:
        words = split(line)
        verb = words[0] if words else ""
        remember_connection(client)
        client.check_enrolled()
        take_slot(client)
        return dispatch(client, verb, words[1:])
    except Stop as caught:
        stop = caught
    except Revoked:
        end_connection()
        stop = refused(f"{client.site} is not enrolled with this key any more")
    if verb == "scp" and not client.receiving:
        answer(b"\1" + printable(str(stop)).encode() + b"\n")  # the client's own scp shows it
    else:
        say(str(stop))
    return stop.code


def dispatch(client: Client, verb: str, words: list[str]) -> int:
    """Run a verb."""
    if verb in ("--help", "-h"):
        verb = "help"
    if verb in FOR_SITES:
        if client.role != "site":
            raise refused(f"{verb} is for sites, this key is for reading")
        if verb == "scp":
            from fedssh.door.upload import receive

            return receive(client, words)
        if verb == "channel":
            from fedssh.door.relay import relay

            return relay(client, words)
        from fedssh.door.fetch import layers, release, verdict

        return {"verdict": verdict, "release": release, "layers": layers}[verb](client, words)
    from fedssh.history.verbs import VERBS  # all others read

    if verb in VERBS:
        from fedssh.door.show import read

        return read(client, verb, words)
    problem = f"{verb[:40]!r} is not a verb" if verb else "there is no shell here"
    raise Stop(2, f"{problem}; the verbs are scp -t, verdict, release, channel, {', '.join(VERBS)}")
