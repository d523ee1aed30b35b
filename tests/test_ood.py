"""Scores of galaxies that do not look like those of the training."""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from _galaxies import draw, gaussian_psf
from _networks import tiny_weights
from click.testing import CliRunner
from safetensors.torch import load, save

from galmeasure import Flag, NeuralSersicFitter, get_weights
from galmeasure.cli.commands import cli
from galmeasure.exceptions import WeightsError
from galmeasure.fitters.neural.learn_ood import learn_ood
from galmeasure.ood.reference import OODInputs, OODReference, load_ood, ood_path
from galmeasure.ood.residuals import STATISTICS, ResidualFeatures, residual_features
from galmeasure.training import PSFKnowledge, SimulationConfig, simulate_cutouts
from galmeasure.training.config import simulation_from_dict
from galmeasure.weights import DEFAULT_WEIGHTS, registry

CARD = {"weights_sha256": "0" * 64}
MIDDLE = 31.5


def noise(count, seed=0):
    return torch.randn((count, 64, 64), generator=torch.Generator().manual_seed(seed))


def features_of(residual, good=None, r_eff=3.0, fwhm=3.0):
    good = torch.ones_like(residual, dtype=torch.bool) if good is None else good
    values = torch.tensor([1.0, 1.0, r_eff, 0.0, 0.0, MIDDLE, MIDDLE]).expand(len(residual), 7)
    return residual_features(residual * good, good, values, torch.full((len(residual),), fwhm))


def column(found, name):
    return found.statistics[:, STATISTICS.index(name)]


def fake(count, seed=0, **changed):
    """Observations that depend on S/N and size, as those of galaxies do."""
    generator = torch.Generator().manual_seed(seed)
    log_snr, log_size = torch.rand((2, count), generator=generator, dtype=torch.float64)
    snr, size = 5.0 * 200.0**log_snr, 0.1 * 30.0**log_size
    grown = (1.0 + log_snr + log_size).float()[:, None]
    parts = [torch.randn((count, n), generator=generator) * grown for n in (len(STATISTICS), 6, 8)]
    inputs = OODInputs(snr, size, ResidualFeatures(parts[0], parts[1]), parts[2])
    return dataclasses.replace(inputs, **changed)


@pytest.fixture(scope="module")
def reference():
    return OODReference.learn(fake(60_000), CARD)


# Residuals


def test_statistics_of_noise_are_those_of_noise():
    found = features_of(noise(600))
    for name in ("centre", "wings", "noise_high", "noise_low"):
        values = column(found, name)
        assert abs(float(values.mean())) < 0.15, name
        assert abs(float(values.std()) - 1.0) < 0.1, name
    assert abs(float(found.moments.std()) - 1.0) < 0.01
    for name in ("pixel", "hole", "blob_2", "blob_4", "blob_8"):  # one in e galaxies exceeds 1 or so, few exceed 5
        assert float((column(found, name) > 5.0).float().mean()) < 0.02, name


@pytest.mark.parametrize(
    ("name", "box", "value"),
    [
        ("centre", (slice(30, 34), slice(30, 34)), 3.0),
        ("wings", (slice(38, 42), slice(20, 44)), 2.0),
        ("pixel", (20, 31), 9.0),
        ("hole", (31, 40), -9.0),
        ("blob_2", (slice(36, 38), slice(36, 38)), 4.0),
        ("blob_8", (slice(36, 44), slice(24, 32)), 1.2),
    ],
)
def test_each_statistic_sees_what_it_is_for(name, box, value):
    clean, changed = noise(40), noise(40)
    changed[(slice(None), *box)] += value
    before, after = (column(features_of(each), name) for each in (clean, changed))
    assert float((after - before).median()) > 4.0


def test_scale_of_the_noise():
    for factor, name in ((1.3, "noise_high"), (0.7, "noise_low")):
        assert float(column(features_of(factor * noise(20)), name).min()) > 5.0


def test_a_bright_neighbour_far_away_moves_no_local_statistic():
    changed = noise(20)
    changed[:, 2:8, 2:8] += 100.0
    before, after = features_of(noise(20)), features_of(changed)
    for name in ("centre", "pixel", "hole", "blob_2", "blob_4", "blob_8"):
        torch.testing.assert_close(column(before, name), column(after, name))
    assert float(column(after, "noise_high").max()) < 6.0


def test_bad_pixels_do_not_count():
    good = torch.ones((20, 64, 64), dtype=torch.bool)
    good[:, 28:36, 28:36] = False
    residual = noise(20)
    residual[:, 28:36, 28:36] = 1e6
    found = features_of(torch.where(good, residual, 0.0), good)
    assert float(found.statistics.abs().max()) < 12.0
    nothing = features_of(torch.zeros(2, 64, 64), torch.zeros((2, 64, 64), dtype=torch.bool))
    assert torch.isfinite(nothing.statistics).all()


