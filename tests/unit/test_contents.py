"""`check`: what is found in a data set, all of it at once, and what is said of it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.alice import own_data, terms
from fedssh.alice.exchange import Exchange
from fedssh.charity.judge import own_check
from fedssh.errors import AgentError, SettingsError
from fedssh.keys import PrivateKey
from fedssh.models.data.contents import Contents, look, look_through
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import ERROR, NOTE, WARNING
from fedssh.rules.precision import difference, half_width, sentence
from fedssh.use import check
from tests.harness.alice import PLAN, SPEC
from tests.harness.releases import Coordinator

SQUARE = {"name": "mlp", "input": [8, 8, 1], "classes": 2}
NAMED = Reading(names=("a", "b"))
RANDOM = np.random.default_rng(0)


def put(root: Path, *names: str, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    """Images that differ."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = RANDOM.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(root / name)
    return root


def said(checked: check.Checked, level: str) -> list[str]:
    return [one.text for one in checked.said if one.level == level]


def site(data: Path, reading: Reading = NAMED, **more: Any) -> check.Checked:
    return check.site_data(data, reading, check.Agreed(SQUARE), **more)


def test_all_that_cannot_be_used_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as in a plain room
    put(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    for number in range(20):
        (tmp_path / "a" / f"odd{number}.{['nii', 'dcm'][number % 2]}").write_bytes(b"x")
    (tmp_path / "a" / "cut.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:80])
    (tmp_path / "a" / "text.jpg").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(tmp_path / "b" / "pages.tif", save_all=True, append_images=[Image.new("L", (8, 8))])
    put(tmp_path, "loose.png")
    for found in (look_through(tmp_path), look(tmp_path)):
        assert {kind: len(names) for kind, names in found.wrong.items() if kind != "no readable images"} == {
            "*.nii files": 10, "DICOM files": 10, "images outside the folders of classes": 1,
        }  # fmt: skip
        assert found.names == ("a", "b")
    found = look_through(tmp_path)
    assert [name.partition(":")[0] for name in found.wrong["no readable images"]] == [
        "a/cut.png", "a/text.jpg", "b/pages.tif",
    ]  # fmt: skip
    assert found.counts == {"train": {"a": 1, "b": 2}}
    checked = site(tmp_path)
    assert checked.errors == 4 and said(checked, ERROR)[0].startswith("10 *.nii files: a/odd0.nii, a/odd10.nii")
    with pytest.raises(AgentError, match=r"4 things keep .* from training"):
        check.show(checked, True)


def test_sizes_modes_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    put(tmp_path, "train/b/2.jpg", mode="RGB", size=(30, 20))
    put(tmp_path, "train/b/3.png", mode="RGBA")
    checked = site(tmp_path)
    assert checked.found.sizes == {(8, 8, 1): 3, (20, 30, 3): 1, (8, 8, 3): 1}
    assert checked.found.modes == {"8-bit grey": 3, "8-bit coloured": 2}
    check.show(checked, True)
    value = json.loads(capsys.readouterr().out)
    assert value["memory_bytes"] == {"train": 4 * 64 * 4, "val": 64 * 4}
    assert value["splits"] == {"train": {"a": 1, "b": 3}, "val": {"a": 1}}
    assert value["imbalance"] == {"train": 3.0, "val": None}
    assert said(checked, NOTE) == [
        "5 images are resized from 2 sizes (8x8 to 20x30) to 8x8 and their colours turned grey"
    ]
    check.show(checked, False)
    assert "in memory, as the network sees them (8x8x1): train 1.0 kB, val 0.3 kB" in capsys.readouterr().out


def test_the_same_image_twice_is_found_by_its_pixels(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/a/3.png", "train/b/1.png", "test/b/1.png")
    Image.open(tmp_path / "train/a/1.png").save(tmp_path / "train/a/2.bmp")
    Image.open(tmp_path / "train/a/1.png").save(tmp_path / "test/b/2.tif")
    found = look_through(tmp_path)
    assert found.alike == [
        [("train", "a", "train/a/1.png"), ("train", "a", "train/a/2.bmp"), ("test", "b", "test/b/2.tif")]
    ]
    same = "train/a/1.png = train/a/2.bmp = test/b/2.tif"
    warnings = said(site(tmp_path), WARNING)
    for text in (
        "image is in train and test alike",
        "image is in train more than once",
        "image has more than one class",
    ):
        assert f"1 {text}: {same}" in warnings
    assert look(tmp_path).alike == []


def test_patients_in_two_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/a/p1_1.png", "train/b/p2_1.png", "val/a/p1_2.png", "val/b/p3_1.png")
    checked = site(tmp_path, Reading(names=("a", "b"), patient=r"(p\d)_"))
    assert "1 patient has images in more than one split: p1" in said(checked, WARNING)
    assert not any("patient" in line for line in said(site(tmp_path), WARNING))


def test_classes_are_held_against_the_federation(tmp_path: Path) -> None:
    put(tmp_path, *(f"no/{at}.png" for at in range(12)), "yes/1.png", "other/1.png")
    checked = site(tmp_path)
    assert said(checked, ERROR) == ["the classes here are no, other, yes, the federation's are a, b"]
    assert checked.said[-1].hint and "--classes 'no=?,other=?,yes=?'" in checked.said[-1].hint
    checked = site(tmp_path, Reading(names=("a", "b"), given={"no": "a", "yes": "b", "other": ""}))
    assert not checked.errors
    assert said(checked, NOTE) == ["classes: no as a (12), yes as b (1); left out: other (1 images)"]
    assert any(text.startswith("train has 12 times as many images of no as of ") for text in said(checked, WARNING))
    assert site(tmp_path, Reading()).errors == 1, "three classes, without names"


def test_a_class_that_is_missing_at_a_site_is_only_said(tmp_path: Path) -> None:
    checked = site(put(tmp_path, "a/1.png", "a/2.png"))
    assert not checked.errors and said(checked, NOTE) == ["no images here of b"]


def test_channels_that_cannot_become_the_networks(tmp_path: Path) -> None:
    spec = {"name": "mlp", "input": [8, 8, 4], "classes": 2}
    checked = check.site_data(put(tmp_path, "a/1.png", "b/1.png"), NAMED, check.Agreed(spec))
    assert said(checked, ERROR) == ["images of 1 channels cannot become the 4 that the network takes"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda at: at.with_suffix(".npz").write_bytes(b"x"), "is no readable .npz file"),
        (lambda at: np.savez(at.with_suffix(".npz"), x=np.zeros(3)), "has no images and labels; it holds x"),
        (
            lambda at: np.savez(at.with_suffix(".npz"), train_images=np.zeros((3, 4, 4)), train_labels=np.zeros(2)),
            r"has shape \(3, 4, 4\), but there are 2 labels",
        ),
        (lambda at: at.with_suffix(".tar").write_bytes(b"x" * 600), "is no readable uncompressed tar archive"),
        (lambda at: at.with_suffix(".csv").write_text("what\n"), "its columns are what"),
        (lambda at: at.with_suffix(".png").write_bytes(b"x"), "is no readable .npz file"),
        (lambda at: (at.with_suffix(".d") / "x").mkdir(parents=True), "there are no images that can be read"),
        (lambda at: put(at.with_suffix(".d"), "train/a/1.png", "b/1.png"), "mixes splits"),
    ],
)
def test_a_damaged_set_is_a_report(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "set")
    (path,) = tmp_path.iterdir()
    for checked in (site(path), site(path, unpack=False), own_check.unrecorded(path, own_check.Said(holdout=0.5))):
        with pytest.raises(AgentError, match="keep"):
            check.show(checked, True)
        assert any(re.search(says, text) for text in said(checked, ERROR)), checked.said


def test_an_archive_that_is_cut_off_is_a_report(tmp_path: Path) -> None:
    put(tmp_path / "x", "train/a/1.png", "train/b/1.png")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x", "x")
        archive.add(__file__, "x/train/a/notes.py")
    assert look_through(tmp_path / "x.tar").ignored == "passed over: *.py"
    whole = (tmp_path / "x.tar").read_bytes()
    for size in range(0, len(whole), 500):
        (tmp_path / "x.tar").write_bytes(whole[:size])
        found = look_through(tmp_path / "x.tar")
        assert found.failure or 0 < found.total <= 2


def test_twelve_bits_are_an_error_until_somebody_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)).save(tmp_path / name / "1.png")
    assert "nearly black" in said(site(tmp_path), ERROR)[0]
    assert not site(tmp_path, Reading(names=("a", "b"), white=4095)).errors
    assert said(site(tmp_path, Reading(names=("a", "b"), white=1023)), ERROR) == [
        "2 images whose pixels are out of range: a/1.png: it reaches up to 4095, beyond --max-value 1023, "
        "b/1.png: it reaches up to 4095, beyond --max-value 1023"
    ]


