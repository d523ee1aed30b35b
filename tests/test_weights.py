"""Weights: files are found, checked and built; what is damaged or foreign is refused with a message that says so."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

import galmeasure
from galmeasure.exceptions import WeightsError
from galmeasure.networks import NetworkConfig, SersicPosterior, StampInputs
from galmeasure.priors import get_prior
from galmeasure.weights import Weights, cards, get_weights, list_weights, load_network, prior_domain, save_weights
from galmeasure.weights.files import probe
from galmeasure.weights.registry import MAX_TOTAL_BYTES, update_registry

FOLDER = Path(galmeasure.__file__).parent / "weights"
SMALL = {"widths": (16, 32), "depths": (1, 1), "features": 32, "psf_features": 16, "flow_hidden": 16,
         "flow_context": 16, "groups": 2}  # fmt: skip
TENSOR = "base.weight"


def make_network(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SersicPosterior(NetworkConfig(**{**SMALL, **options}))


def make_card(**changes):
    training = {"steps": 10, "stamps": 640, "batch_size": 64, "seed": 1, "minutes": 0.5, "device": "cpu"}
    card = {
        "prior": "survey", "domain": prior_domain(get_prior("survey")), "simulation": {"gain": None},
        "training": training, "metrics": {"rmse": {"n": 0.5}}, "date": "2026-01-31T12:00:00", "revision": "0" * 40,
        "description": "A test, σ = 1",
    }  # fmt: skip
    return {**card, **changes}


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "mine.safetensors"
    save_weights(path, network, make_card())
    return path


def lonely(path):
    """Remove the card beside a file."""
    path.with_suffix(".json").unlink()
    return path


def split(path):
    """Header and data of a file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path, tensors=None, **changes):
    """A file that was made to be consistent, with other tensors or another card; no card beside it."""
    header, data = split(path)
    card = {**json.loads(header["__metadata__"]["card"]), **changes}
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    data = split_data(safetensors.torch.save(tensors))
    card["tensors_sha256"] = hashlib.sha256(data).hexdigest()
    card["card_sha256"] = cards.card_digest(card)
    path.write_bytes(safetensors.torch.save(tensors, {"card": json.dumps(card)}))
    return lonely(path)


def split_data(content):
    return content[8 + int.from_bytes(content[:8], "little") :]


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


# Damaged and foreign files


@pytest.mark.parametrize("find", [get_weights, load_network])
@pytest.mark.parametrize("where", [8 + 100, -1, -1000])
def test_tampered_file_with_card(path, find, where):
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="mine.safetensors: .*(damaged|sha256)"):
        find(path)


def test_any_byte_counts_without_a_card_beside(path):
    content = lonely(path).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    for place in [*range(8), *range(8, end, 61), *range(end, len(content), 40961), len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="mine.safetensors: "):
            load_network(path)


@pytest.mark.parametrize("keep", [0, 5, 8, 9, 500, -1, -100_000])
@pytest.mark.parametrize("alone", [True, False])
def test_truncated(path, keep, alone):
    if alone:
        lonely(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="mine.safetensors: .*(truncated|not a safetensors file)"):
        load_network(path)


def test_longer_file(path):
    path.write_bytes(lonely(path).read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="the tensors do not match their sha256"):
        get_weights(path)


def test_tensors_change_between_finding_and_loading(path):
    weights = get_weights(path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="mine.safetensors: does not match its sha256"):
        load_network(weights)


def test_too_large_file(path):
    with path.open("ab") as file:
        file.truncate(cards.MAX_BYTES + 1)
    with pytest.raises(WeightsError, match="is larger than 8 MB"):
        get_weights(path)


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5, "torch"])
def test_pickles_are_never_loaded(tmp_path, protocol):
    path, sprung = tmp_path / "evil.safetensors", tmp_path / "sprung"
    if protocol == "torch":
        torch.save({"weights": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"weights": Trap(sprung)}, protocol=protocol))
    rule = "is not a safetensors file" if protocol == 0 else "looks like a pickle, which is never loaded"
    with pytest.raises(WeightsError, match=f"evil.safetensors: {rule}"):
        load_network(path)
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, b"\x10\0\0\0\0\0\0\0" + b"{" * 16, b"SIMPLE  =" * 99])
def test_not_a_safetensors_file(tmp_path, content):
    path = tmp_path / "text.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="text.safetensors: .*not a safetensors file"):
        get_weights(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"card": "no JSON"}])
