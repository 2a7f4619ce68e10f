"""What the three commands share: options from settings, one-line errors, events, tables, clean stops."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from fedssh.errors import AgentError
from fedssh.forms import printable as printable  # for who prints
from fedssh.settings import check_environment, load, variables

_known: dict[str, set[str]] = {}
_SHARED = ("LOG_FORMAT", "DEBUG")
_as_told: dict[str, str] = {}


def settings_options(cls: type[Any], prefix: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add one option per field of a settings dataclass to a command, which then receives `settings`."""
    _known.setdefault(prefix, {f"{prefix.upper()}_{name}" for name in _SHARED}).update(variables(cls, prefix))

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        names = [field.name for field in dataclasses.fields(cls)]

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            flags = {name: given.pop(name) for name in names}
            check_environment(prefix, _known[prefix])
            return function(settings=load(cls, prefix, flags), **given)

        wrapped: Callable[..., Any] = command
        for field in reversed(dataclasses.fields(cls)):
            wrapped = _option(field)(wrapped)
        return wrapped

    return decorate


def _option(field: dataclasses.Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + field.name.replace("_", "-")
    help = field.metadata["help"]
    if field.type in ("bool", bool):
        help = f"{help}  [default: {'yes' if field.default else 'no'}]"
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=help)
    if field.default is dataclasses.MISSING:
        help = f"{help}  [required]"
    elif field.default is not None:
        help = f"{help}  [default: {field.default}]"
    form = field.metadata["form"]
    metavar = field.metadata["metavar"] or (form and "|".join(form.choices)) or None
    return click.option(flag, field.name, default=None, metavar=metavar, help=help)


def entry(group: click.Group, name: str) -> None:
    """Run an agent's command line and exit: one line per error, a traceback only with `--debug`."""
    debug, output = "--debug" in sys.argv[1:], sys.stdout
    try:
        group.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _complain(name, error.format_message(), _usage_hint(error))
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SystemExit:
        if sys.stdout is output:
            raise
        # Click exchanges it, and ends with code 1, when the reader has gone: `charity best | head`.
        _forget_output()
        sys.exit(0)
    except BrokenPipeError:  # the same, told by one of ours
        _forget_output()
        sys.exit(0)
    except AgentError as error:
        if debug:
            raise
        _complain(name, str(error), error.hint)
        sys.exit(error.exit_code)
    except (OSError, ValueError) as error:
        if debug:
            raise
        _complain(name, str(error), None)
        sys.exit(1)


def _forget_output() -> None:
    """Let what is still to be printed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(name: str, message: str, hint: str | None) -> None:
    text = message.rstrip(".").replace("\n", " ")
    if text[1:2].islower():  # a sentence of a library, not a name such as BOB_WAIT
        text = text[:1].lower() + text[1:]
    print(f"{name}: error: {printable(text)}", file=sys.stderr)
    if hint:
        print(f"{name}: hint: {printable(hint)}", file=sys.stderr)


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context else None


def new_group(name: str, help: str) -> click.Group:
    """The root of an agent's command line, with `--debug`, `--log-format` and `--version`."""

    @click.group(
        name=name, help=help, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]}
    )
    @click.option("--debug", is_flag=True, envvar=f"{name.upper()}_DEBUG", help="Show tracebacks and libraries' words.")
    @click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        envvar=f"{name.upper()}_LOG_FORMAT",
        help="Events as lines for people or as JSON lines.  [default: text]",
    )
    @click.version_option(package_name="fedssh")
    def group(debug: bool, log_format: str) -> None:
        log_events(name, log_format, debug)

    return group


def log_events(agent: str, log_format: str = "text", debug: bool = False) -> logging.Logger:
    """Send an agent's events to standard error, as text or as JSON lines; with `debug` also what libraries say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(agent) if log_format == "json" else _TextFormatter(f"{agent}: %(message)s"))
    for name in (agent, "models"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False
    _as_told.update({f"{agent.upper()}_LOG_FORMAT": log_format, f"{agent.upper()}_DEBUG": "1" if debug else "0"})
    return logging.getLogger(agent)


def logging_environment() -> dict[str, str]:
    """The variables with which a child process of this agent logs in the same way."""
    return dict(_as_told)


def tell(logger: logging.Logger, event: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
    """Say what happened: `text` for people; event, text and fields for programs."""
    logger.log(level, "%s", text, extra={"event": event, "fields": fields})


class _TextFormatter(logging.Formatter):
    """One line per event; what a peer said cannot act on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.exc_info else printable(text)


class _JsonFormatter(logging.Formatter):
    def __init__(self, agent: str) -> None:
        super().__init__()
        self._agent = agent

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        event = {
            "time": time,
            "agent": self._agent,
            "event": getattr(record, "event", "message"),
            "text": record.getMessage(),
        }
        return _ascii(json.dumps({**event, **getattr(record, "fields", {})}, default=str))


def stop_event() -> threading.Event:
    """An event that SIGTERM or the first Ctrl-C sets; a second Ctrl-C ends the process at once."""
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        # Not in this thread: where the signal came at the edge of a `wait`, it holds the lock that `set` waits for.
        threading.Thread(target=stop.set, daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    return stop


def _ascii(text: str) -> str:
    """JSON in ASCII without the one letter of it that a terminal acts on."""
    return text.replace("\x7f", "\\u007f")


def print_json(value: Any) -> None:
    """Print a value as indented ASCII JSON."""
    print(_ascii(json.dumps(value, indent=2, sort_keys=True, default=str)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned plain text; an empty table prints its heading only. Nothing in it can act on a terminal."""
    cells = [[printable(str(cell)) if cell is not None else "–" for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def path_argument(exists: bool = True) -> click.Path:
    """A click type for a file named on the command line."""
    return click.Path(exists=exists, path_type=Path)
