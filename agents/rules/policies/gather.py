"""`gather`: as `step`, and what sites learned that could not be used alone waits, and is tried together with the next.

Where sites are unlike, a step that one of them trained makes the model worse for all others, however small a part of it
is taken; the mean of several such steps does not. A site's last refused step waits in a slot. With every candidate the
mean of all that waits and of its own step is scored as well: once, half and twice as long. Nobody waits for anybody, as
under FedBuff (Nguyen et al. 2022), and nothing is taken that the holdout does not confirm.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.forms import whole
from fedssh.rules.options import Option
from fedssh.rules.policies import step

MOST_SLOTS = 64  # a record names them, and the judge has all of them open at once
DOES = "as step, or a part of the mean of its step and those of others that wait"
OPTIONS: Mapping[str, Option] = {
    **step.OPTIONS,
    "slots": Option(whole(1, MOST_SLOTS), 8, "how many steps of other sites, the newest that wait, join a site's own"),
}
MIXES = True
STEPS = True
BY_LOSS = True
GATHERED = (1.0, 0.5, 2.0)

shares = step.shares
