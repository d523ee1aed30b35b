"""Simulated stamps on the fly: the project's renderer and its likelihood's noise model, in torch, on any device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from galmeasure.likelihood import flux_of_snr, signal_to_noise, variance
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX
from galmeasure.priors import Disc, Prior, Range, get_prior
from galmeasure.render import PSFGrid, render_sersic
from galmeasure.render.memory import reserve_heap
from galmeasure.simulation.psf_knowledge import PSFKnowledge, told_images
from galmeasure.simulation.psfs import FAMILIES, RandomPSFs, draw_psfs
from galmeasure.utils.chunks import chunk_size

__all__ = ["ExpectedStamps", "SimulatedStamps", "SimulationConfig", "simulate_expected", "simulate_stamps"]


_FLUX = PARAMETER_INDEX["flux"]
_CENTRE = [PARAMETER_INDEX["x"], PARAMETER_INDEX["y"]]


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """Properties of simulated stamps; fractions are of the stamps.

    Parameters
    ----------
    prior : str or Prior, optional
        Prior of the galaxies, or its name, see `galmeasure.priors.get_prior`.
    size : int, optional
        Side of the square stamps in pixels.
    psf_families : tuple of str, optional
        Among ``"moffat"``, ``"gaussian"``, ``"double_gaussian"``, ``"kolmogorov"`` and ``"airy"``.
    psf_shear : float, optional
        Largest modulus of the reduced shear of the PSF.
    moffat_beta : float, optional
        Exponent of the Moffat profiles; random between 1.8 and 5 by default.
    psf_size : int, optional
        Odd side of the PSF images in pixels.
    psf_ends : bool, optional
        True if the wings of PSFs end inside their images, see `galmeasure.training.draw_psfs`.
    psf_knowledge : PSFKnowledge, optional
        Errors of the PSF images that the fitters are given, like those of images of real stars.
    stamps_per_psf : int, optional
        Approximate number of stamps that share one PSF.
    shot_noise : float, optional
        Fraction of stamps that have the shot noise of the source.
    background_electrons : Range, optional
        1-sigma background noise in electrons, where there is shot noise: this is the gain in noise units.
    total_error : float, optional
        Fraction, of those with shot noise, whose error map contains it already, as estimated from the noisy pixels
        (half of them smoothed): their gain is not known.
    uneven_error : float, optional
        Fraction of stamps whose error map varies over the stamp.
    bad_columns, cosmic_rays : float, optional
        Fractions of stamps with masked columns or rows, and with masked short tracks.
    neighbours : float, optional
        Mean number of other galaxies in a stamp.
    masked_neighbours : float, optional
        Fraction of these galaxies that are masked.
    background : float, optional
        Standard deviation of a constant left in the stamp, in units of the noise of a pixel.
    small_stamps : float, optional
        Fraction of stamps smaller than ``size``, down to ``smallest``: pixels beyond are masked.
    smallest : int, optional
        Side of the smallest stamp in pixels.
    """

    prior: str | Prior = "survey"
    size: int = 64
    psf_families: tuple[str, ...] = FAMILIES
    psf_shear: float = 0.1
    moffat_beta: float | None = None
    psf_size: int = 63
    psf_ends: bool = True
    psf_knowledge: PSFKnowledge = field(default_factory=PSFKnowledge)
    stamps_per_psf: int = 8
    shot_noise: float = 0.5
    background_electrons: Range = field(default_factory=lambda: Range(3.0, 1000.0, log=True))
    total_error: float = 0.4
    uneven_error: float = 0.3
    bad_columns: float = 0.1
    cosmic_rays: float = 0.15
    neighbours: float = 0.3
    masked_neighbours: float = 0.6
    background: float = 0.01
    small_stamps: float = 0.15
    smallest: int = 24

    def __post_init__(self):
        """Check ranges of the numbers."""
        get_prior(self.prior)
        fractions = (
            "shot_noise", "total_error", "uneven_error", "bad_columns", "cosmic_rays", "masked_neighbours",
            "small_stamps",
        )  # fmt: skip
        for name in fractions:
            if not 0.0 <= getattr(self, name) <= 1.0:
                msg = f"{name} must lie between 0 and 1, not {getattr(self, name)}"
                raise ValueError(msg)
        if get_prior(self.prior).electrons is not None and self.shot_noise < 1.0:
            msg = f"shot_noise must be 1 with prior {get_prior(self.prior).name!r}, whose fluxes are in electrons"
            raise ValueError(msg)
        for name in ("neighbours", "background"):
            if getattr(self, name) < 0:
                msg = f"{name} must not be negative, not {getattr(self, name)}"
                raise ValueError(msg)
        if not 8 <= self.smallest <= self.size:
            msg = f"smallest must lie between 8 and size = {self.size}, not {self.smallest}"
            raise ValueError(msg)

    @classmethod
    def study(cls) -> SimulationConfig:
        """Return the configuration of data set 3 of the study, with the centre free within half a pixel."""
        return cls(
            prior="study", psf_families=("moffat",), psf_shear=0.0, psf_knowledge=PSFKnowledge.perfect(),
            psf_ends=False, shot_noise=1.0,
            total_error=0.0, uneven_error=0.0, bad_columns=0.0, cosmic_rays=0.0, neighbours=0.0, background=0.0,
            small_stamps=0.0, background_electrons=Range(200.0, 400.0),
        )  # fmt: skip


@dataclass(frozen=True)
class SimulatedStamps:
    """A batch of stamps, in units of the median noise of a pixel.

    Parameters
    ----------
    image, error : Tensor
        Pixels and their 1-sigma errors, shape ``(B, ny, nx)``; 0 and 1 where a pixel is bad.
    good : Tensor
        Mask of usable pixels, boolean, shape ``(B, ny, nx)``.
    gain : Tensor
        Electrons per unit, shape ``(B,)``; infinite where ``error`` is all the noise.
    parameters : Tensor
        True parameters of the galaxies, shape ``(B, 7)``.
    snr : Tensor
        Signal-to-noise ratio of the noiseless galaxy on its good pixels, shape ``(B,)``.
    psf_images : Tensor
        PSF images that fitters are given, shape ``(M, size, size)``, native sampling.
    psf_index : Tensor
        Index of the PSF of each stamp, shape ``(B,)``.
    psf_fwhm : Tensor
        FWHM of each optical PSF in pixels, shape ``(M,)``.
    psf_grid : PSFGrid
        Transforms of the PSFs for the renderer and the likelihood.
    """

    image: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    gain: torch.Tensor
    parameters: torch.Tensor
    snr: torch.Tensor
    psf_images: torch.Tensor
    psf_index: torch.Tensor
    psf_fwhm: torch.Tensor
    psf_grid: PSFGrid


@dataclass(frozen=True)
class ExpectedStamps:
    """A batch of stamps before their noise, from which `observe` makes as many noisy ones as wanted.

    Parameters
    ----------
    expected : Tensor
        Light of galaxy, neighbours and residual background, shape ``(B, ny, nx)``.
    error, good : Tensor
        Background noise, median near 1, and good pixels, shape ``(B, ny, nx)``.
    electrons : Tensor
        Electrons per unit, shape ``(B,)``; infinite without shot noise.
    shot_noise_in_error_map, smoothed : Tensor
        Boolean, shape ``(B,)``: true where the error map contains the shot noise, and where it is smoothed.
    parameters, snr, psf_images, psf_index, psf_fwhm, psf_grid
        Truth and PSFs as in `SimulatedStamps`.
    """

    expected: torch.Tensor
    error: torch.Tensor
    good: torch.Tensor
    electrons: torch.Tensor
    shot_noise_in_error_map: torch.Tensor
    smoothed: torch.Tensor
    parameters: torch.Tensor
    snr: torch.Tensor
    psf_images: torch.Tensor
    psf_index: torch.Tensor
    psf_fwhm: torch.Tensor
    psf_grid: PSFGrid

    def observe(self, generator: torch.Generator | None = None) -> SimulatedStamps:
        """Draw noise.

        Parameters
        ----------
        generator : torch.Generator, optional
            Random number generator on the device of the stamps.

        Returns
        -------
        SimulatedStamps
            Stamps with noise added.
        """
        image, error, gain = add_noise(
            self.expected, self.error, self.good, self.electrons, self.shot_noise_in_error_map, self.smoothed, generator
        )
        return SimulatedStamps(
            image, error, self.good, gain, self.parameters, self.snr, self.psf_images, self.psf_index,
            self.psf_fwhm, self.psf_grid,
        )  # fmt: skip


def add_noise(
    expected: torch.Tensor,
    error: torch.Tensor,
    good: torch.Tensor,
    electrons: torch.Tensor,
    shot_noise_in_error_map: torch.Tensor,
    smoothed: torch.Tensor,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw noisy images.

    Parameters
    ----------
    expected, error, good, electrons, shot_noise_in_error_map, smoothed : Tensor
        Fields of `ExpectedStamps` of the same names.
    generator : torch.Generator, optional
        Random number generator on the device of the stamps.

    Returns
    -------
    image, error : Tensor
        Noisy images and their error maps, shape ``(B, ny, nx)``; 0 and 1 where a pixel is bad.
    gain : Tensor
        Gain that fitters are given, shape ``(B,)``; infinite where the error map is all the noise.
    """
    normal = torch.randn(expected.shape, generator=generator, device=expected.device)
    image = expected + normal * variance(expected, error, electrons).sqrt()
    if shot_noise_in_error_map.any():
        rows = torch.nonzero(shot_noise_in_error_map)[:, 0]
        light = image[rows].clamp_min(0.0)
        soft = torch.nn.functional.avg_pool2d(light[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
        light = torch.where(smoothed[rows, None, None], soft, light)
        error = error.index_copy(0, rows, variance(light, error[rows], electrons[rows]).sqrt())
    image = torch.where(good, image, 0.0)
    error = torch.where(good, error, 1.0)
    return image, error, torch.where(shot_noise_in_error_map, torch.inf, electrons)


def simulate_stamps(
    config: SimulationConfig, count: int, *, generator: torch.Generator | None = None, device: str = "cpu"
) -> SimulatedStamps:
    """Simulate a batch of stamps.

    Parameters
    ----------
    config : SimulationConfig
        Distributions of galaxies, PSFs, noise and masks.
    count : int
        Number of stamps to simulate.
    generator : torch.Generator, optional
        Random number generator on the device; the batch is a function of its state.
    device : str, optional
        Torch device on which to simulate, for example "cpu" or "cuda". Default "cpu".

    Returns
    -------
    SimulatedStamps
        Stamps with their truth.

    Examples
    --------
    >>> import torch
    >>> from galmeasure.simulation.stamps import SimulationConfig, simulate_stamps
    >>> stamps = simulate_stamps(SimulationConfig(), 16, generator=torch.Generator().manual_seed(1))
    >>> tuple(stamps.image.shape), tuple(stamps.parameters.shape)
    ((16, 64, 64), (16, 7))
    """
    with torch.inference_mode():
        return simulate_expected(config, count, generator=generator, device=device).observe(generator)


def simulate_expected(
    config: SimulationConfig, count: int, *, generator: torch.Generator | None = None, device: str = "cpu"
) -> ExpectedStamps:
    """Simulate a batch of stamps without its noise.

    Parameters
    ----------
    config, count, generator, device
        Same arguments as in `simulate_stamps`.

    Returns
    -------
    ExpectedStamps
        Stamps with their truth.
    """
    reserve_heap()
    prior, shape = get_prior(config.prior), (config.size, config.size)
    options = {"generator": generator, "device": device}
    with torch.inference_mode():
        n_psfs = -(-count // config.stamps_per_psf)
        psfs = draw_psfs(
            n_psfs, prior.psf_fwhm, shape, families=config.psf_families, max_shear=config.psf_shear,
            size=config.psf_size, ends=config.psf_ends, moffat_beta=config.moffat_beta, **options,
        )  # fmt: skip
        psf_index = torch.arange(count, device=device) // config.stamps_per_psf
        error = _error_maps(config, count, shape, options)
        good = _good_pixels(config, count, shape, options)
        gain = config.background_electrons.sample(count, generator, device)
        gain[torch.rand(count, **options) >= config.shot_noise] = torch.inf
        parameters, unit, snr = _galaxies(config, psfs, psf_index, error, good, gain, options)
        model = parameters[:, _FLUX, None, None] * unit
        expected = model + _neighbours(config, model, psfs, psf_index, error, good, options)
        expected += config.background * torch.randn((count, 1, 1), **options)
        hidden, smoothed = torch.rand((2, count), **options)
        hidden = (hidden < config.total_error) & torch.isfinite(gain)
        images = told_images(config.psf_knowledge, psfs, config.psf_families, **options)
    return ExpectedStamps(
        expected, error, good, gain, hidden, smoothed < 0.5, parameters, snr, images, psf_index, psfs.fwhm,
        psfs.grid,
    )  # fmt: skip


def _render(parameters, psfs: RandomPSFs, psf_index):
    """Models ``(B, ny, nx)``, rendered in chunks."""
    step = chunk_size("simulated stamps", parameters.device.type)
    chunks = zip(parameters.split(step), psf_index.split(step), strict=True)
    return torch.cat([render_sersic(chunk, psfs.grid, index) for chunk, index in chunks])


def _galaxies(config, psfs, psf_index, error, good, gain, options):
    """Parameters, unit-flux models and S/N of the galaxies.

    What falls outside the prior's cut is drawn again, together with its noise and with another PSF of the batch
    (``gain`` and ``psf_index`` change in place), because the cut selects among these too.
    """
    prior, count, shape = get_prior(config.prior), len(gain), error.shape[1:]
    parameters = torch.empty((count, N_PARAMETERS), device=options["device"])
    unit = torch.empty((count, *shape), device=options["device"])
    snr = torch.zeros(count, device=options["device"])
    snr_drawn = prior.snr.sample(count, options["generator"], options["device"])
    rows = torch.arange(count, device=options["device"])
    while len(rows):
        fwhm = psfs.fwhm[psf_index[rows]]
        drawn = prior.sample(len(rows), shape, snr=snr_drawn[rows], psf_fwhm=fwhm, **options)
        flux = drawn[:, _FLUX].clone()
        drawn[:, _FLUX] = 1.0
        unit[rows] = _render(drawn, psfs, psf_index[rows])
        noise = error[rows], good[rows], gain[rows]
        if prior.electrons is None:
            drawn[:, _FLUX] = flux_of_snr(unit[rows], snr_drawn[rows], *noise)
        else:  # the study cuts in the ratio to the background alone
            drawn[:, _FLUX] = flux / gain[rows]
            noise = (*noise[:2], torch.full_like(gain[rows], torch.inf))
        parameters[rows] = drawn
        snr[rows] = signal_to_noise(drawn[:, _FLUX, None, None] * unit[rows], *noise)
        rows = rows[~(torch.isfinite(drawn).all(1) & prior.snr.contains(snr[rows], 0.01))]
        if prior.electrons is not None:
            gain[rows] = config.background_electrons.sample(len(rows), options["generator"], options["device"])
            psf_index[rows] = torch.randint(len(psfs.fwhm), (len(rows),), **options)
    return parameters, unit, snr


def _error_maps(config, count, shape, options):
    """Noise per pixel, median near 1: constant, or with a gradient and a step."""
    ny, nx = shape
    y = torch.linspace(-1.0, 1.0, ny, device=options["device"])[:, None]
    x = torch.linspace(-1.0, 1.0, nx, device=options["device"])
    numbers = torch.randn((count, 4, 1, 1), **options)
    angle = torch.pi * numbers[:, 0]
    along = x * torch.cos(angle) + y * torch.sin(angle)
    step = (along > 0.5 * numbers[:, 1]).float()
    log_error = 0.1 * numbers[:, 2] * along + 0.1 * numbers[:, 3] * (step - 0.5)
    uneven = torch.rand((count, 1, 1), **options) < config.uneven_error
    return torch.where(uneven, torch.exp(log_error), 1.0)


def _good_pixels(config, count, shape, options):
    """Pixels that are not masked by columns, rows, tracks or the edge of a smaller stamp."""
    ny, nx = shape
    device = options["device"]
    y = torch.arange(ny, device=device)[:, None] - (ny - 1) / 2.0
    x = torch.arange(nx, device=device) - (nx - 1) / 2.0
    good = torch.ones((count, ny, nx), dtype=torch.bool, device=device)

    def chance(fraction):
        return (torch.rand(count, **options) < fraction)[:, None, None]

    position = (torch.rand((count, 1, 1), **options) - 0.5) * nx
    width = 0.5 + 1.5 * torch.rand((count, 1, 1), **options)
    upright = chance(0.7)
    good &= ~(chance(config.bad_columns) & ((torch.where(upright, x, y) - position).abs() < width))
    for _ in range(2):
        start = (torch.rand((count, 2, 1, 1), **options) - 0.5) * nx
        angle = torch.pi * torch.rand((count, 1, 1), **options)
        length = 1.0 + 9.0 * torch.rand((count, 1, 1), **options)
        dx, dy = x - start[:, 0], y - start[:, 1]
        along = dx * torch.cos(angle) + dy * torch.sin(angle)
        across = dy * torch.cos(angle) - dx * torch.sin(angle)
        good &= ~(chance(config.cosmic_rays) & (along.abs() < length) & (across.abs() < 0.9))
    sides = config.smallest + torch.rand((count, 2, 1, 1), **options) * (config.size - config.smallest)
    small = chance(config.small_stamps)
    return good & ~(small & ((x.abs() > sides[:, 0] / 2.0) | (y.abs() > sides[:, 1] / 2.0)))


def _neighbours(config, model, psfs, psf_index, error, good, options):
    """Light of other galaxies; masks some of them, in place, where they outshine the noise and the galaxy."""
    light = torch.zeros_like(model)
    if config.neighbours == 0:
        return light
    count, (ny, nx) = len(model), model.shape[1:]
    number = torch.poisson(torch.full((count,), config.neighbours, device=model.device), options["generator"])
    rows = torch.repeat_interleave(torch.arange(count, device=model.device), number.long())
    if not len(rows):
        return light
    drawn = _NEIGHBOUR.sample(len(rows), (ny, nx), **options)
    side = torch.tensor([nx, ny], device=model.device)
    position = torch.rand((len(rows), 2), **options) * (side + 8.0) - 4.0
    middle = (side - 1.0) / 2.0
    offset = position - middle
    distance = offset.norm(dim=1, keepdim=True).clamp_min(1e-3)
    position = middle + offset * (distance.clamp_min(8.0) / distance)
    drawn[:, _CENTRE] = position
    unit = _render(drawn, psfs, psf_index[rows])
    snr = _NEIGHBOUR.snr.sample(len(rows), options["generator"], options["device"])
    scale = signal_to_noise(unit, error[rows], torch.ones_like(good[rows]))
    images = unit * (snr / scale.clamp_min(1e-3)).clamp_max(1e5)[:, None, None]
    masked = torch.rand((len(rows), 1, 1), **options) < config.masked_neighbours
    hidden = masked & (images > 1.0 * error[rows]) & (images > 0.5 * model[rows])
    covered = torch.zeros_like(light).index_add_(0, rows, hidden.to(light.dtype))
    good &= covered == 0
    return light.index_add_(0, rows, images)


_NEIGHBOUR = Prior(
    name="neighbour",
    n=Range(0.5, 5.0),
    r_eff=Range(0.3, 5.0, log=True),
    shear=Disc(0.7, concentration=2.0),
    centre=0.0,
    snr=Range(5.0, 300.0, log=True),
    psf_fwhm=Range(1.5, 7.0),
)
