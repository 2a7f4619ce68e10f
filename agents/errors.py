"""Every error a person can see, sorted by what the reader does next. The number is the exit code."""

from __future__ import annotations


class AgentError(Exception):
    """Something went wrong.

    Args:
        message: Names the thing, what was expected and what was found; lower case, no full stop.
        hint: What to do about it, when there is something to do.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(AgentError):
    """Fix the command, the environment or the files it names."""

    exit_code = 2


class UntrustedError(AgentError):
    """Do not retry, look at it: what arrived is not what it claims to be."""

    exit_code = 3


class SignatureError(UntrustedError):
    """A signature is missing, malformed, of another purpose, or made by another key."""


class BundleError(UntrustedError):
    """A bundle or manifest does not have the one form it must have."""


class WeightsError(UntrustedError):
    """A model file is malformed, or does not fit the architecture it should have."""


class LedgerError(UntrustedError):
    """The history is not the unbroken, signed chain it must be."""


class DecisionError(UntrustedError):
    """A record says something that the federation's own rules do not give."""


class ChannelError(UntrustedError):
    """A frame of a channel is malformed, not as agreed, or not sealed by the other end."""


class MaskError(UntrustedError):
    """A roster, or a demand for shares of secrets, is not one that this site agrees to."""


class SharesError(MaskError):
    """Shares of a site for another one are not what they must be: that site spoils the round."""


class RollbackError(UntrustedError):
    """The coordinator offers a release that is older than, or beside, what this site has seen."""


class JudgeError(AgentError):
    """The judge cannot say how good a model is, and why: it failed, or the model does not let itself be scored."""


class HostKeyError(AgentError):
    """Do not retry: the host may not be ours. Not an UnreachableError, so no retry loop swallows it."""

    exit_code = 3


class UnreachableError(AgentError):
    """Retry later."""

    exit_code = 4