# Scores


def test_false_alarms_are_those_promised_at_every_snr_and_size(reference):
    fresh = fake(60_000, seed=1)
    score, _ = reference.score(fresh)
    for threshold in (1.0, 2.0, 3.0):
        expected = 10.0**-threshold
        found = float((score > threshold).double().mean())
        assert abs(found - expected) < 5.0 * math.sqrt(expected / 60_000) + 0.1 * expected
    for part, low_rate, high_rate in ((fresh.snr, 0.006, 0.015), (fresh.size, 0.002, 0.03)):
        edges = torch.quantile(part, torch.linspace(0, 1, 6, dtype=torch.float64))
        for low, high in itertools.pairwise(edges):
            chosen = score[(part >= low) & (part <= high)]
            assert low_rate < float((chosen > 2.0).double().mean()) < high_rate


def test_what_is_strange_scores_high(reference):
    for change in range(3):
        inputs = fake(500, seed=2)
        if change == 0:
            inputs.residuals.statistics[:, 4] += 30.0
        elif change == 1:
            inputs.residuals.moments[:, 2] -= 30.0
        else:
            inputs.features[:, 1] += 30.0
        score, _ = reference.score(inputs)
        assert float((score > 2.0).double().mean()) > 0.99
        inputs.residuals.statistics[:] = 0.0


def test_score_grows_with_strangeness_beyond_what_was_simulated(reference):
    one = fake(1, seed=3)
    scores = []
    for size in (10.0, 30.0, 100.0, 1e3, 1e5):
        one.residuals.statistics[:, 4] = size
        scores.append(float(reference.score(one)[0][0]))
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def test_probabilities_name_what_is_strange(reference):
    inputs = fake(50, seed=4)
    inputs.residuals.statistics[:, STATISTICS.index("hole")] += 40.0
    _, reason = reference.score(inputs)
    assert {reference.names[i] for i in reason.tolist()} == {"hole"}


def test_rows_without_measurement_have_no_score(reference):
    inputs = fake(6, seed=5)
    inputs.snr[0] = torch.nan
    inputs.size[1] = torch.nan
    inputs.features[2, 0] = torch.nan
    inputs.snr[3] = 0.0
    score, reason = reference.score(inputs)
    assert torch.isnan(score[:4]).all()
    assert (reason[:4] == -1).all()
    assert (reason[4:] >= 0).all()
    assert torch.isfinite(score[4:]).all()
    assert torch.isnan(reference.score(inputs[torch.arange(1)])[0]).all()


def test_beyond_the_ends_of_snr_and_size(reference):
    inputs = fake(200, seed=6)
    inputs = dataclasses.replace(inputs, snr=inputs.snr * 1e4, size=inputs.size * 1e3)
    assert torch.isfinite(reference.score(inputs)[0]).all()


def test_too_few_galaxies():
    with pytest.raises(ValueError, match="at least 2000"):
        OODReference.learn(fake(1500), CARD)


# Files


def test_round_trip(reference, tmp_path):
    path = tmp_path / "x.ood"
    reference.save(path)
    again = load_ood(path, "0" * 64)
    inputs = fake(100, seed=7)
    torch.testing.assert_close(again.score(inputs)[0], reference.score(inputs)[0])
    assert again.card["galaxies"] == 60_000
    assert list(tmp_path.iterdir()) == [path]
    assert load_ood(tmp_path / "none.ood", "0" * 64) is None
    with pytest.raises(WeightsError, match=r"x\.ood: is not of these weights"):
        load_ood(path, "1" * 64)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "version", "shape"])