def test_file_without_a_card(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, metadata)
    with pytest.raises(WeightsError, match="foreign.safetensors: has no card in its header"):
        get_weights(path)


def test_other_architecture(path):
    rewrite(path, architecture="Xception")
    rule = r"mine.safetensors: card\['architecture'\] must be 'PointPosterior' or 'SersicPosterior', not"
    with pytest.raises(WeightsError, match=rule):
        load_network(path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"colour": 3}, "do not describe a SersicPosterior .*colour"),
        ({"features": "many"}, "must be numbers between"),
        ({"features": 10**9}, "must be numbers between"),
        ({"widths": [16]}, "do not describe a SersicPosterior"),
        ({"features": 1.5}, "do not describe a SersicPosterior"),
        ({"features": 48}, "the tensor .* has the shape"),
        ({"depths": [2, 1]}, r"lacks the tensors encoder\.fine\.1\..* and more"),
        ({"flow_transforms": 1}, r"has unknown tensors flow\..* and more"),
    ],
)
def test_other_arguments(path, change, rule):
    arguments = {**get_weights(path).card["arguments"], **change}
    rewrite(path, arguments=arguments)
    with pytest.raises(WeightsError, match=f"mine.safetensors: .*{rule}"):
        load_network(path)


@pytest.mark.parametrize(
    "change",
    [
        {"widths": [8192, 8192]}, {"features": 8192}, {"flow_hidden": 8192}, {"depths": [8192, 1]}, {"groups": 16},
        {"expansion": 4096}, {"flow_transforms": 8192}, {"flow_bins": 8192}, {"psf_features": 8192},
        {"flow_context": 8192},
    ],
)  # fmt: skip
def test_declared_sizes_take_no_memory(path, change, monkeypatch):
    """The tensors in the file are compared with the card before a network is made."""
    rewrite(path, arguments={**get_weights(path).card["arguments"], **change})
    monkeypatch.setattr("galmeasure.weights.files.build_network", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(WeightsError, match="which its card declares"):
        load_network(path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.pop(TENSOR), f"lacks the tensors {TENSOR}$"),
        (lambda t: t.update(extra=torch.ones(1)), "has unknown tensors extra$"),
        (
            lambda t: t.update({TENSOR: torch.ones(2, 2)}),
            rf"the tensor {TENSOR} has the shape \(2, 2\), not \(35, 32\)",
        ),
        (lambda t: t.update({TENSOR: t[TENSOR].half()}), f"{TENSOR} has the type torch.float16, not torch.float32"),
        (lambda t: t.update({TENSOR: t[TENSOR].double()}), f"{TENSOR} has the type torch.float64, not torch.float32"),
        (lambda t: t[TENSOR].fill_(torch.nan), f"{TENSOR} has values that are not finite"),
        (lambda t: t[TENSOR][3, 4].fill_(torch.inf), f"{TENSOR} has values that are not finite"),
    ],
)
def test_other_tensors(path, change, rule):
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    rewrite(path, tensors)
    with pytest.raises(WeightsError, match=f"mine.safetensors: .*{rule}"):
        load_network(path)


def test_card_of_the_header_was_changed(path):
    header, data = split(path)
    card = header["__metadata__"]["card"].replace('"seed":1', '"seed":2')
    assert card != header["__metadata__"]["card"]
    text = json.dumps({**header, "__metadata__": {"card": card}}).encode()
    lonely(path).write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(WeightsError, match="mine.safetensors: the card does not match its sha256"):
        get_weights(path)


def test_card_beside_was_changed(path):
    side = path.with_suffix(".json")
    side.write_text(side.read_text(encoding="utf-8").replace('"steps": 10', '"steps": 11'), encoding="utf-8")
    with pytest.raises(WeightsError, match="mine.json: differs from the card in the header of mine.safetensors"):
        get_weights(path)


@pytest.mark.parametrize(("text", "rule"), [("{", "cannot be read as the card"), ('{"a": 1}', "is not the card of")])
def test_foreign_file_in_place_of_the_card(path, text, rule):
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"mine.json: {rule}"):
        get_weights(path)


# Saving


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


# The registry


def ship(monkeypatch, folder, names):
    """A folder of shipped weights in place of the package's."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        save_weights(folder / f"{name}.safetensors", make_network(seed=seed), make_card())
    registry = update_registry(folder)
    monkeypatch.setattr("galmeasure.weights.registry._FOLDER", folder)
    return registry


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
    with pytest.raises(ValueError, match="names of shipped weights end in their version"):
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
