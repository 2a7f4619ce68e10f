"""The wheel in an environment that holds another package called `agents`: one name, its types, its four commands."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PUBLIC = """
from pathlib import Path

import fedssh
from fedssh import bundle, keys, ledger, manifest, models


def check(history: Path, key: Path) -> int:
    with open(history, "rb") as lines:
        return ledger.verify(ledger.read_export(lines), keys.load_public(key))


def opened(path: Path, into: Path, signer: keys.PublicKey, own: keys.PrivateKey) -> str:
    return fedssh.bundle.open_bundle(path, into, manifest.Release, signer, own).architecture


reveal_type(fedssh.__version__)
reveal_type(models.check_spec)
models.build(7)
"""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        *["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"],
        str(folder),
        str(root),
    ]
    subprocess.run(command, check=True)
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, its requirements, and somebody else's `agents`."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(packages)
    (packages / "agents").mkdir()
    (packages / "agents" / "__init__.py").write_text("OTHER = True\n")
    # The requirements are where they are already; what stands in a .pth file there, this checkout, is not followed.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_the_wheel_holds_one_name(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    assert {name.split("/")[0] for name in names} == {"fedssh", "fedssh-0.1.0.dist-info"}
    assert {"fedssh/py.typed", "fedssh/models/networks/cnn.py", "fedssh/rules/policies/best.py"} <= set(names)
    assert len(names) == len(set(names))
    with zipfile.ZipFile(wheel) as files:  # for the folders that `charity export --to hub:DIR` makes
        assert files.read("fedssh/use/verify.sh") == (root / "scripts" / "verify").read_bytes()
    assert not [name for name in names if "__pycache__" in name]


def test_it_is_imported_beside_another_package_called_agents(python: Path, tmp_path: Path) -> None:
    program = (
        "import agents, fedssh; assert agents.OTHER; print(fedssh.__file__); print(fedssh.__version__)\n"
        "print(fedssh.models.check_spec({'name': 'mlp', 'input': [4, 4, 1], 'classes': 2})['width'])\n"
        "print(*(getattr(fedssh, name).__name__ for name in fedssh.__all__ if name != '__version__'))"
    )
    done = subprocess.run([python, "-c", program], cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, version, width, names = done.stdout.splitlines()
    assert where.startswith(str(python.parents[1])) and version == "0.1.0" and width == "200"
    assert names.split()[:2] == ["fedssh.bundle", "fedssh.errors"]


@pytest.mark.parametrize("words", [("fedssh",), ("fedssh", "alice"), ("fedssh", "bob"), ("fedssh", "charity")])
def test_the_fourth_command_has_the_other_three(python: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    program = f"import sys; sys.argv = {[*words, '--help']!r}; from fedssh.cli import main; main()"
    done = subprocess.run([python, "-c", program], cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("verify" if len(words) == 1 else "--log-format") in done.stdout


def test_the_public_names_have_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "public.py").write_text(PUBLIC)
    command = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}", "--config-file=", "public.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    notes = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert notes[0] == 'note: Revealed type is "str"', done.stdout
    assert notes[1] == 'note: Revealed type is "def (spec: typing.Mapping[str, Any]) -> dict[str, Any]"'
    assert 'Argument 1 to "build" has incompatible type "int"' in notes[2]
    assert done.stdout.splitlines()[-1].startswith("Found 1 error in 1 file"), done.stdout
