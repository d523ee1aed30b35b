"""Files of weights that are damaged or foreign are refused with a message that says so."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from _weights import TENSOR, lonely, make_card, make_network, rewrite, split

from galmeasure.exceptions import WeightsError
from galmeasure.weights import cards, get_weights, load_network, save_weights


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "mine.safetensors"
    save_weights(path, network, make_card())
    return path


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
