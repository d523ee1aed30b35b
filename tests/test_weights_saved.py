"""Files of weights are written only if the card, the network and the name are right."""

from pathlib import Path

import pytest
import torch
from _weights import make_card, make_network

from galmeasure.weights import get_weights, save_weights


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "mine.safetensors"
    save_weights(path, network, make_card())
    return path


@pytest.mark.parametrize(
    "name", ["prior", "domain", "simulation", "training", "metrics", "date", "revision", "description"]
)
def test_incomplete_card(tmp_path, network, name):
    card = make_card()
    del card[name]
    with pytest.raises(ValueError, match=f"^card must have the entries {name}$"):
        save_weights(tmp_path / "a.safetensors", network, card)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"prior": 3}, r"card\['prior'\] must be a str, not int"),
        ({"training": {"steps": 3}}, r"card\['training'\] must have the entries stamps, batch_size, seed"),
        ({"date": "yesterday"}, r"card\['date'\] must be a date of ISO 8601, not 'yesterday'"),
        ({"metrics": {"rmse": float("nan")}}, "card must be plain JSON"),
        ({"metrics": {"rmse": torch.ones(1)}}, "card must be plain JSON"),
        ({"metrics": {"path": Path("x")}}, "card must be plain JSON"),
        ({"metrics": {"pair": (1, 2)}}, "card must be plain JSON: lists, not tuples"),
        ({"metrics": {1: 2}}, "card must be plain JSON: .* keys that are strings"),
        ({"domain": {"n": [0.5, 6.0]}}, r"card\['domain'\]\['r_eff'\] must be \[lower, upper\], not None"),
        ({"domain": {**make_card()["domain"], "n": [6.0, 0.5]}}, r"card\['domain'\]\['n'\] must be \[lower, upper\]"),
        ({"domain": {**make_card()["domain"], "g_max": 0}}, r"card\['domain'\]\['g_max'\] must be a positive number"),
    ],
)
def test_wrong_card(tmp_path, network, change, rule):
    with pytest.raises(ValueError, match=f"^{rule}"):
        save_weights(tmp_path / "a.safetensors", network, make_card(**change))
    assert not list(tmp_path.iterdir())


def test_card_must_be_a_dict(tmp_path, network):
    with pytest.raises(ValueError, match="^card must be a dict, not list"):
        save_weights(tmp_path / "a.safetensors", network, [])


def test_network_of_another_class(tmp_path):
    with pytest.raises(TypeError, match="^network must be a PointPosterior or SersicPosterior, not a Linear"):
        save_weights(tmp_path / "a.safetensors", torch.nn.Linear(2, 2), make_card())


def test_network_that_is_not_finite(tmp_path):
    network = make_network()
    with torch.no_grad():
        network.base.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="^network: the tensor base.weight has values that are not finite"):
        save_weights(tmp_path / "a.safetensors", network, make_card())


def test_network_that_is_too_large(tmp_path):
    with pytest.raises(ValueError, match=r"^network: the file would have \d+\.\d\d MB, more than 8 MB"):
        save_weights(tmp_path / "a.safetensors", make_network(features=1024), make_card())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.pt", "a", "a.safetensors.gz"])
def test_name_of_the_file(tmp_path, network, name):
    with pytest.raises(ValueError, match="^path must end in .safetensors, not"):
        save_weights(tmp_path / name, network, make_card())


def test_folder_of_the_file(tmp_path, network):
    with pytest.raises(ValueError, match="^path must be in a folder that exists"):
        save_weights(tmp_path / "none" / "a.safetensors", network, make_card())


def test_failed_writing_leaves_what_was_there(path, monkeypatch):
    before = get_weights(path)

    def fail(*_):
        msg = "disc full"
        raise OSError(msg)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        save_weights(path, make_network(seed=1), make_card())
    assert get_weights(path) == before
    assert len(list(path.parent.iterdir())) == 2
