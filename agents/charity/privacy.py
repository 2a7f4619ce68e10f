"""What a site says it has spent of its privacy, held against its history; the judge counts what that comes to."""

from __future__ import annotations

from fedssh.charity.bench import Judge
from fedssh.charity.judge.client import JudgeDownError
from fedssh.errors import BundleError, JudgeError
from fedssh.manifest import Report, Submission
from fedssh.rules import private_claims
from fedssh.rules.events import Spent
from fedssh.rules.federation import Federation


def check(judge: Judge, state: Federation, manifest: Submission | Report) -> None:
    """Check what a submission says of privacy, or a report tells in spite of it.

    Raises:
        BundleError: It is not as agreed, over a budget, or less than the site's sessions come to.
        JudgeDownError: The judge cannot count. Nothing is decided; try again later.
    """
    if isinstance(manifest, Report):
        if manifest.metrics is not None and private_claims.agreed(state.genesis.plan) is not None:
            raise BundleError("privacy was agreed, and it tells what was scored on the site's images")
        return
    site, said = manifest.sender, manifest.privacy
    claimed = manifest.examples, manifest.epoch, manifest.metrics
    if why := private_claims.objection(state, site, *claimed, said):
        raise BundleError(why)
    if not isinstance(said, Spent):
        return
    try:
        spent, after = (judge.spent(charges, said.delta) for charges in private_claims.owed(state, site, said))
    except JudgeError as error:  # it is no fault of the submission's
        raise JudgeDownError(f"what {site} has spent cannot be counted: {error}") from None
    if why := private_claims.understated(site, said, spent, after):
        raise BundleError(why)
