"""The coordinator at work: notice what arrives, settle it, release, pass turns on, stop cleanly.

Everything a crash can interrupt is finished at the next start, before anything new is taken: the outbox is repaired
from the history, bundles in vault/claimed are settled, the newest release is sealed. One loop in one thread does all
the work; watchdog only wakes it, and a slow rescan finds what watchdog missed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedssh import bundle
from fedssh.charity import intake
from fedssh.charity.bench import FileBench
from fedssh.charity.folders import Folders
from fedssh.charity.inbox import Inbox
from fedssh.charity.intake import Taken, Waiting
from fedssh.charity.judge.client import Judge, JudgeDownError
from fedssh.charity.monitor import Monitor
from fedssh.charity.release import release
from fedssh.charity.settle import Settled, record_invalid, settle
from fedssh.charity.throttle import Throttle
from fedssh.charity.turns import Turns
from fedssh.charity.vault import Vault
from fedssh.commands import tell
from fedssh.errors import LedgerError, SettingsError
from fedssh.files import is_part, locked
from fedssh.rules import coordinator
from fedssh.rules.events import Record, TurnPassed
from fedssh.rules.rounds import least_sites, seconds_left
from fedssh.rules.typed import known
from fedssh.weights import count_non_finite

logger = logging.getLogger("charity")


@dataclass
class Coordinator:
    """A vault with its judge.

    Args:
        vault: The history and the folders.
        judge: Scores candidates.
        rescan_seconds: How often to look even if nothing was noticed.
        turn_seconds: How long a site may be silent in its turn; None waits for ever.
        stop: Ends `work` after the bundle at hand.
    """

    vault: Vault
    judge: Judge
    rescan_seconds: float = 5
    turn_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time  # deadlines of rounds are told in the history, so they outlive a restart
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._heard: tuple[str | None, float] = (None, self.clock())
        self._enrolled = self.vault.state.enrolled
        self._short = 0  # of so many sites, as said last
        self._inbox = Inbox(self.vault.folders, self.stop.is_set)
        self._turns = Turns(self.vault, self.judge, self._heard_from)
        self._throttle = Throttle(self.vault, self.now, self._inbox.remove)

    def recover(self) -> None:
        """Finish what the last process left unfinished. Doing it again changes nothing.

        Raises:
            LedgerError: The history is damaged, or the outbox tells another one.
        """
        vault = self.vault
        vault.check()
        vault.repair()
        for path in vault.folders.opened.iterdir():
            path.unlink()
        current = vault.folders.model(vault.state.current.model.sha256)
        if not current.is_file():
            raise LedgerError(f"the current model is not at {current}", "put it back, or `charity rollback` to another")
        count_non_finite(current)  # loads NumPy now, for which the first submission would otherwise wait
        for left in self._unfinished():
            try:
                self._settle(left, give_up=intake.count_try(left) > intake.MAX_TRIES)
            except (OSError, JudgeDownError):
                intake.forget_tries(vault.folders)  # a full disk is not the fault of any bundle
                raise
        intake.forget_tries(vault.folders)
        self._release()
        vault.sweep_models()
        vault.keep_up()

    def work(self) -> None:
        """Settle what waits now, and bring the release up to date; what arrives meanwhile is for the next round.

        Raises:
            OSError, JudgeDownError: Nothing was decided about the bundle at hand; the next round begins with it.
        """
        self._release()  # what other commands changed
        if self.vault.state.enrolled != self._enrolled:  # a command that was killed may not have told the door
            with self.vault.locked() as state:
                self.vault.publish_sites()
                self._enrolled = state.enrolled
        for left in self._unfinished():
            self._settle(left)
        arriving = self._inbox.waiting([member.name for member in self.vault.state.members])
        for waiting in self._throttle.admitted(arriving):
            if self.stop.is_set():
                return
            if taken := self._inbox.take(waiting):
                self._settle(taken)
        self._pass_turn()
        self._conduct()
        if self._turns.look_after():
            self._release()
            self._turns.look_after()
        self.vault.keep_up()

    def seconds_to_wait(self) -> float:
        """How long the loop may sleep."""
        waits = [self.rescan_seconds]
        if self.turn_seconds is not None and self.vault.state.turn is not None:
            waits.append(self._heard[1] + self.turn_seconds - self.clock())
        others = (self._seconds_of_round(), self._throttle.seconds)
        return max(0.05, min([*waits, *(seconds for seconds in others if seconds is not None)]))

    def _seconds_of_round(self) -> float | None:
        """Seconds until the open round has to be looked at though nothing arrives; None when there is no such time."""
        state = self.vault.state
        left = seconds_left(state.policy, state.round, self.now()) if state.round else 0.0
        return left if left > 0 else None

    def _unfinished(self) -> list[Waiting]:
        """The bundles taken before a crash, of everybody ever enrolled."""
        return [one for one in intake.unfinished(self.vault.folders) if self.vault.state.member(one.site)]

    def _settle(self, waiting: Waiting, give_up: bool = False) -> None:
        try:
            with bundle.read(waiting.path) as arrived:
                taken = Taken(waiting.site, arrived)
                if give_up:
                    self._give_up(taken)
                self._settle_readable(taken)
        except PermissionError as error:
            if error.filename != str(waiting.path):
                raise
            self._inbox.let_go(waiting, error)

    def _give_up(self, taken: Taken) -> None:
        """Record that a bundle brought the coordinator down too often."""
        if self.vault.ledger.find(taken.site, taken.arrived.subject) is None:
            record_invalid(self.vault, taken, f"the coordinator failed {intake.MAX_TRIES} times while judging it")

    def _settle_readable(self, taken: Taken) -> None:
        size = taken.arrived.size
        tell(logger, "received", f"received {size:,} bytes from {taken.site}", site=taken.site, bytes=size)
        settled = settle(self.vault, self.judge, taken)
        tell_verdict(settled)
        # Garbage and copies are no sign that the site trains: else it could keep its turn for ever.
        if taken.site == self.vault.state.turn and not settled.replay and settled.record.event != "invalid":
            self._heard = (taken.site, self.clock())
        self._release()
        intake.keep_evidence(taken, settled.record, self.vault.folders)
        intake.done(taken)
        self.judge.start()  # at once, when this submission was its end

    def _release(self) -> None:
        before = self.vault.state
        record = release(self.vault)
        state = self.vault.state
        if state.turn != self._heard[0]:
            self._heard = (state.turn, self.clock())
            if state.turn:
                tell(logger, "turn", f"it is {state.turn}'s turn", site=state.turn)
        if record is not None:
            _tell_release(record)
        if state.finished and not before.finished:
            tell(
                logger,
                "finished",
                "the federation is finished; the current model stays released",
                sequence=state.sequence,
            )

    def _conduct(self) -> None:
        """Open, extend or close rounds until none is due, and release what came of it."""
        done = None
        bench = FileBench(self.judge, self.vault.folders)
        while not self.stop.is_set() and (done_now := coordinator.conduct(self.vault, bench, self.now())):
            _tell_round(done_now.record)
            done = done_now
        if done is not None:
            self._release()
        self._say_short()

    def _say_short(self) -> None:
        """Say, once for each number, that no round opens because too few sites are enrolled."""
        state = self.vault.state
        waits = state.policy.rounds and state.round is None and not state.finished
        have, need = len(state.sites), least_sites(state.policy) if waits else 0
        short, before = max(0, need - have), self._short
        self._short = short
        if short and short != before:
            what = f"{short} more {'site is' if short == 1 else 'sites are'} enrolled"
            tell(logger, "waiting", f"no round opens before {what}: {have} of {need}", sites=have, needed=need)

    def _heard_from(self, site: str) -> None:
        """A site takes its steps."""
        if site == self.vault.state.turn:
            self._heard = (site, self.clock())

    def _pass_turn(self) -> None:
        """Give the turn to the next site when the one that has it was silent for too long."""
        silent = self.clock() - self._heard[1]
        if self.turn_seconds is None or silent < self.turn_seconds:
            return
        with self.vault.locked() as state:
            if state.turn is None or state.turn != self._heard[0]:
                return
            if state.turn_after(state.turn) == state.turn:  # there is nobody else
                self._heard = (state.turn, self.clock())
                return
            reason = f"nothing heard for {self.turn_seconds:g} s"
            self.vault.append(TurnPassed(site=state.turn, reason=reason))
        tell(logger, "turn-passed", f"{state.turn} loses its turn: {reason}", site=state.turn, reason=reason)
        self._release()


def tell_verdict(settled: Settled) -> None:
    """Say what became of a bundle."""
    fields = settled.record.fields
    event, site = fields["event"], fields["site"]
    about: dict[str, Any] = {
        name: fields.get(name) for name in ("site", "submission", "session", "epoch", "claim", "metrics", "reason")
    }
    about["sequence"] = fields["sequence"]
    if settled.replay:
        text = (
            f"{site} sent {fields['submission'] or 'a bundle'} again; the verdict of record {fields['sequence']} stands"
        )
        tell(logger, "replayed", text, **about)
        return
    if event == "report":
        counts = f"{fields['epochs']} epochs, {fields['checkpoints']} checkpoints"
        text = f"{site} ended session {fields['session']}: {counts}"
        if fields.get("passed"):
            text = f"{site} has no new images and lets its turn pass"
        about |= {"epochs": fields["epochs"], "checkpoints": fields["checkpoints"]}
    elif event == "scored":
        score = fields["metrics"]["accuracy"]
        text = f"release {fields['builds_on']} scores accuracy {score:.4f} at {site}, on {fields['examples']:,} images"
    elif event == "masks":
        said = {
            "advert": "keys for the next round",
            "shares": "shares",
            "agreed": "its signature on who came",
            "answer": "the answer",
        }
        what = " and ".join(text for name, text in said.items() if name in fields) or "nothing in time"
        text = f"{site} gave {what} for sums under masks"
    elif event == "invalid":
        text = f"invalid bundle from {site}: {fields['reason']}"
    else:
        text = f"{event} {site} session {fields['session']} epoch {fields['epoch']}: {fields['reason']}"
    level = logging.WARNING if event == "invalid" else logging.INFO
    tell(logger, event, text, level, **about, **settled.timings)


def _tell_round(record: Record) -> None:
    fields = record.fields
    verb = record.event.removeprefix("round-")
    about = {name: fields.get(name) for name in ("round", "sites", "metrics", "missing", "reason")}
    level = logging.WARNING if verb == "extended" else logging.INFO
    text = f"round {fields['round']} {verb}: {fields['reason']}"
    tell(logger, record.event, text, level, sequence=record.sequence, **about)


def _tell_release(record: Record) -> None:
    fields = record.fields
    federation = fields["federation"]
    text = f"released {record.sequence}, the model of record {fields['of']}, to {', '.join(federation['sites'])}"
    about = {name: federation[name] for name in ("turn", "state", "sites")}
    tell(logger, "release", text, sequence=record.sequence, of=fields["of"], metrics=fields["metrics"], **about)


def serve(
    folders: Folders,
    judge: Judge,
    stop: threading.Event,
    *,
    settings: str = "",
    rescan_seconds: float = 5,
    turn_seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
    monitor: Monitor | None = None,
) -> None:
    """Run the coordinator until `stop` is set.

    Args:
        folders: An initialised coordinator's folders.
        judge: Is started here and stopped at the end.
        settings: All settings on one line, told at start.
        check: Called in every round; raises to end the coordinator.
        monitor: Is told what happens, and tells others.

    Raises:
        SettingsError: Another process serves these folders, or the holdout is not the one of genesis.
        LedgerError: The history is missing or damaged.
    """
    if not folders.ledger.is_file():
        raise LedgerError(f"there is no ledger at {folders.ledger}", "is --state right? `charity init` makes a new one")
    with locked(folders.vault / "serve.lock", f"another `charity serve` works on {folders.state}"):
        folders.make()
        coordinator = Coordinator(Vault(folders), judge, rescan_seconds, turn_seconds, stop=stop)
        monitor = monitor or Monitor(None, folders)
        wake = threading.Event()
        threading.Thread(target=_pass_on, args=(stop, wake), daemon=True).start()
        observer = watch(folders, wake)
        with monitor:
            try:
                coordinator.vault.repair()  # the door can show the history while the judge starts
                _check_holdout(judge.start(), coordinator.vault)
                coordinator.recover()
                state = coordinator.vault.state
                text = f"serving {state.genesis.federation} from record {state.sequence}; {settings}".rstrip("; ")
                tell(logger, "start", text, sequence=state.sequence, pid_judge=judge.pid, settings=settings)
                _loop(coordinator, stop, wake, check, monitor)
            finally:
                observer.stop()
                judge.stop()
        tell(logger, "stop", f"stopped after record {coordinator.vault.state.sequence}")


def _pass_on(stop: threading.Event, wake: threading.Event) -> None:
    stop.wait()
    wake.set()


def _loop(
    coordinator: Coordinator,
    stop: threading.Event,
    wake: threading.Event,
    check: Callable[[], None],
    monitor: Monitor,
) -> None:
    while not stop.is_set():
        wake.clear()
        check()
        monitor.came_round()
        try:
            coordinator.work()
        # The disk is full or read-only, or the judge does not start: nothing was decided, everything is still there.
        except (OSError, JudgeDownError) as error:
            monitor.troubled()
            text = f"cannot work: {error}; next try in {coordinator.rescan_seconds:g} s"
            tell(logger, "trouble", text, logging.ERROR, reason=str(error))
            stop.wait(coordinator.rescan_seconds)
            continue
        if stop.is_set():
            return
        monitor.came_round()
        wake.wait(coordinator.seconds_to_wait())


def _check_holdout(ready: dict[str, Any], vault: Vault) -> None:
    wanted = known(vault.state.genesis.holdout, {})
    found = ready.get("holdout", wanted)
    if found != wanted:
        raise SettingsError(
            f"the holdout has {found['examples']} images with hash {found['sha256'][:16]}…, "
            f"this federation began with {wanted['examples']} and {wanted['sha256'][:16]}…",
            "scores on other images cannot be compared: give the first --data again, or begin a new federation",
        )


def watch(folders: Folders, wake: threading.Event) -> Any:
    """Set `wake` when a bundle arrives in an inbox or another command publishes something."""
    from watchdog.events import (
        FileCreatedEvent,
        FileModifiedEvent,
        FileMovedEvent,
        FileSystemEvent,
        FileSystemEventHandler,
    )
    from watchdog.observers import Observer

    class Waker(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if not is_part(Path(str(event.dest_path or event.src_path))):
                wake.set()

    observer = Observer()
    observer.schedule(Waker(), str(folders.inbox), recursive=True, event_filter=[FileCreatedEvent, FileMovedEvent])
    observer.schedule(Waker(), str(folders.outbox), event_filter=[FileModifiedEvent, FileMovedEvent])
    observer.daemon = True
    observer.start()
    return observer


def tell_restart(reason: str) -> None:
    """Say that the judge has to be started again."""
    tell(logger, "judge-restarted", f"starting the judge again: {reason}", logging.WARNING, reason=reason)
