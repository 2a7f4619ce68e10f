"""fedssh: train one Keras model across sites that may not share their data, over nothing but SSH.

What a program may use, beside the commands:

    bundle      seal, open_bundle: what travels
    ledger      read_export, verify: the signed history
    models      build, check_spec, …: the networks, and local data
    keys        make_key, load_private, load_public
    site        run, Keras: a site's own training script

    >>> import fedssh
    >>> with open("ledger.jsonl", "rb") as lines:
    ...     fedssh.ledger.verify(fedssh.ledger.read_export(lines), fedssh.keys.load_public(path))

Nothing is loaded before it is used: `--help` and the forced command depend on it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from fedssh import bundle, errors, keys, ledger, manifest, models, signature, weights
    from fedssh.alice import script as site

    __version__: str

__all__ = ["__version__", "bundle", "errors", "keys", "ledger", "manifest", "models", "signature", "site", "weights"]


_ELSEWHERE = {"site": "alice.script"}


def __getattr__(name: str) -> "ModuleType | str":
    """Load a public module, or say which version this is, when somebody asks for it (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fedssh")
    if name in __all__:
        from importlib import import_module

        return import_module(f"{__name__}.{_ELSEWHERE.get(name, name)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