def test_damaged_files(reference, tmp_path, damage):
    path = tmp_path / f"{damage}.ood"
    reference.save(path)
    content = path.read_bytes()
    if damage == "version":
        dataclasses.replace(reference, card={**CARD}).save(path)
        content = path.read_bytes().replace(rb"\"format\": 1", rb"\"format\": 9")
    if damage == "shape":
        dataclasses.replace(reference, tails=reference.tails[:, :3].clone()).save(path)
        content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) // 2], "text": b"no such thing" * 9}.get(damage, content)
    )
    with pytest.raises(WeightsError, match=damage + r"\.ood: (is damaged|was written by another version)"):
        load_ood(path, "0" * 64)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A copy of the folder of the package with one network, with the files beside it and its registry."""
    folder = tmp_path / "weights"
    folder.mkdir()
    names = [f"survey-v3{end}" for end in (".safetensors", ".json", ".ood", ".correction")]
    for name in names:
        shutil.copy(registry._FOLDER / name, folder)
    entries = json.loads((registry._FOLDER / "registry.json").read_text())
    (folder / "registry.json").write_text(json.dumps({"survey-v3": entries["survey-v3"]}))
    monkeypatch.setattr(registry, "_FOLDER", folder)
    return folder


def test_digests_of_what_is_shipped():
    for weights in registry.list_weights():
        for suffix in registry.COMPANIONS:
            path = weights.path.with_suffix(suffix)
            known = registry.known_digest(weights.sha256, suffix)
            assert known == (hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None)


def flip(path, content, place):
    """Write a file with one bit flipped."""
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])


@pytest.mark.parametrize("with_digest", [False, True])
def test_flipped_bits_are_refused(shipped, reference, with_digest):
    weights = registry.get_weights("survey-v3")
    path, known = ood_path(weights.path), registry.known_digest(weights.sha256, ".ood")
    if with_digest:
        dataclasses.replace(reference, card={"weights_sha256": weights.sha256}).save(path)
    content = path.read_bytes()
    assert load_ood(path, weights.sha256, known) is not None
    for place in np.linspace(9, len(content) - 1, 40).astype(int):
        flip(path, content, place)
        with pytest.raises(WeightsError):
            load_ood(path, weights.sha256, known)
    with pytest.raises(WeightsError, match=r"survey-v3\.ood: does not match its sha256"):
        NeuralSersicFitter(refine=None).fit(np.ones((2, 33, 33)) + np.eye(33), error=1.0)


def test_flipped_bits_of_a_shipped_correction(shipped):
    path = (shipped / "survey-v3.correction").resolve()
    content = path.read_bytes()
    assert NeuralSersicFitter() is not None
    for place in np.linspace(9, len(content) - 1, 20).astype(int):
        flip(path, content, place)
        with pytest.raises(WeightsError):
            NeuralSersicFitter()


def test_files_of_earlier_versions_have_no_digest(reference, tmp_path):
    reference.save(tmp_path / "x.ood")
    content = (tmp_path / "x.ood").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8:end])["__metadata__"]["card"])
    assert len(card.pop("sha256")) == 64
    (tmp_path / "x.ood").write_bytes(save(load(content), {"card": json.dumps(card)}))
    assert load_ood(tmp_path / "x.ood", "0" * 64) is not None


# Fitter


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Weights with their OOD reference: those of an untrained network, whose residuals are the galaxies."""
    weights = tiny_weights(tmp_path_factory.mktemp("ood"))
    config = dataclasses.replace(SimulationConfig(), masked_neighbours=1.0)
    parts = (cutouts for cutouts, _ in simulate_cutouts(config, 2400, seed=1, chunk=800))
    learn_ood(weights, parts, seed=1).save(ood_path(weights.path))
    return weights


def galaxies(count=12, seed=0, flux=3e4):
    rng = np.random.default_rng(seed)
    parameters = np.tile([flux, 1.5, 3.0, 0.1, 0.1, MIDDLE, MIDDLE], (count, 1))
    psf = gaussian_psf(33)
    return (draw((64, 64), psf, parameters) + rng.normal(0, 5.0, (count, 64, 64))).astype("f4"), psf


def test_column_and_flag(tiny):
    images, psf = galaxies()
    images[3] = np.nan
    table = NeuralSersicFitter(weights=tiny.path).fit(images, psf, error=5.0)
    score, flags = np.asarray(table["ood_score"]), np.asarray(table["flags"])
    assert np.isnan(score[3])
    assert np.isfinite(np.delete(score, 3)).all()
    is_flagged = (flags & int(Flag.OUT_OF_DISTRIBUTION)) > 0
    np.testing.assert_array_equal(is_flagged, np.nan_to_num(score) > 2.0)
    reasons = np.asarray(table["ood_reason"])
    assert set(reasons[is_flagged]) <= {*STATISTICS, "moments", "features"}
    assert set(reasons[~is_flagged]) == {""}


@pytest.mark.parametrize("options", [{"summary": "median"}, {"crb": True}, {"batch_size": 5}], ids=str)
def test_score_is_that_of_the_mean_of_the_network(tiny, options):
    images, psf = galaxies()
    options = {"weights": tiny.path, "precision": "float32", **options}
    expected = NeuralSersicFitter(weights=tiny.path, precision="float32").fit(images, psf, error=5.0)
    found = NeuralSersicFitter(**options).fit(images, psf, error=5.0)
    np.testing.assert_allclose(found["ood_score"], expected["ood_score"], atol=1e-3)


