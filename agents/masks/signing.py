"""What a site signs with its site key, which other sites have from people: its keys, and who masked and who came."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fedssh import signature
from fedssh.errors import SignatureError
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


def agree(message: bytes, key: PrivateKey) -> str:
    """A site's signature on who masked and who came, see `masking.to_agree`."""
    return signature.sign(message, key, signature.AGREED)


def signers(message: bytes, agreed: Mapping[str, str], keys: Mapping[str, PublicKey]) -> set[str]:
    """Of some signatures, whose are right.

    Args:
        message: What they must have signed.
        agreed: Signatures by name.
        keys: By name; whose key is not there has not signed.
    """
    return {site for site, signed in agreed.items() if site in keys and _is_signed(message, signed, keys[site])}


def _is_signed(message: bytes, signed: str, key: PublicKey) -> bool:
    try:
        signature.verify(message, signed, signature.AGREED, key)
    except SignatureError:
        return False
    return True
