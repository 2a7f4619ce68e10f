"""Layers of sites that are sealed for sites alone: kept as they came, handed out by the door, opened by nobody here.

outbox/layers/<id of the submission>.bundle     of the current model, and of what is being recorded
"""

from __future__ import annotations

from fedssh.charity.folders import Folders
from fedssh.charity.intake import Taken
from fedssh.errors import BundleError
from fedssh.forms import fingerprint
from fedssh.manifest import Submission
from fedssh.rules.federation import Federation

PUBLIC = 0o644


def check(taken: Taken, manifest: Submission, state: Federation) -> None:
    """Check that a bundle is whole, and sealed for all sites and nobody else, by its own word.

    Raises:
        BundleError: It is not.
    """
    taken.arrived.check_sealed()
    sites = {fingerprint(site.key) for site in state.sites}
    if set(manifest.recipients) != sites:
        raise BundleError(f"it is sealed for {len(manifest.recipients)} keys, not for those of the {len(sites)} sites")


def keep(taken: Taken, manifest: Submission, folders: Folders) -> None:
    """Lay a bundle out for the sites, durably, before a record names it."""
    path = folders.layers_of(manifest.id)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        taken.arrived.copy(path)
        path.chmod(PUBLIC)


def prune(state: Federation, folders: Folders) -> None:
    """Let go of what no model is made of any more."""
    layers = state.current.layers
    for path in folders.layers.glob("*.bundle"):
        if layers is None or path != folders.layers_of(layers.submission):
            path.unlink(missing_ok=True)
