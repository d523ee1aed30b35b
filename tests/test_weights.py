"""Weights: files are found, read and built, and give the network that was saved."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from _weights import SMALL, make_card, make_network, ship, split

import galmeasure
from galmeasure.exceptions import WeightsError
from galmeasure.networks import NetworkConfig, StampInputs
from galmeasure.weights import Weights, get_weights, load_network, save_weights
from galmeasure.weights.files import probe


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "mine.safetensors"
    save_weights(path, network, make_card())
    return path


def stamps():
    numbers = torch.Generator().manual_seed(5)
    size = torch.arange(33) - 16.0
    psf = torch.exp(-0.5 * (size[:, None] ** 2 + size**2) / 2.5)
    size = torch.arange(64) - 31.5
    image = 20.0 * torch.exp(-0.5 * (size[:, None] ** 2 + size**2) / 9.0) + torch.randn(3, 64, 64, generator=numbers)
    return StampInputs(
        image, torch.ones(3, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool), torch.full((3,), torch.inf),
        (psf / psf.sum())[None], torch.zeros(3, dtype=torch.int64),
    )  # fmt: skip


def outputs(network):
    with torch.no_grad():
        context = network.encode(stamps())
        draws = network.sample(context, torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(2)))
        summary = network.summarise(context)
        return draws, summary.mean, summary.covariance, summary.quantiles, network.log_prob(context, summary.mean)


def test_round_trip(path, network):
    loaded = load_network(path)
    assert loaded.config == network.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, network.get_parameter(name)), name
    for here, there in zip(outputs(network.eval()), outputs(loaded), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


def test_names_of_tensors_do_not_depend_on_the_version_of_zuko(path):
    """The standard normal's, which changed their names in zuko 1.6, are not stored; every parameter is."""
    stored = set(safetensors.torch.load_file(path))
    left_out = set(make_network().state_dict()) - stored
    assert left_out
    assert all(name.startswith("flow.base.") for name in left_out)
    assert {name for name, _ in make_network().named_parameters()} <= stored


def test_weights_say_what_they_are(path):
    weights = get_weights(path)
    assert weights.name == "mine"
    assert weights.path == path
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.prior == "survey"
    assert weights.domain["psf_fwhm"] == [1.5, 7.0]
    assert weights.config == NetworkConfig(**SMALL)
    assert weights.card["version"] == galmeasure.__version__
    assert weights.card["architecture"] == "SersicPosterior"
    assert weights.card["description"] == "A test, σ = 1"
    assert weights == get_weights(str(path))
    assert "description" not in repr(weights)
    assert len({weights, get_weights(path)}) == 1


def test_saving_gives_the_same_as_reading(tmp_path, network):
    written = save_weights(tmp_path / "a.safetensors", network, make_card())
    assert written == get_weights(written.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_file_is_deterministic(tmp_path):
    one = save_weights(tmp_path / "a.safetensors", make_network(), make_card())
    two = save_weights(tmp_path / "b.safetensors", make_network(), dict(reversed(make_card().items())))
    assert one.sha256 == two.sha256
    other = save_weights(tmp_path / "c.safetensors", make_network(seed=1), make_card())
    assert other.sha256 != one.sha256


def test_card_beside_the_file_is_that_of_the_header(path):
    beside = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    header, _ = split(path)
    assert beside.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert beside == json.loads(header["__metadata__"]["card"])


def test_card_of_loaded_weights_can_be_saved_again(path, tmp_path):
    weights = get_weights(path)
    again = save_weights(tmp_path / "again.safetensors", load_network(weights), weights.card)
    assert again.sha256 == weights.sha256


def test_saving_replaces(path):
    before = outputs(load_network(path))[1]
    save_weights(path, make_network(seed=1), make_card())
    assert (outputs(load_network(path))[1] - before).abs().max() > 0.01


def test_networks_are_kept(path):
    assert load_network(path) is load_network(get_weights(path))


def test_threads_may_load(path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_network(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for network in found[1:]:
        torch.testing.assert_close(outputs(network)[1], outputs(found[0])[1], rtol=1e-4, atol=1e-4)


def test_torch_settings_do_not_matter(path):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load_network(path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_other_precision_is_written_as_single(tmp_path, network):
    weights = save_weights(tmp_path / "a.safetensors", make_network().double(), make_card())
    assert torch.equal(load_network(weights).base.weight, network.base.weight)


@pytest.mark.gpu
def test_device(path):
    assert next(load_network(path, device="cuda").parameters()).is_cuda


def test_probe_notices_other_tensors(path):
    loaded = load_network(path)
    assert probe(loaded) == pytest.approx(get_weights(path).card["check"], abs=1e-4)
    assert probe(make_network(seed=1).eval()) != pytest.approx(get_weights(path).card["check"], abs=0.05)


# Names and paths


@pytest.mark.parametrize("name", ["no-such-weights", "survey-v0", "", "x" * 5000, "a\0b"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"^name must be that of shipped weights \(.+\) or the path of a .safetensors"):
        get_weights(name)
    with pytest.raises(ValueError, match="^weights must be that of shipped weights"):
        load_network(name)


def test_wrong_kind():
    with pytest.raises(TypeError, match="^name must be a name or a path, not int"):
        get_weights(3)
    with pytest.raises(TypeError, match="^weights must be a name or a path, not NoneType"):
        load_network(None)


def test_known_names_are_given(monkeypatch, tmp_path, path):
    ship(monkeypatch, tmp_path / "shipped", ["one-v1", "two-v1"])
    with pytest.raises(ValueError, match=r"\(one-v1, two-v1\)"):
        get_weights("three-v1")


@pytest.mark.parametrize("kind", [str, Path])
def test_missing_file(tmp_path, kind):
    with pytest.raises(WeightsError, match=r"nothing.safetensors: there is no such file"):
        get_weights(kind(tmp_path / "nothing.safetensors"))


@pytest.mark.parametrize("find", [get_weights, load_network])
def test_folder(tmp_path, find):
    with pytest.raises(WeightsError, match="is a folder, not a file of weights"):
        find(str(tmp_path))


def test_path_without_suffix_is_read_if_it_exists(path):
    other = path.rename(path.with_name("other.bin"))
    assert get_weights(str(other)).name == "other"


@pytest.mark.parametrize("call", ["list_weights()", "get_weights({path!r})"])
def test_finding_weights_needs_no_torch(path, call):
    code = f"import sys, galmeasure; galmeasure.{call.format(path=str(path))}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "False"


def test_names_of_the_room():
    import galmeasure.weights

    assert set(galmeasure.weights.__all__) <= set(dir(galmeasure.weights))
    assert Weights is galmeasure.weights.Weights
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = galmeasure.weights.nonsense
