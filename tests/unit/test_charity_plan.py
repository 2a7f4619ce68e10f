"""`charity plan`: both ways beside each other, of a network or a federation, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedssh.charity.cli import charity
from fedssh.errors import SettingsError
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.rules.costs import FedAvg, Piece, Split, break_even, client_bytes
from tests.harness.archives import unpack

CNN = ("--architecture", "cnn", "--size", "28x28x1")
RESNET = ("--architecture", "keras:ResNet50", "--size", "224x224x3", "--images", "500")
WHOLE, HEAD = Piece(223_873, 223_873, 2_629_888, 2_629_888), Piece(18_816, 18_816, 2_424_960, 2_424_960)


def run(*arguments: str, environ: dict[str, str] | None = None) -> str:
    done = CliRunner().invoke(charity, ["plan", *arguments], env=environ, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def value(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found


def cut(found: dict[str, Any], *layers: str) -> dict[str, Any]:
    [row] = [row for row in found["cuts"] if row["cut"] == list(layers)]
    return dict(row)


def refused(*arguments: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        CliRunner().invoke(charity, ["plan", *arguments], catch_exceptions=False)
    assert caught.value.exit_code == 2
    return caught.value


def test_it_says_what_the_rules_say() -> None:
    found = value(*CNN, "--images", "100", "--batch-size", "32", "--epochs", "2")
    row, split = cut(found, "pool2"), Split(HEAD, 1600, "f16")
    assert [row["cut"] for row in found["cuts"]] == [
        ["conv1"], ["pool1"], ["conv2"], ["pool2"], ["flatten"], ["dense"],
    ]  # fmt: skip
    sent = client_bytes(split, 100, 32, 2)
    assert (row["wires"]["f16"]["bytes_down"], row["wires"]["f16"]["bytes_up"]) == (sent.down, sent.up)
    assert row["wires"]["f16"]["break_even_images"] == break_even(split, FedAvg(WHOLE), 32, 2) == 104
    assert row["of_forward"] == round(2_424_960 / 2_629_888, 6)
    assert row["of_fedavg"] == round(4 * 2_424_960 / (3 * 2_629_888), 6)
    assert found["fedavg"]["multiply_adds"] == 200 * 3 * 2_629_888
    assert found["fedavg"]["bytes_up"] == 4 * 223_873


def test_the_text_says_the_same_in_plain_words() -> None:
    text = run(*CNN, "--images", "1412", "--sites", "3", "--batch-size", "32", "--cut", "pool2", "--wire", "f32")
    assert "3 sites with 1,412 images each; 1 epoch a round or turn, batches of 32, adam\n" in text
    assert "100 Mbit/s, 20 ms there and back\n" in text
    [line] = [line for line in text.splitlines() if line.startswith("pool2 ")]
    assert " ".join(line.split()).startswith("pool2 1,600 18,816 92.2 % 123 % 18.5 9.50 4.99 104 209 416 ")
    assert text.endswith(
        "Split after pool2, with f32, a site computes more: 123 % of what it does under fedavg.\n"
        "It sends more: 18.5 MB a turn, against 1.79 a round; up to 104 images a site it sends no more (here 1,412).\n"
        "On the line 3 sites in turn wait 7.3 s for a round of split learning, 0.2 s under fedavg.\n"
        "Not counted: for each turn the whole network is released to every site, up to 2.69 MB a site and round.\n"
    )
    few = run(*CNN, "--images", "50", "--wire", "int8")
    assert "Split after pool1, with int8, a site computes less: 9.87 % of what" in few
    assert "It sends no more: 0.55 MB a turn, against 1.79 a round; up to 164 images a site" in few
    assert "however few images a site has (here 50)" in run(*CNN, "--images", "50", "--cut", "dense")


def test_the_line_makes_it_slow() -> None:
    said = ("--images", "64", "--batch-size", "32", "--cut", "pool2")
    fast = cut(value(*CNN, *said, "--bandwidth", "1Gbit", "--rtt", "0ms"), "pool2")["wires"]["f16"]
    slow = cut(value(*CNN, *said, "--bandwidth", "1 Mbit", "--rtt", "0.5s", "--compute", "500ms"), "pool2")["wires"][
        "f16"
    ]
    step = 8 * (2 * (40 + 32 * 3200) + 16 + 32 * 4)
    assert fast["steps_per_second"] == round(1e9 / step, 2)
    assert slow["steps_per_second"] == round(1 / (0.5 + 0.5 + step / 1e6), 2)
    assert slow["waiting_seconds"] == round(8 * (slow["bytes_down"] + slow["bytes_up"]) / 1e6 + 4 * 0.5, 3)


def test_the_u_shape_has_two_cuts() -> None:
    found = value(*CNN, "--images", "64", "--labels", "site")
    assert [row["cut"][1] for row in found["cuts"]] == ["dense"] * 5
    found = value(*CNN, "--images", "64", "--labels", "site", "--cut", "pool1,pool2")
    row = cut(found, "pool1", "pool2")
    assert found["chosen"] == ["pool1", "pool2"] and len(found["cuts"]) == 3
    assert row["site_weights"] == 320 + 223_873 - 18_816
    assert row["wires"]["f32"]["bytes_up"] == 4 * (3 * row["site_weights"] + 4) + 2 * 40 + 64 * 4 * (5408 + 1600)


def test_all_sites_at_once_wait_for_no_other() -> None:
    said = (*CNN, "--images", "64", "--sites", "5", "--cut", "pool2")
    turns, at_once = value(*said), value(*said, "--order", "parallel")
    for found, releases in ((turns, 5), (at_once, 1)):
        assert found["release_bytes"] == releases * 895_492
    down = [cut(found, "pool2")["wires"]["f16"]["bytes_down"] for found in (turns, at_once)]
    assert down[0] - down[1] == 4 * (2 * 18_816 + 2)
    assert turns["said"][2].startswith("On the line 5 sites in turn wait ")
    waits = cut(at_once, "pool2")["wires"]["f16"]["waiting_seconds"]
    assert f"On the line each site waits {waits:.1f} s for a round of split learning" in at_once["said"][2]
    assert at_once["said"][3].startswith("Not counted: for each round the whole network")


def test_of_many_cuts_those_are_shown_that_pass_less_than_all_before() -> None:
    some, named, every = value(*RESNET), value(*RESNET, "--cut", "conv4_block1_out"), value(*RESNET, "--all")
    assert [row["cut"] for row in some["cuts"]] == [["conv1_conv"], ["pool1_pool"], ["conv5_block1_add"], ["pooling"]]
    assert len(named["cuts"]) == 5 and named["chosen"] == ["conv4_block1_out"]
    assert len(every["cuts"]) == 4 + some["left_out"] == 39 and every["left_out"] == 0
    assert "35 more cuts pass no fewer numbers than one before them; --all tells them\n" in run(*RESNET)


def test_of_a_federation_it_knows_network_training_and_images(root: Path, tmp_path: Path) -> None:
    unpack(root / "tests/vectors/histories/fedavg.tar.gz", tmp_path)
    state = ("--state", str(tmp_path / "coordinator"))
    found = value(*state)
    assert found["network"]["spec"]["name"] == "mlp" and found["network"]["weights"] == 77
    assert found["training"] == {
        "images": 40, "sites": 3, "epochs": 3, "batch": 16, "optimizer": "adam", "momentum": 0.0,
    }  # fmt: skip
    found = value(*state, "--images", "7", "--sites", "9", "--epochs", "2", "--optimizer", "sgd", "--momentum", "0.9")
    assert found["training"] == {
        "images": 7, "sites": 9, "epochs": 2, "batch": 16, "optimizer": "sgd", "momentum": 0.9,
    }  # fmt: skip
    assert "--size is what the federation" in str(refused(*state, "--size", "28x28x1"))


def test_without_rounds_an_epoch_is_what_is_compared(root: Path, tmp_path: Path) -> None:
    """Its plan says how many a session has at most, and each may send a checkpoint."""
    unpack(root / "tests/vectors/histories/best-free.tar.gz", tmp_path)
    assert value("--state", str(tmp_path / "coordinator"))["training"]["epochs"] == 1


@pytest.mark.parametrize(
    ("policy", "order"),
    [("split:dense1,labels=site,tail=dense3", "turns"), ("splitfed:dense1,labels=site,tail=dense3", "parallel")],
)
def test_of_a_federation_that_splits_its_network_it_knows_how(
    root: Path, tmp_path: Path, keys: dict[str, PrivateKey], policy: str, order: str
) -> None:
    unpack(root / "tests/vectors/histories/fedavg.tar.gz", tmp_path)
    path = tmp_path / "coordinator/vault/ledger.db"
    fields = dict(Ledger(path).record(1).fields)
    path.unlink()
    spec = {**fields["spec"], "depth": 3}
    ledger = Ledger.create(path)
    fields |= {"spec": spec, "policy": f"{policy},wire=int8"}
    ledger.append("genesis", fields, keys["coordinator"])
    ledger.close()
    state = ("--state", str(tmp_path / "coordinator"), "--images", "40")
    found = value(*state)
    assert (found["chosen"], found["wire"], found["labels"]) == (["dense1", "dense3"], "int8", "site")
    assert found["order"] == order
    found = value(*state, "--labels", "coordinator", "--wire", "f32")
    assert (found["wire"], [row["cut"] for row in found["cuts"]]) == ("f32", [["dense1"], ["dense2"], ["dense3"]])
    assert value(*state, "--cut", "dense2,dense3")["chosen"] == ["dense2", "dense3"]


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    images = ("--images", "10")
    assert str(refused(*CNN, *images, "--cut", "pol2")) == (
        "--cut: cnn has no layer 'pol2'; did you mean 'pool2'? it can be cut after conv1, pool1, conv2, pool2, "
        "flatten, dense"
    )
    assert "cnn cannot be cut after output; it can be cut after" in str(refused(*CNN, *images, "--cut", "output"))
    assert "--cut names 2 cuts" in str(refused(*CNN, *images, "--cut", "pool1,pool2"))
    assert "FIRST,SECOND" in str(refused(*CNN, *images, "--labels", "site", "--cut", "pool2,pool1").hint)
    assert "nothing is left" in str(refused(*CNN, *images, "--labels", "site", "--cut", "dense"))
    single = '{"name":"mlp","depth":1,"input":[4,4,1],"classes":2}'
    assert "nothing is left" in str(refused("--architecture", single, *images, "--labels", "site"))
    assert str(refused(*CNN)) == "--images is missing"
    assert str(refused("--architecture", "cnn", *images)) == "--size is missing"
    assert "expected HEIGHTxWIDTHxCHANNELS" in str(refused("--architecture", "cnn", "--size", "28x28", *images))
    assert "needs images of at least 10x10" in str(refused("--architecture", "cnn", "--size", "9x9x1", *images))
    assert "there is no federation" in str(refused("--state", str(tmp_path)))
    assert "momentum belongs to sgd" in str(refused(*CNN, *images, "--momentum", "0.9"))
    for wrong in ("100", "100 MB", "0Mbit", "fast"):
        assert "expected a number and kbit, mbit, gbit" in str(refused(*CNN, *images, "--bandwidth", wrong))
    assert "expected a number and ms, s, such as 20ms" in str(refused(*CNN, *images, "--rtt", "20"))
