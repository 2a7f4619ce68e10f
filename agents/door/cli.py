"""`charity door`: the command line of the door."""

from __future__ import annotations

import logging

import click

from fedssh.commands import settings_options, stop_event, tell
from fedssh.door.admission import DoorSettings
from fedssh.settings import describe

EXAMPLE = """\b
Example:
  charity door --state /srv/fedssh --listen 0.0.0.0:2222
"""


@click.command("door", epilog=EXAMPLE)
@settings_options(DoorSettings, "charity")
def door(settings: DoorSettings) -> None:
    """Let sites and auditors in over SSH.

    Runs OpenSSH's sshd, or with --embedded a server of its own. Clients reach one command with the verbs of
    `ssh HOST help`, and no shell, file, port or agent.
    """
    settings.address()
    logger = logging.getLogger("charity")
    tell(logger, "start", f"door: {describe(settings)}")
    stop = stop_event()
    if settings.embedded:
        from fedssh.door.embedded import serve_embedded

        serve_embedded(settings, logger, stop)
    else:
        from fedssh.door.openssh import serve_openssh

        serve_openssh(settings, logger, stop)
