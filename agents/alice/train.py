"""The training loop: wait for a release, train a session from it, publish what improved, report, and again."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.alice import account, leaving, local, memory, messages, session
from fedssh.alice.exchange import Exchange
from fedssh.alice.fitting import Epoch
from fedssh.alice.incoming import Received, Unready
from fedssh.alice.learner import INTERRUPTED, Stopped
from fedssh.alice.limits import Limits
from fedssh.alice.memory import Memory
from fedssh.alice.news import News
from fedssh.alice.online import New
from fedssh.alice.own_rates import OwnRates
from fedssh.alice.terms import Terms
from fedssh.alice.trainee import Trainee
from fedssh.alice.turn import Outbound, TurnLost, Way
from fedssh.chain import Seen
from fedssh.commands import tell
from fedssh.errors import SettingsError, UnreachableError, UntrustedError
from fedssh.manifest import Claim, SessionOver, SiteScored, new_id, now
from fedssh.models import tasks
from fedssh.rules import membership, site_scores
from fedssh.rules.events import Local, Spent
from fedssh.rules.plan import Plan, read_plan
from fedssh.rules.policies import read_policy
from fedssh.rules.privacy import Privacy, charge_of
from fedssh.rules.typed import ABSENT, Absent, known
from fedssh.split.site import DivergedError, Past

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("alice")

POLL_SECONDS = 0.2
RETRY_SECONDS = 10.0  # for a disk that is full


@dataclass
class Tally:
    """A session as it goes on.

    Attributes:
        start: What the release scores here.
        examples: How many it trains on, where the network has yet to be told.
        spent: What it cost, where privacy is agreed.
    """

    number: int
    plan: Plan
    started: str
    start: Local
    published: Local | None = None
    published_epoch: int | None = None
    done: int = 0
    checkpoints: int = 0
    examples: int | None = None
    spent: Spent | Absent = ABSENT


class Alice:
    """One site's trainer.

    Args:
        exchange: The folder shared with Bob.
        state: Alice's own folder.
        network: What is trained.
        epochs: The most epochs of a session; None is what the plan says. A plan that publishes sessions trains
            exactly so many.
        settle_seconds: After a session that published: how long to wait for its verdict to become a release.
        stop: When set, `run` returns soon.
        limits: What this site allows, whatever is agreed.
        rates: This site's own, within what is agreed.
        hold_seconds: None trains on all images in every session. Else a session begins when there are images that none
            was trained on, and is about these; without any, a turn of a relay is held so long before it passes, or
            passes at once where others have trained since this site let it pass last.
    """

    def __init__(
        self,
        exchange: Exchange,
        state: Path,
        network: Trainee,
        epochs: int | None,
        settle_seconds: float,
        stop: threading.Event,
        limits: Limits | None = None,
        rates: OwnRates | None = None,
        hold_seconds: float | None = None,
    ) -> None:
        self.exchange = exchange
        self.state = state
        self.network = network
        self.epochs = epochs
        self.settle_seconds = settle_seconds
        self.stop = stop
        self.limits = limits or Limits()
        self.rates = rates or OwnRates()
        self.news = News(exchange, state, self.limits, network.shapes)
        self.memory = memory.load(state)
        self._tried = 0  # the newest release that was scored here, or could not be
        self._last_said = ""
        self._last_round: int | None = None  # the one of which we said last how it ended
        self._shut_out: str | None = None
        self._scores_agreed = False
        self._private = False
        self._terms: Terms | None = None
        self._known_at_last: int | None = None  # the newest release when the last checkpoint was published
        self._hold_seconds = hold_seconds
        self._few_said: str | None = None
        self._new: New | None = None if hold_seconds is None else New(state)

    def run(self, sessions: int | None = None, wait_seconds: float = 0) -> int:
        """Train session after session, until there is a reason to end.

        It is that the federation is finished, that the sessions are trained, that the coordinator does not let this
        site in any more, or that somebody asks to stop. A session that is interrupted does not count; the next `run`
        trains it again from the newest release.

        Args:
            sessions: How many to train now; None is without end.
            wait_seconds: How long to wait for the first release; 0 is for ever.

        Returns:
            The number of sessions trained.

        Raises:
            UnreachableError: No release came in time.
            UntrustedError: What came is not what this site has agreed to, is beyond its limits, or singles out images;
                nothing was trained from it.
            SettingsError: This site has agreed to nothing, or cannot train what it agreed to.
        """
        self._finish_report()
        trained = 0
        try:
            while sessions is None or trained < sessions:
                self._settle()
                received = self._next_release(wait_seconds)
                if received is None:
                    return trained
                try:
                    self._train(received)
                except TurnLost as reason:
                    self._say("turn-lost", f"{reason}; what was trained in it is lost", logging.WARNING)
                    continue
                trained += 1
            count = self.memory.trained.sessions
            text = f"{messages.sessions(trained)} trained, as asked; {count} in all"
            self._say("finished", text, sessions=count)
        except Stopped as reason:
            self._say("stopped", str(reason))
        return trained

    # waiting

    def _next_release(self, wait_seconds: float) -> Received | None:
        """Wait until there is a release to train from; None when there is nothing more to train, or on `stop`."""
        begun = time.monotonic()
        seen: Received | None = None
        while not self.stop.is_set():
            waiting_for = f"waiting for a release in {self.exchange.incoming}"
            if seen is None or self.exchange.newest_sequence() != seen.release.sequence:
                try:
                    seen = self._look()
                except Unready as reason:
                    seen, waiting_for = None, str(reason)
            if shut_out := self.news.shut_out(self.memory):
                self._say("shut-out", f"{shut_out}; {messages.trained_here(self.memory.trained.sessions)}")
                return None
            if seen is None:
                self._wait_for_first(time.monotonic() - begun, wait_seconds, waiting_for)
            elif self._is_over(seen):
                self._score(seen)
                return None
            elif self._may_train(seen):
                if self._has_new(seen):
                    return seen
            elif not session.is_over(seen.standing, self.memory.trained):
                self._score(seen)
                self._say_waiting(messages.waiting(seen.standing, seen.site), seen.site)
            self.stop.wait(POLL_SECONDS)
        raise Stopped("stopped while waiting")

    def _look(self) -> Received | None:
        found = self.news.look(self.memory)
        if found is None:
            return None
        terms, received = found
        self._terms = terms
        self.network.class_names, self.network.agreed = terms.class_names, terms.network
        self.network.table = terms.table
        self._private = read_plan(terms.plan).privacy is not None
        self._scores_agreed = site_scores.agreed(terms.record.fields) and not self._private
        self._recall(terms, received)
        self._say_last_round(received)
        return received

    def _is_over(self, received: Received) -> bool:
        """Whether there is nothing more to train, and the release that says so is the newest."""
        sequence = received.release.sequence
        if self._at_limit():
            text = f"this site's limit of {messages.sessions(self.limits.max_sessions)} is reached (--max-sessions)"
            self._say("finished", text, site=received.site, sessions=self.memory.trained.sessions)
            return True
        if not session.is_over(received.standing, self.memory.trained):
            return False
        if self._scores_agreed and not received.standing.finished:
            self._score(received)
            text = "all sessions trained; waiting for the federation's last release, to say what it scores here"
            self._say_waiting(text, received.site)
            return False
        if self.news.is_the_newest(sequence):
            self._say_over(received)
            return True
        text = f"release {sequence} leaves nothing to train; waiting until the coordinator says that it is the newest"
        self._say_waiting(text, received.site)
        return False

    def _at_limit(self) -> bool:
        return self.memory.trained.sessions >= self.limits.max_sessions

    def _may_train(self, received: Received) -> bool:
        standing, trained = received.standing, self.memory.trained
        if self._at_limit():
            return False
        return not session.is_over(standing, trained) and session.may_start(standing, received.site, trained)

    def _has_new(self, received: Received) -> bool:
        """Whether there is enough to train on; online, whether enough of it is new."""
        if self._new is None:
            return True
        plan = self.rates.of(read_plan(received.release.plan))
        reason = self._new.lacks(received, self.memory, self.network, plan, self.epochs, self.limits.min_steps)
        if reason is None:
            return True
        self._score(received)
        self._say_waiting(reason, received.site)
        if self._new.passes(received, self._hold_seconds or 0.0):
            self._pass(received)
        return False

    def _pass(self, received: Received, why: str = "no new images: our turn passes") -> None:
        """Let the turn pass without a session."""
        report = SessionOver(
            id=new_id(),
            builds_on=received.release.sequence,
            session=self.memory.trained.sessions + 1,
            epochs=0,
            checkpoints=0,
            examples=self._told_examples(received),
            metrics=None,
            started=now(),
            created=now(),
            passed=True,
        )
        self._leave_turn(received, report)
        self._say("passed", why, site=received.site)

    def _leave_turn(self, received: Received, report: SessionOver) -> None:
        """Note that the turn was used, and say so to the coordinator; a kill in between repeats it."""
        trained = dataclasses.replace(self.memory.trained, turns=received.standing.started.turns, passed=False)
        self._remember(dataclasses.replace(self.memory, trained=trained, over=report))
        self._finish_report()

    def _wait_for_first(self, waited: float, wait_seconds: float, waiting_for: str) -> None:
        self._say_waiting(waiting_for, None)
        if wait_seconds and waited >= wait_seconds:
            where = self.exchange.incoming
            raise UnreachableError(f"no release came into {where} in {wait_seconds:g} s", "is bob running?")

    def _recall(self, terms: Terms, received: Received) -> None:
        """Note which release was taken, and what it says about whose turn it is; count anew in another federation."""
        release = received.release
        found = self.memory
        if found.genesis != terms.hash and (found.genesis is not None or found.federation != terms.name):
            found = Memory()
        seen = Seen(release.sequence, release.head)
        found = dataclasses.replace(found, federation=terms.name, genesis=terms.hash, seen=seen)
        if received.standing.turn != received.site and not found.trained.passed:
            found = dataclasses.replace(found, trained=dataclasses.replace(found.trained, passed=True))
        if found != self.memory:
            self._remember(found)

    # a session

    def _train(self, received: Received) -> None:
        """Train a session."""
        release = received.release
        plan = read_plan(release.plan)
        agreed = dataclasses.replace(plan, epochs=self.epochs or plan.epochs)
        plan = self.rates.of(agreed)
        split = read_policy(received.standing.policy).split
        if split and self.limits.audits:
            raise SettingsError(
                f"--max-audit-auc: under the policy {received.standing.policy} no site has a whole model to audit",
                "leave it out; the coordinator's `charity audit --members` can",
            )
        if split and self._send_again(received, plan):
            return
        if split and plan.privacy is not None:
            raise UntrustedError("a network in two rooms is not trained privately: what each image gives would leave")
        if told := self.rates.told(agreed):
            self._say("own-rates", told, site=received.site, learning_rate=plan.learning_rate, batch=plan.batch_size)
        score = self.network.adopt(received, plan, self.stop, self._own(received, plan))
        tally = Tally(self.memory.trained.sessions + 1, plan, now(), score)
        self._say_release(received, score)
        # Where units are hidden, nothing that is seen in them decides what leaves; noise is what protects them.
        if not self._private and (reason := leaving.tells_of_images(self.network.singled())):
            self._end_session(received, tally, early=False)  # so that nobody waits for it
            hint = "ask the coordinator how this model came about; nothing was trained from it, and nothing left"
            raise UntrustedError(f"release {release.sequence} is not trained from: {reason}", hint)
        self._say_scores(received, score)
        self._say_audit_of(received)
        self._say_session(received, tally)
        if split:
            self._take_turn(received, tally, read_plan(release.plan))
            return
        if plan.privacy is not None:
            tally.spent = self._spend(received, tally, plan.privacy)
        early = self.network.fit(
            tally.number, plan, score, lambda epoch: self._epoch_over(received, tally, epoch), self.stop
        )
        self._end_session(received, tally, early)

    def _spend(self, received: Received, tally: Tally, privacy: Privacy) -> Spent:
        """Charge the account of this site for a session that is about to be trained.

        Raises:
            UntrustedError: It would be more than may be spent; nobody waits for this site then.
        """
        plan, genesis = tally.plan, str(self.memory.genesis)
        charge = charge_of(privacy, self.network.examples, plan.batch_size, plan.epochs)
        own = self.limits.privacy_budget
        try:
            self.limits.check_drawn(privacy, self.network.examples)
        except UntrustedError:
            self._pass(received, "a step here is none that this site allows: our turn passes")
            raise
        try:
            before, spent = account.spend(self.state, privacy, charge, genesis, tally.number, now(), own)
        except UntrustedError:
            self._pass(received, "our privacy budget does not suffice: our turn passes")
            raise
        left = f"of {spent.budget:g}; one more like it would take it to {spent.next:.4f}"
        text = f"session {tally.number} hides one {privacy.unit}: epsilon {before:.4f} -> {spent.spent:.4f} {left}"
        fields = {**spent.fields(), "before": before}
        self._say("privacy", f"{text}. Its noise is nobody's to repeat", site=received.site, **fields)
        return spent

    def _take_turn(self, received: Received, tally: Tally, plan: Plan) -> None:
        """Train a session under `split`, with the coordinator, and send what this site's layers have learned."""
        assert self._terms is not None
        tally.plan = plan
        way = Way(
            self.exchange.folder, self._terms, received, lambda: self._turn_passed(received), self._say, self.stop
        )
        turn = self.network.turn(
            tally.number, plan, received, way.turn, self.state / "turn", lambda past: self._past(received, tally, past),
            self._decoder(received),
        )  # fmt: skip
        try:
            way.follow(turn)
        except DivergedError as error:
            tally.done = turn.step // turn.length.steps
            text = f"session {tally.number} is not published: {error}"
            self._say("diverged", text, logging.WARNING, site=received.site, session=tally.number)
            self._end_session(received, tally, early=True)
            turn.forget()
            return
        past = turn.past
        assert past is not None
        tally.done = plan.epochs
        metrics = Local.of(tally.start.measure, past.loss, past.value)
        if reason := self.limits.keeps_back(plan, self.network.examples, plan.epochs, metrics):
            where = f"session {tally.number} is not published"
            self._say("kept-back", f"{where}: {reason}", logging.WARNING, site=received.site, reason=reason)
        else:
            weights, claim = turn.sent(), self._claim(received, tally, plan.epochs, metrics)
            left = turn.decoder()
            local.keep(self.state, str(self.memory.genesis), tally.number, left, received.header.spec, local.DECODER)
            self._outbound().write(received.standing.started.turns or 0, claim, weights, received.header.spec)
            self._send(received, tally, claim, weights)
        self._end_session(received, tally, early=False)
        self._outbound().forget()
        turn.forget()

    def _outbound(self) -> Outbound:
        return Outbound(self.state / "outbound", str(self.memory.genesis))

    def _send_again(self, received: Received, plan: Plan) -> bool:
        """End a turn that was over when this process was killed; whether there was one."""
        found = self._outbound().read(received.standing.started.turns)
        if found is None:
            return False
        claim, weights = found
        assert claim.metrics is not None, "a network in two rooms is not trained privately"
        tally = Tally(claim.session, plan, claim.started, claim.metrics, done=claim.epoch, examples=claim.examples)
        self._send(received, tally, claim, weights)
        self._end_session(received, tally, early=False)
        self._outbound().forget()
        return True

    def _send(self, received: Received, tally: Tally, claim: Claim, weights: Mapping[str, np.ndarray]) -> None:
        while not self._publish_as(received, tally, claim, weights):
            if self.stop.wait(RETRY_SECONDS):  # the others wait for these weights
                raise Stopped(INTERRUPTED)

    def _decoder(self, received: Received) -> Mapping[str, np.ndarray] | None:
        """What the last counted turn left of the decoder that stays here, where the policy has one."""
        if "decoder" not in read_policy(received.standing.policy).values:
            return None
        sessions = self.memory.trained.sessions
        found = local.load(self.state, str(self.memory.genesis), sessions, local.DECODER)
        if found is None:
            lost = f"; what {messages.sessions(sessions)} left is not in {self.state}" if sessions else ""
            text = f"the decoder begins anew: this site has none{lost}"
            self._say("local", text, site=received.site, sessions=sessions)
        return found

    def _past(self, received: Received, tally: Tally, past: Past) -> None:
        """Say how an epoch over a channel went."""
        score = Local.of(tally.start.measure, past.loss, past.value)
        text = f"session {tally.number} epoch {past.epoch:>2}/{tally.plan.epochs}: {messages.scored(score)} in training"
        where: dict[str, Any] = {"site": received.site, "session": tally.number, "epoch": past.epoch}
        self._say("epoch", text, **where, epochs=tally.plan.epochs, **_finite(score))

    def _turn_passed(self, received: Received) -> bool:
        """Whether a newer release says that the turn is over or begins anew, or this site is let in no more."""
        if self.news.shut_out(self.memory):
            return True
        if self.exchange.newest_sequence() == received.release.sequence:
            return False
        try:
            found = self.news.look(self.memory)
        except Unready:
            return False
        if found is None:
            return False
        standing, ours = found[1].standing, received.standing
        if found[1].release.model.sha256 != received.release.model.sha256:
            return True  # the operator went back to another model
        elsewhere = standing.schedule == "relay" and standing.turn != received.site
        return standing.finished or elsewhere or standing.started.turns != ours.started.turns

    def _own(self, received: Received, plan: Plan) -> Mapping[str, np.ndarray] | None:
        """What of this site's own a session goes on from, by the plan."""
        if plan.local == "none":
            return None
        sessions = self.memory.trained.sessions
        own = local.load(self.state, str(self.memory.genesis), sessions)
        if own is None:
            lost = f"; what {messages.sessions(sessions)} left is not in {self.state}" if sessions else ""
            where = f"batch normalisation begins as in release {received.release.sequence}"
            self._say("local", f"{where}: this site has none of its own{lost}", site=received.site, sessions=sessions)
        return own

    # what releases score here, where that was agreed

    def _score(self, received: Received) -> None:
        """Score a release that is not trained from now, once."""
        if not self._scores_agreed or received.release.sequence <= max(self.memory.scored, self._tried):
            return
        plan = read_plan(received.release.plan)
        score = self.network.adopt(received, plan, self.stop, self._own(received, plan))
        if leaving.tells_of_images(self.network.singled()):
            self._tried = received.release.sequence
        else:
            self._say_scores(received, score)

    def _say_scores(self, received: Received, score: Local) -> None:
        """Tell what the release at hand scores here, once."""
        sequence = received.release.sequence
        if not self._scores_agreed or sequence <= max(self.memory.scored, self._tried):
            return
        self._tried = sequence  # once, whether it can be told or not: it scores the same the next time
        if not math.isfinite(score.loss) or (found := self.network.measure(received, score.loss)) is None:
            return
        if why := leaving.tells_of_images(self.network.singled_to_score()):
            self._say("not-scored", f"release {sequence} is not scored here: {why}", logging.WARNING)
            return
        count = self.network.validation_examples
        said = SiteScored(id=new_id(), builds_on=sequence, examples=count, metrics=found, created=now())
        try:
            self.exchange.say_scores(said)
        except OSError as error:  # of no weight: the next release is scored again
            text = f"what release {sequence} scores here could not be told: {error}"
            self._say("not-published", text, logging.WARNING)
            return
        self._remember(dataclasses.replace(self.memory, scored=sequence))
        where = f"here on {count:,} images; bob tells the coordinator"
        text = f"release {sequence} scores accuracy {found.accuracy:.4f} {where}"
        self._say("scored", text, site=received.site, sequence=sequence, accuracy=found.accuracy, id=said.id)

    def _epoch_over(self, received: Received, tally: Tally, epoch: Epoch) -> bool:
        """Say how it went, and publish what is due; whether it was published."""
        assert epoch.metrics is not None
        tally.done = epoch.number
        of = tally.plan.epochs
        where: dict[str, Any] = {"site": received.site, "session": tally.number, "epoch": epoch.number}
        self._say(
            "epoch",
            f"session {tally.number} epoch {epoch.number:>2}/{of}: {messages.scored(epoch.metrics)}"
            + ("  improved" if epoch.better else ""),
            **where,
            epochs=of,
            **_finite(epoch.metrics),
            improved=epoch.better,
        )
        if epoch.diverged:
            text = f"session {tally.number} epoch {epoch.number} is not published: its weights or scores are not finite"
            self._say("diverged", text, logging.WARNING, **where)
        self._say_shut_out()
        if not epoch.publish:
            return False
        if reason := self._kept_back(received, tally, epoch):
            text = f"session {tally.number} epoch {epoch.number} is not published: {reason}"
            self._say("kept-back", text, logging.WARNING, **where, reason=reason)
            return False
        while not self._publish(received, tally, epoch.number, epoch.metrics, self.network.weights()):
            if tally.plan.publish != "session":
                return False  # it does not become the best, so the next epoch that is as good tries again
            if self.stop.wait(RETRY_SECONDS):  # there is no next one, and the others may wait for these weights
                raise Stopped(INTERRUPTED)
        return True

    def _kept_back(self, received: Received, tally: Tally, epoch: Epoch) -> str | None:
        """Why a model that is due must not leave this site; None when it may."""
        assert epoch.metrics is not None
        if reason := self.limits.keeps_back(tally.plan, self.network.examples, epoch.number, epoch.metrics):
            return reason
        if _masked(received) and (far := self._cannot_be_summed(received)):
            return far
        if self._private:
            return None
        if bad := leaving.too_bad(tally.start, epoch, tasks.guessing(received.header.spec)):
            return bad
        return self._tells_members(received, tally, epoch)

    def _cannot_be_summed(self, received: Received) -> str | None:
        """Why an update does not go into a sum under masks; None when it does."""
        from fedssh.alice import masking

        try:
            masking.words(received, self.network.weights(), self.network.examples)
        except ValueError as error:
            return f"it does not go into a sum under masks: {error} (agreed: {received.standing.policy})"
        return None

    def _told_examples(self, received: Received, examples: int | None = None) -> int:
        """On how many images this site trains, as far as it may be told of it alone."""
        return 0 if _masked(received) else examples or self.network.examples

    def _tells_members(self, received: Received, tally: Tally, epoch: Epoch) -> str | None:
        """Why a model that is due tells too much of which images it was trained on; None when it does not."""
        if not self.limits.audits:
            return None
        try:
            found = self.network.membership(self.stop)
        except ValueError as error:
            return f"it cannot be audited: {error} (--max-audit-auc)"
        where: dict[str, Any] = {"site": received.site, "session": tally.number, "epoch": epoch.number}
        text = f"session {tally.number} epoch {epoch.number}: {messages.audited(found)}"
        self._say("audited", text, **where, audit=found.value())
        return membership.too_telling(found, self.limits.max_audit_auc)

    def _say_audit_of(self, received: Received) -> None:
        """Say what the release itself tells of the images here, and once whether there are enough of them to ask."""
        if not self.limits.audits:
            return
        sequence = received.release.sequence
        try:
            found = self.network.membership(self.stop)
        except ValueError as error:
            self._say("audited", f"release {sequence} cannot be audited: {error}", logging.WARNING, site=received.site)
            return
        self._say(
            "audited", f"release {sequence} as it came: {messages.audited(found)}", site=received.site,
            sequence=sequence, audit=found.value(),
        )  # fmt: skip
        few = membership.too_few(found.members, found.non_members, self.limits.max_audit_auc)
        if few is not None and few != self._few_said:
            self._few_said = few
            self._say("few", few, logging.WARNING, site=received.site)

    def _publish(
        self, received: Received, tally: Tally, epoch: int, metrics: Local, weights: Mapping[str, np.ndarray]
    ) -> bool:
        return self._publish_as(received, tally, self._claim(received, tally, epoch, metrics), weights, metrics)

    def _claim(self, received: Received, tally: Tally, epoch: int, metrics: Local) -> Claim:
        release = received.release
        return Claim(
            id=new_id(),
            architecture=release.architecture,
            builds_on=release.sequence,
            session=tally.number,
            epoch=epoch,
            examples=self._told_examples(received),
            metrics=None if self._private or _masked(received) else metrics,
            started=now() if _masked(received) else tally.started,
            created=now(),
            privacy=tally.spent,
        )

    def _publish_as(
        self, received: Received, tally: Tally, claim: Claim, weights: Mapping[str, np.ndarray],
        metrics: Local | None = None,
    ) -> bool:  # fmt: skip
        where = f"session {claim.session} epoch {claim.epoch}"
        fields: dict[str, Any] = {"site": received.site, "session": claim.session, "epoch": claim.epoch, "id": claim.id}
        try:
            staying = {} if tally.plan.local == "none" else self.network.staying(tally.plan)
            local.keep(self.state, str(self.memory.genesis), tally.number, staying, received.header.spec)
            if _masked(received):
                from fedssh.alice import masking

                vector = masking.words(received, weights, self.network.examples)
                size = self.exchange.publish_words(claim, vector, received.header)
            else:
                size = self.exchange.publish(claim, weights, received.header.spec)
        except OSError as error:
            self._say("not-published", f"{where} could not be published: {error}", logging.WARNING, **fields)
            return False
        tally.published, tally.published_epoch = claim.metrics or metrics, claim.epoch
        tally.checkpoints += 1
        self._known_at_last = self.exchange.newest_sequence()
        self._say("published", f"{where} published for bob, {size / 1e6:.1f} MB", size=size, **fields)
        return True

    def _end_session(self, received: Received, tally: Tally, early: bool) -> None:
        report = SessionOver(
            id=new_id(),
            builds_on=received.release.sequence,
            session=tally.number,
            epochs=tally.done,
            checkpoints=tally.checkpoints,
            examples=self._told_examples(received, tally.examples),
            metrics=None if self._private or _masked(received) else tally.published,
            started=now() if _masked(received) else tally.started,
            created=now(),
        )
        if self._new is not None and tally.done:
            self._new.trained(self.memory, tally.number, self.network)
        self._leave_turn(received, report)
        text = f"session {tally.number} is over after {messages.epochs(tally.done)}{', stopped early' if early else ''}"
        self._say(
            "session-over",
            f"{text}: {self._result(tally)}",
            site=received.site,
            session=tally.number,
            epochs=tally.done,
            checkpoints=tally.checkpoints,
            early=early,
            **_finite(report.metrics),
        )

    def _result(self, tally: Tally) -> str:
        if tally.published is None:
            return "nothing was published" if tally.plan.publish == "session" else "nothing improved on the release"
        last = "" if tally.plan.publish == "session" else "best "
        score = f"{messages.scored(tally.published)} in epoch {tally.published_epoch}"
        return f"{messages.checkpoints(tally.checkpoints)}, {last}{score}"

    def _finish_report(self) -> None:
        """Publish the report of a session that is over, then count the session; a kill in between repeats this."""
        if self.memory.over is None:
            return
        self.exchange.report(self.memory.over)
        counted = self.memory.over.session - known(self.memory.over.passed, False)
        trained = dataclasses.replace(self.memory.trained, sessions=counted)
        self._remember(dataclasses.replace(self.memory, trained=trained, over=None))

    def _settle(self) -> None:
        """Give the verdict on the last checkpoint a moment, so that the next session can start from it."""
        if self._known_at_last is None:
            return
        until = time.monotonic() + self.settle_seconds
        while self._known_at_last == self.exchange.newest_sequence() and time.monotonic() < until:
            if self.stop.wait(POLL_SECONDS / 4):
                break
        self._known_at_last = None

    def _remember(self, found: Memory) -> None:
        memory.save(self.state, found)
        self.memory = found

    # telling

    def _say(self, event: str, text: str, level: int = logging.INFO, **fields: object) -> None:
        self._last_said = ""
        tell(logger, event, text, level, **fields)

    def _say_waiting(self, text: str, site: str | None) -> None:
        if text != self._last_said:
            self._say("waiting", text, site=site)
            self._last_said = text

    def _say_shut_out(self) -> None:
        """Say once in a session that nobody may take what comes of it."""
        if (reason := self.news.shut_out(self.memory)) and reason != self._shut_out:
            self._shut_out = reason
            self._say("shut-out", f"{reason}; this session goes on to its end", logging.WARNING)

    def _say_last_round(self, received: Received) -> None:
        """Say once what became of the last round."""
        last = received.standing.last_round
        if last is not None and last.round != self._last_round:
            self._last_round = last.round
            self._say(
                "last-round",
                messages.last_round(last),
                site=received.site,
                round=last.round,
                outcome=last.event,
                reason=last.reason,
            )

    def _say_release(self, received: Received, score: Local) -> None:
        release, there = received.release, received.release.metrics
        self._say(
            "release",
            messages.release(release, score, self.network.validation_examples),
            site=received.site,
            sequence=release.sequence,
            holdout={"loss": there["loss"], score.measure: there[score.measure]},
            **_finite(score),
        )

    def _say_session(self, received: Received, tally: Tally) -> None:
        agreed, sequence = received.standing.sessions, received.release.sequence
        self._say(
            "session",
            messages.session(tally.number, agreed, sequence, self.network.examples, tally.plan),
            site=received.site,
            session=tally.number,
            epochs=tally.plan.epochs,
            builds_on=sequence,
            examples=self.network.examples,
        )

    def _say_over(self, received: Received) -> None:
        count = self.memory.trained.sessions
        self._say("finished", messages.over(received.standing, count), site=received.site, sessions=count)


def _masked(received: Received) -> bool:
    """Whether nothing is told of this site's update alone."""
    return read_policy(received.standing.policy).masked


def _finite(metrics: Local | None) -> dict[str, Any]:
    """What was measured, by name; None where there was nothing, or no finite number."""
    if metrics is None:
        return {"loss": None, "accuracy": None}
    found = {"loss": metrics.loss, metrics.measure: metrics.value}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
