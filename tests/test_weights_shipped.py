"""Weights that come with the package, and their registry."""

import hashlib
import json

import pytest
from _weights import FOLDER, lonely, make_card, make_network, ship

from galmeasure.exceptions import WeightsError
from galmeasure.weights import cards, get_weights, list_weights, load_network, save_weights
from galmeasure.weights.files import probe
from galmeasure.weights.registry import MAX_TOTAL_BYTES, update_registry


@pytest.fixture(scope="module")
def network():
    return make_network()


def test_shipped_weights(monkeypatch, tmp_path):
    registry = ship(monkeypatch, tmp_path, ["two-v1", "one-v1"])
    assert [weights.name for weights in list_weights()] == ["one-v1", "two-v1"]
    weights = get_weights("one-v1")
    assert weights.sha256 == registry["one-v1"]["sha256"]
    assert weights == get_weights(weights.path)
    assert load_network("one-v1") is load_network(weights)


def test_shipped_weights_are_checked_against_the_registry(monkeypatch, tmp_path):
    ship(monkeypatch, tmp_path, ["one-v1"])
    save_weights(tmp_path / "one-v1.safetensors", make_network(seed=9), make_card())
    with pytest.raises(WeightsError, match="one-v1.safetensors: does not match its sha256"):
        load_network("one-v1")


def test_shipped_file_is_missing(monkeypatch, tmp_path):
    ship(monkeypatch, tmp_path, ["one-v1"])
    (tmp_path / "one-v1.safetensors").unlink()
    with pytest.raises(WeightsError, match="one-v1.safetensors: there is no such file"):
        list_weights()


def test_released_names_are_never_used_again(monkeypatch, tmp_path):
    before = ship(monkeypatch, tmp_path, ["one-v1"])
    assert update_registry(tmp_path) == before
    save_weights(tmp_path / "one-v1.safetensors", make_network(seed=9), make_card())
    with pytest.raises(ValueError, match="^folder: the weights one-v1 were released before"):
        update_registry(tmp_path)
    assert json.loads((tmp_path / "registry.json").read_text(encoding="utf-8")) == before
    assert update_registry(tmp_path, replace=True) != before


def test_released_names_do_not_go(monkeypatch, tmp_path):
    ship(monkeypatch, tmp_path, ["one-v1"])
    (tmp_path / "one-v1.safetensors").unlink()
    with pytest.raises(ValueError, match="^folder: the weights one-v1 were released before"):
        update_registry(tmp_path)


@pytest.mark.parametrize("name", ["survey", "registry", "Survey-v1", "survey-v1b"])
def test_shipped_names_have_versions(tmp_path, network, name):
    save_weights(tmp_path / f"{name}.safetensors", network, make_card())
    (tmp_path / "registry.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="names of shipped weights hold their version"):
        update_registry(tmp_path)


def test_shipped_weights_have_cards(tmp_path, network):
    lonely(save_weights(tmp_path / "one-v1.safetensors", network, make_card()).path)
    with pytest.raises(ValueError, match="shipped weights have their card beside them"):
        update_registry(tmp_path)


def test_size_of_all_shipped_weights(monkeypatch, tmp_path, network):
    save_weights(tmp_path / "one-v1.safetensors", network, make_card())
    monkeypatch.setattr("galmeasure.weights.registry.MAX_TOTAL_BYTES", 1000)
    with pytest.raises(ValueError, match="^folder: the files have more than"):
        update_registry(tmp_path)


def test_registry_of_the_package_is_that_of_its_files(tmp_path):
    registry = json.loads((FOLDER / "registry.json").read_text(encoding="utf-8"))
    files = sorted(FOLDER.glob("*.safetensors"))
    assert sorted(entry["file"] for entry in registry.values()) == [file.name for file in files]
    for name, entry in registry.items():
        assert entry["file"] == f"{name}.safetensors"
        assert entry["sha256"] == hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest()
    assert sum(file.stat().st_size for file in files) <= MAX_TOTAL_BYTES == 40e6
    assert sorted(file.stem for file in FOLDER.glob("*.json")) == sorted([*registry, "registry"])


def test_shipped_files_are_good():
    """Each can be built, has a complete card beside it, and computes what it did when it was saved."""
    for shipped in list_weights():
        weights = get_weights(shipped.path)
        assert weights == shipped
        cards.check_card(weights.card)
        assert weights.path.with_suffix(".json").exists()
        assert weights.path.stat().st_size <= cards.MAX_BYTES == 8e6
        assert probe(load_network(shipped.name)) == pytest.approx(weights.card["check"], abs=2e-3), shipped.name
