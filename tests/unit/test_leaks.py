"""What passes a cut: likeness of images, what is sent, who decodes and who hijacks; and the tables of the pages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow

from experiments.leaks import found, hijacker, tables
from experiments.leaks.decoder import Decoder, decoder
from experiments.leaks.hijacker import Hijacker
from experiments.leaks.session import Session, sent
from experiments.leaks.ssim import mean_squared_error, ssim
from fedssh.models.data.images import Images

MLP = {"name": "mlp", "input": [12, 12, 1], "classes": 3}


def images(number: int = 24, size: int = 12, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((number, size, size, channels), dtype=np.float32)


def test_an_image_is_like_itself() -> None:
    one = images(3)
    assert ssim(one, one) == pytest.approx([1, 1, 1])
    assert mean_squared_error(one, 1 - one) == pytest.approx(((1 - 2 * one.astype(float)) ** 2).mean(axis=(1, 2, 3)))


def test_of_two_flat_images_the_means_are_compared() -> None:
    dark, light = np.full((1, 11, 11, 1), 0.2), np.full((1, 11, 11, 1), 0.6)
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # Wang et al. 2004, equation 6
    assert ssim(dark, light) == pytest.approx([wanted])


def test_the_likeness_is_that_of_another_program() -> None:
    one, other = images(4, 15, 3), images(4, 15, 3, seed=1)
    other[1] = 0.9 * one[1] + 0.05
    wanted = tensorflow.image.ssim(one, other, 1.0).numpy()
    assert ssim(one, other) == pytest.approx(wanted, abs=1e-4)
    assert wanted[1] > 0.9 > 0.5 > wanted[0]


def test_images_that_no_window_fits_into_are_refused() -> None:
    with pytest.raises(ValueError, match="11x11 or more"):
        ssim(images(1, 10), images(1, 10))
    with pytest.raises(ValueError, match="of one shape"):
        ssim(images(1), images(2))


def test_what_is_sent_is_rounded_as_the_wire_has_it() -> None:
    random, given = np.random.default_rng(0), images(5) * np.arange(5, dtype=np.float32)[:, None, None, None]
    assert sent(given, "f32", 0, random) is given
    assert sent(given, "f16", 0, random).tobytes() == given.astype(np.float16).astype(np.float32).tobytes()
    whole = sent(given, "int8", 0, random)
    steps = given.max(axis=(1, 2, 3)) / 127
    assert (np.abs(whole - given).max(axis=(1, 2, 3)) <= 0.51 * steps).all()
    assert max(len(np.unique(one)) for one in whole) <= 128 and not whole[0].any()


def test_noise_is_of_so_many_deviations_of_what_is_sent() -> None:
    given = images(400) * 3
    added = sent(given, "f32", 2.0, np.random.default_rng(0)) - given
    assert added.std() == pytest.approx(2 * given.std(), rel=0.02) and abs(added.mean()) < 0.02


@pytest.mark.parametrize(
    ("features", "image"), [((13, 13, 8), (28, 28, 1)), ((5, 5, 4), (28, 28, 3)), ((7,), (9, 9, 1))]
)
def test_a_decoder_makes_images_of_any_features(features: tuple[int, ...], image: tuple[int, ...]) -> None:
    network = decoder(features, image)
    assert network.output_shape == (None, *image)


def test_a_decoder_learns_to_see() -> None:
    shown = np.repeat(np.repeat(images(32, 3), 4, axis=1), 4, axis=2)
    one = Decoder((9,), (12, 12, 1), 1, learning_rate=0.01)
    features = shown[:, ::4, ::4].reshape(32, 9)
    losses = [one.step(features, shown) for _ in range(60)]
    assert losses[-1] < losses[0] / 2
    assert mean_squared_error(one.images(features), shown).mean() < losses[0] / 2


def test_a_session_that_begins_anew_is_the_same() -> None:
    data = Images(images(), np.arange(24) % 3)
    session = Session(MLP, "dense1", 1, "int8", 0.5)
    first = session.features(data.images)
    for _ in session.train(data, 1):
        pass
    assert (session.features(data.images) != first).any() and 0 <= session.accuracy(data) <= 1
    session.again()
    assert session.features(data.images).tobytes() == first.tobytes()


def test_what_a_hijacker_sends_is_hers_and_as_long_as_she_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hijacker, "BEFORE", 2)
    session, labels = Session(MLP, "dense1", 1), np.arange(24) % 3
    one = Hijacker(MLP, "dense1", images(seed=1), 1)
    features = session.features(images())
    sent_back: dict[str, np.ndarray] = {}
    for way in hijacker.WAYS:
        session.again()
        sent_back[way] = one.answers(way, session)(features, labels)
    session.again()
    honest = np.asarray(session.tail.step(features, labels)[0])
    plain, scaled, mixed = (sent_back[way] for way in hijacker.WAYS)
    assert plain.shape == features.shape and one.images(features).shape == (24, 12, 12, 1)
    assert np.linalg.norm(scaled) == pytest.approx(np.linalg.norm(honest), rel=1e-4)
    assert mixed == pytest.approx((scaled + honest) / 2, rel=1e-3, abs=1e-9)
    cosine = (plain * scaled).sum() / np.linalg.norm(plain) / np.linalg.norm(scaled)
    assert cosine == pytest.approx(1, abs=1e-4)  # she begins each session as she was
    assert abs((plain * honest).sum() / np.linalg.norm(plain) / np.linalg.norm(honest)) < 0.9


def test_what_is_found_is_not_done_again(tmp_path: Path) -> None:
    done = []

    def do(keys: Mapping[str, Any]) -> list[dict[str, Any]]:
        done.append(keys["seed"])
        return [{"ssim": keys["seed"] / 3}, {"ssim": None}]

    out = tmp_path / "found.json"
    for seeds in ([1], [1, 2]):
        found.work("some", out, [{"seed": seed} for seed in seeds], do)
    assert done == [1, 2]
    assert [row["ssim"] for row in found.read(out)["runs"]] == [0.33333, None, 0.66667, None]
    assert json.loads(out.read_text())["experiment"] == "some"


def test_a_table_is_replaced_where_its_marks_are() -> None:
    page = "a\n<!-- t -->\nold\n<!-- end of t -->\nb\n"
    assert found.replaced(page, "t", "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="no place for the table u"):
        found.replaced(page, "u", "new\n")


def test_rows_are_means_and_costs_are_paired_by_seed() -> None:
    rows = [
        {"cut": "pool1", "wire": "f16", "noise": noise, "seed": seed, "ssim": 0.9, "mse": 0.01,
         "holdout_accuracy": 0.9 + 0.01 * seed - 0.02 * noise, "mean_image_ssim": 0.6, "mean_image_mse": 0.02}
        for noise, seed in itertools.product((0.0, 1.0), (1, 2))
    ]  # fmt: skip
    lines = tables.reconstruction(rows).splitlines()
    assert lines[2] == "| `pool1` | f16 | 0 | 2 | 0.900 ± 0.000 | 0.0100 ± 0.0000 | 0.915 ± 0.064 | – |"
    assert lines[3].endswith("| 0.895 ± 0.064 | -2.0 ± 0.0 |")
    assert lines[4] == "| the holdout's mean image |  |  | 2 | 0.600 ± 0.000 | 0.0200 ± 0.0000 |  |  |"


def test_rates_count_sessions() -> None:
    rows: list[dict[str, Any]] = [
        {"session": "honest", "noticed": None, "noticed_as_published": 40},
        {"session": "plain", "noticed": 10, "noticed_as_published": None},
    ]
    assert tables.rates(rows) == (
        "Stopped were by the watch 1 of 1 hijacked sessions and 0 of 1 honest ones, "
        "by the published rule 0 of 1 hijacked sessions and 1 of 1 honest ones.\n"
    )


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_pages_have_the_tables_of_what_was_found(root: Path, name: str) -> None:
    path, text = tables.page_with(name)
    assert (root / path).read_text() == text, f"python -m experiments.leaks.{name} --tables"