def test_the_coordinator_needs_something_to_score_on(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/{at}.png" for name in "ab" for at in range(20)))
    checked = own_check.unrecorded(tmp_path, own_check.Said())
    assert said(checked, ERROR) == ["there is no val split to score models on"]
    assert checked.said[-1].hint == "`--holdout 0.2` cuts one out of train"
    checked = own_check.unrecorded(tmp_path, own_check.Said(holdout=0.2))
    assert not checked.errors and checked.found.counts == {"train": {"a": 16, "b": 16}, "val": {"a": 4, "b": 4}}
    assert said(checked, WARNING)[0].startswith("on 8 images an accuracy of 90% is known to ±")
    checked = own_check.unrecorded(tmp_path, own_check.Said(holdout=1.5))
    assert said(checked, ERROR) == ["--holdout is 1.5, expected a share between 0 and 1, such as 0.2"]
    with pytest.raises(SettingsError, match="--columns"):
        own_check.unrecorded(tmp_path, own_check.Said(columns="nonsense"))


def test_what_a_holdout_of_many_images_is_worth_is_a_note(tmp_path: Path) -> None:
    pixels, labels = RANDOM.integers(0, 256, (600, 8, 8), dtype=np.uint8), np.arange(600) % 2
    np.savez(
        tmp_path / "a.npz", train_images=pixels[:300], train_labels=labels[:300], val_images=pixels[300:],
        val_labels=labels[300:],
    )  # fmt: skip
    checked = own_check.unrecorded(tmp_path / "a.npz", own_check.Said())
    assert sentence(300) in said(checked, NOTE) and not checked.warnings


def test_a_site_holds_its_images_against_what_it_has_agreed_to(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    data = put(tmp_path / "set", "train/yes/1.png", "train/no/1.png")
    agreed = Coordinator(keys["coordinator"], SPEC, PLAN, class_names=["NORMAL", "PNEUMONIA"])
    exchange, state = tmp_path / "exchange", tmp_path / "alice"
    incoming = Exchange(exchange).incoming

    def looked(classes: str | None = None) -> check.Checked:
        return own_data.look_through(data, own_data.said(classes, None, None, None), exchange, state)

    assert said(looked(), NOTE)[-1].startswith("nothing is agreed to yet")
    (tmp_path / "invitation.json").write_text(json.dumps(agreed.invitation()))
    state.mkdir()
    terms.join(state, terms.read_invitation(tmp_path / "invitation.json"), None)
    assert said(looked(), NOTE)[-1].startswith("bob has not brought the agreed federation's first record yet")
    incoming.mkdir(parents=True)
    (incoming / "genesis.json").write_bytes(agreed.genesis)
    assert said(looked(), ERROR) == ["the classes here are no, yes, the federation's are NORMAL, PNEUMONIA"]
    checked = looked("yes=PNEUMONIA,no=NORMAL")
    assert not checked.errors and checked.input == (2, 2, 1)
    assert said(checked, NOTE) == [
        "classes: no as NORMAL (1), yes as PNEUMONIA (1)",
        "2 images are resized from 8x8 to 2x2",
    ]
    told: list[str] = []
    own_data.warn(put(data, "val/yes/1.png"), own_data.said(None, None, None, None), exchange, state, told.append)
    assert told == ["val has no images of no (what is missing is never scored)"]


def test_images_of_several_sizes_are_an_error_at_the_coordinator_as_at_init(tmp_path: Path) -> None:
    put(tmp_path, "val/a/1.png", "val/b/1.png")
    put(tmp_path, "train/a/1.png", "train/b/2.png", size=(9, 9))
    checked = own_check.unrecorded(tmp_path, own_check.Said())
    assert checked.said[-1].level == ERROR and checked.said[-1].hint.startswith("--size says which")  # type: ignore[union-attr]
    assert not own_check.unrecorded(tmp_path, own_check.Said(size="8x8")).errors


def test_the_widths_are_those_of_the_books() -> None:
    """Wilson (1927) by its other form, and Newcombe (1998)."""
    for images, accuracy in ((10, 0.5), (300, 0.9), (10_000, 0.99)):
        z2 = 1.959964**2
        ends = [
            (2 * images * accuracy + z2 + sign * math.sqrt(z2 * (z2 + 4 * images * accuracy * (1 - accuracy))))
            / (2 * (images + z2))
            for sign in (-1, 1)
        ]
        assert half_width(images, accuracy) == pytest.approx((ends[1] - ends[0]) / 2)
    assert difference(300) == pytest.approx(math.sqrt(2) * half_width(300))
    assert sentence(300) == (
        "on 300 images an accuracy of 90% is known to ±3.4 %, "
        "and two models must differ by about 4.8 % to be told apart"
    )


@pytest.mark.parametrize("agent", ["alice", "charity"])
def test_the_command_loads_no_keras_and_ends_with_the_code(agent: str, tmp_path: Path) -> None:
    put(tmp_path / "set", "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")
    code = (
        f"import sys; sys.argv = ['{agent}', 'check', 'set', '--json']\n"
        f"from fedssh.{agent}.cli import main\n"
        "try: main()\nfinally: assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["errors"] == 0
    (tmp_path / "set/val/a/1.png").write_bytes(b"x")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and json.loads(done.stdout)["unusable"] == {
        "no readable images": ["val/a/1.png: none of PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM, or damaged at its beginning"]
    }
    assert done.stderr.startswith(f"{agent}: error: 1 thing keeps set from training")


def test_nothing_is_something_to_say() -> None:
    assert Contents().total == 0
