"""A site's word for its keys: signed with its site key, which other sites have from people."""

from __future__ import annotations

import dataclasses

from fedssh import signature
from fedssh.keys import PrivateKey, PublicKey
from fedssh.rules.masking import Advert


def sign(advert: Advert, key: PrivateKey) -> Advert:
    """The same, signed."""
    return dataclasses.replace(advert, signed=signature.sign(advert.unsigned(), key, signature.ADVERT))


def check(advert: Advert, signer: PublicKey) -> None:
    """Check that a site's key has signed its advert.

    Raises:
        SignatureError: It has not.
    """
    signature.verify(advert.unsigned(), advert.signed, signature.ADVERT, signer)