def test_larger_stamps_are_judged_by_what_the_network_sees(tiny):
    images, psf = galaxies()
    wide = np.pad(images, ((0, 0), (20, 20), (20, 20)))
    wide[:, :15] = 1e4  # far beyond the window
    table = NeuralSersicFitter(weights=tiny.path).fit(wide, psf, error=5.0)
    expected = NeuralSersicFitter(weights=tiny.path).fit(images, psf, error=5.0)
    small = np.asarray(table["flags"] & int(Flag.OUTSIDE_DOMAIN)) == 0
    np.testing.assert_allclose(table["ood_score"][small], expected["ood_score"][small], atol=0.05)


def test_without_a_file_there_is_no_score(tmp_path):
    weights = tiny_weights(tmp_path)
    images, psf = galaxies(3)
    table = NeuralSersicFitter(weights=weights.path).fit(images, psf, error=5.0)
    assert not {"ood_score", "ood_reason"} & set(table.colnames)
    assert not (np.asarray(table["flags"]) & int(Flag.OUT_OF_DISTRIBUTION)).any()


def test_a_file_of_other_weights_is_refused(tiny, tmp_path):
    weights = tiny_weights(tmp_path, "other-v1")
    reference = load_ood(ood_path(tiny.path), tiny.sha256)
    dataclasses.replace(reference, card={**reference.card, "weights_sha256": "f" * 64}).save(ood_path(weights.path))
    with pytest.raises(WeightsError, match="not of these weights"):
        NeuralSersicFitter(weights=weights.path)


def test_shipped_weights_have_their_reference():
    for name in ("survey-v3", "survey-v3-fast", "study-v2"):
        weights = get_weights(name)
        reference = load_ood(ood_path(weights.path), weights.sha256)
        assert reference is not None, name
        assert reference.card["galaxies"] >= 45_000


def test_shipped_weights_raise_one_alarm_in_a_hundred():
    config = simulation_from_dict(get_weights(DEFAULT_WEIGHTS).card["simulation"])
    config = dataclasses.replace(config, masked_neighbours=1.0, psf_knowledge=PSFKnowledge.perfect())
    fitter, flags = NeuralSersicFitter(), []
    for cutouts, _ in simulate_cutouts(config, 3000, seed=909, chunk=1000):
        flags.append(np.asarray(fitter.fit(cutouts)["flags"]))
    alarms = (np.concatenate(flags) & int(Flag.OUT_OF_DISTRIBUTION) > 0).mean()
    assert 0.004 < alarms < 0.018


@pytest.mark.parametrize("what", ["cosmic ray", "noise", "edge of the image", "blend"])
def test_shipped_weights_notice(what):
    images, psf = galaxies(60, flux=2e4)  # S/N about 200
    error = 5.0
    if what == "cosmic ray":
        images[:, 36, 24:40] += 150.0
    elif what == "noise":
        error = 5.0 / 1.3
    elif what == "edge of the image":
        images[:, :, 40:] = 0.0
    else:
        images += 0.5 * np.roll(images, (4, 7), axis=(1, 2))
    table = NeuralSersicFitter().fit(images, psf, error=error)
    assert ((np.asarray(table["flags"]) & int(Flag.OUT_OF_DISTRIBUTION)) > 0).mean() > 0.9


# Commands


def test_command_weights_ood(tmp_path):
    weights = tiny_weights(tmp_path)
    done = CliRunner().invoke(cli, ["weights", str(weights.path), "--ood", "2000"])
    assert done.exit_code == 0, done.output
    assert "tiny-v1.ood" in done.output
    assert load_ood(ood_path(weights.path), weights.sha256).card["simulated"] == 2000
    again = CliRunner().invoke(cli, ["weights", str(weights.path), "--ood", "2100"])
    assert again.exit_code != 0
    assert "exists already" in again.output + str(again.exception)
    again = CliRunner().invoke(cli, ["weights", str(weights.path), "--ood", "2100", "--overwrite", "--seed", "5"])
    assert again.exit_code == 0, again.output
    assert load_ood(ood_path(weights.path), weights.sha256).card["seed"] == 5


def test_command_weights_keeps_the_file_of_shipped_weights():
    path = ood_path(get_weights("survey-v3").path)
    before = path.read_bytes()
    done = CliRunner().invoke(cli, ["weights", "survey-v3", "--ood", "2000"])
    assert done.exit_code != 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [["--ood", "3000"], ["survey-v3-fast"]])
def test_command_weights_needs_both(arguments):
    done = CliRunner().invoke(cli, ["weights", *arguments])
    assert done.exit_code != 0
    assert "must be given together" in done.output + str(done.exception)
