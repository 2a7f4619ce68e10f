"""The newest release that a site holds, verified as before a training, for the site's own use."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedssh.alice import memory
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Received, Unready, read_offer
from fedssh.alice.news import not_agreed
from fedssh.alice.terms import kept, load_pin
from fedssh.errors import UnreachableError
from fedssh.split.layers import read_layers
from fedssh.use.card import Origin
from fedssh.weights import read_weights, write_weights


@contextlib.contextmanager
def newest_release(exchange: Path, state: Path) -> Iterator[tuple[Origin, Path]]:
    """Where the newest release comes from, and a private copy of its model, gone afterwards.

    Raises:
        SettingsError: This site has agreed to nothing yet.
        UnreachableError: Bob has brought nothing yet.
        UntrustedError: What lies there is not what the coordinator signed, or not of the agreed federation.
    """
    pin = load_pin(state)
    if pin is None:
        raise not_agreed(state)
    folder = Exchange(exchange)
    terms = kept(pin, read_offer(folder.incoming))
    if terms is None:
        raise UnreachableError("bob has not brought the federation's first record yet", "see `bob status`")
    with tempfile.TemporaryDirectory(prefix="fedssh-") as private:
        try:
            found = folder.newest(terms, Path(private), pin.site, memory.load(state).seen)
        except Unready as error:
            raise UnreachableError(str(error)) from None
        if found is None:
            raise UnreachableError(f"there is no release in {folder.incoming} yet", "see `bob status`")
        model = _whole(found, Path(private))
        release = found.release
        sites = tuple(release.federation.get("sites") or ())
        yield (
            Origin(
                genesis=terms.record.fields, genesis_hash=terms.hash, record=release.sequence, hash=release.head,
                model=release.model.sha256, metrics=release.metrics, sites=sites, created=release.created,
                word="release",
            ),
            model,
        )  # fmt: skip


def _whole(found: Received, private: Path) -> Path:
    """The model of a release with the site's layers in their place, where those are for sites alone."""
    if found.layers is None:
        return found.model
    layers, _ = read_layers(found.layers, found.header.tensors)
    whole = private / "whole.safetensors"
    write_weights(whole, {**read_weights(found.model, found.header.tensors), **layers}, found.header.spec)
    return whole


def average_told(origin: Origin) -> Iterator[str]:
    """A line for people where sites train with more than a release; its scores and thresholds are of it as it is."""
    if origin.genesis["plan"].get("local", "none") != "none":
        yield (
            f"warning: the model of {origin.named} has the average of all sites' batch normalisation, "
            "not this site's own"
        )
