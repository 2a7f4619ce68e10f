"""For whom this site's models are sealed: for the coordinator, or where it was agreed for the other sites alone."""

from __future__ import annotations

import json

from fedssh.bob.followed import Followed
from fedssh.bob.site import Folder, Site, read_genesis
from fedssh.errors import BundleError, LedgerError
from fedssh.keys import PublicKey, parse_public
from fedssh.rules.policies import Policy, read_policy


def sealed_for(folder: Folder, site: Site) -> list[PublicKey]:
    """The keys that can open what this site sends.

    By the first record, which names the policy and which this site's history begins with; who the sites are, by the
    history as far as it was followed.

    Raises:
        BundleError: It is for sites alone, and who they are is not known here. It is sealed for nobody then.
    """
    policy = agreed_policy(folder)
    if policy is None or not policy.for_sites:
        return [site.coordinator]
    state = Followed(folder.followed).state()
    if state is None or not state.sites:
        raise BundleError("this model is for the other sites alone, and bob has not followed the history to them")
    return [parse_public(one.key, f"the key of {one.name}") for one in state.sites]


def agreed_policy(folder: Folder) -> Policy | None:
    """The policy by the first record; None before that is here."""
    line = read_genesis(folder)
    if line is None:
        return None
    try:
        return read_policy(str(json.loads(json.loads(line)["record"])["policy"]))
    except (ValueError, KeyError, TypeError):  # of a newer version: who follows it has refused it before
        raise LedgerError("the first record does not say how models become one") from None
