"""Explanations of the estimates of networks, with the methods of captum."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from astropy import units as u
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts import Cutouts
from galmeasure.explain.explanation import METHODS, Explanation
from galmeasure.explain.gradcam import check_gradcam, gradcam
from galmeasure.explain.output import ExplainedRows, explained_rows
from galmeasure.fitters import NeuralSersicFitter
from galmeasure.fitters.blank import fail_blank
from galmeasure.fitters.neural.draws import check_integer
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.parameters import SERSIC
from galmeasure.results.frame import Frame
from galmeasure.utils.chunks import chunk_size
from galmeasure.weights import get_weights, load_network

__all__ = ["explain"]


def explain(
    fitter: NeuralSersicFitter,
    cutouts: Any,
    psf: Any = None,
    parameter: str = "n",
    *,
    method: str = "saliency",
    n_steps: int = 128,
    seed: int = 0,
    **options: Any,
) -> Explanation:
    """Explain the posterior mean of a network by the pixels.

    Parameters
    ----------
    fitter : NeuralSersicFitter
        Estimator whose network is explained; its options but ``weights``, ``views`` and ``device`` do not matter.
    cutouts, psf
        The same arguments as those of `galmeasure.NeuralSersicFitter.fit`.
    parameter : str, optional
        Parameter whose estimate is explained, one that the network measures. Default "n".
    method : {"saliency", "integrated_gradients", "gradcam"}, optional
        ``"saliency"``, the default, gives the derivative of the estimate by each pixel, with its sign;
        ``"integrated_gradients"`` what each pixel adds to the difference from the estimate for a stamp of blank sky;
        ``"gradcam"`` the gradient times the activation of a map of features, for networks that have one.
    n_steps : int, optional
        Steps of the integration of gradients, on the straight line from blank sky to the stamp.
    seed : int, optional
        Seed of the blank sky: noise with the errors of the pixels and without a galaxy, another one for each cutout.
    **options
        ``error``, ``mask``, ``gain`` and the other options of `galmeasure.NeuralSersicFitter.fit`.

    Returns
    -------
    Explanation
        One map per cutout, in its shape.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, the network does not measure the parameter, or has no map of features.
    ImportError
        If captum is not installed.

    Notes
    -----
    What is explained is the mean of the network's own posterior, without the Newton steps and the correction of
    ``refine="auto"`` or the weights of ``refine="importance"``: those evaluate the exact model, and their derivatives
    are those of the optimal filter, see `optimal_filter`. Noise, mask and PSF are held as they are. The network sees
    the window about each galaxy that it would see in `fit`.

    References
    ----------
    Simonyan et al. 2013, arXiv:1312.6034 (saliency); Sundararajan et al. 2017, arXiv:1703.01365 (integrated gradients);
    Selvaraju et al. 2017, arXiv:1610.02391 (Grad-CAM); Kokhlikyan et al. 2020, arXiv:2009.07896 (captum).

    Examples
    --------
    >>> from galmeasure import NeuralSersicFitter, read_cutouts
    >>> from galmeasure.explain import explain
    >>> cutouts = read_cutouts("examples/demo_catalog.fits")[1:3]
    >>> explanation = explain(NeuralSersicFitter(), cutouts, parameter="r_eff")
    >>> explanation.maps[0].shape, explanation.maps[0].unit
    ((64, 64), Unit("arcsec / adu"))
    """
    network = _network(fitter, method)
    column = _column(network, fitter, parameter)
    if method not in METHODS:
        msg = f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}"
        raise ValueError(msg)
    check_integer("n_steps", n_steps, 1)
    check_integer("seed", seed, 0)
    _need_captum()
    side = check_gradcam(network) if method == "gradcam" else None
    cutouts = Cutouts(cutouts, psf, **options)
    arrays = _Arrays.empty(cutouts)
    for batch in map(fail_blank, cutouts.batches(chunk_size("network batch"))):
        tensors = BatchTensors.of(batch, fitter.device)
        for output in explained_rows(network, tensors, column):
            maps, values, baselines = _COMPUTE[method](output, n_steps, seed)
            arrays.store(batch, output.rows, maps, values, baselines)
    return _explanation(arrays, parameter, method, get_weights(fitter.weights).name, side)


def _network(fitter, method):
    """Network of a fitter; for Grad-CAM one that looks once."""
    if not isinstance(fitter, NeuralSersicFitter):
        msg = f"fitter must be a NeuralSersicFitter, whose network is explained, not {type(fitter).__name__}"
        raise TypeError(msg)
    network = load_network(fitter.weights, fitter.device)
    if method != "gradcam":
        return network.with_views(fitter.views) if fitter.views > 1 else network
    if getattr(network.config, "passes", 0):  # of dropout, each of which would have a map of its own
        network = copy.copy(network)
        network.config = dataclasses.replace(network.config, passes=0)
    return network


def _column(network, fitter, parameter):
    if parameter not in SERSIC:
        msg = f"parameter must be one of {', '.join(SERSIC.names)}, not {parameter!r}"
        raise ValueError(msg)
    if parameter in network.held:
        msg = f"parameter must be one that the network measures, and {fitter.weights} take {parameter} as known"
        raise ValueError(msg)
    return SERSIC.index(parameter)


def _need_captum():
    try:
        import captum  # noqa: F401
    except ImportError as err:
        msg = "explanations need captum: pip install 'galmeasure[explain]'"
        raise ImportError(msg) from err


def _saliency(output, n_steps, seed):
    """Derivatives and estimates."""
    from captum.attr import Saliency

    images = output.images
    with torch.enable_grad():
        maps = Saliency(output).attribute(images, abs=False, additional_forward_args=(output.members,))
    return maps, _values(output, images), None


def _integrated_gradients(output, n_steps, seed):
    """Integrated gradients from blank sky, estimates, and those for blank sky."""
    from captum.attr import IntegratedGradients

    images, size = output.images, chunk_size("explained stamps", output.tensors.device)
    sky = _blank_sky(output, seed)
    with torch.enable_grad():
        maps = IntegratedGradients(output).attribute(
            images, sky, additional_forward_args=(output.members,), n_steps=n_steps,
            internal_batch_size=size,
        )  # fmt: skip
    return maps, _values(output, images), _values(output, sky)


def _gradcam(output, n_steps, seed):
    """Up-sampled maps of features and estimates."""
    return gradcam(output), _values(output, output.images), None


_COMPUTE: dict[str, Callable[[ExplainedRows, int, int], tuple[Tensor, Tensor, Tensor | None]]] = {
    "saliency": _saliency, "integrated_gradients": _integrated_gradients, "gradcam": _gradcam,
}  # fmt: skip


def _blank_sky(output, seed):
    """Noise with the errors of the pixels, shape ``(B, ny, nx)``: no training has seen a stamp without noise."""
    tensors, rows = output.tensors, torch.from_numpy(output.rows).to(output.tensors.device)
    sky = torch.zeros_like(tensors.image[rows])
    for stamp, row in zip(sky, output.rows, strict=True):
        ny, nx = tensors.batch.shape[row]
        draws = np.random.default_rng([seed, tensors.batch.index[row]]).normal(size=(ny, nx))
        stamp[:ny, :nx] = torch.from_numpy(draws)
    error = tensors.error if len(tensors.error) == 1 else tensors.error[rows]
    return torch.where(tensors.good[rows], sky * error, 0.0)


def _values(output, images):
    with torch.no_grad():
        return output(images, output.members)


@dataclasses.dataclass
class _Arrays:
    """Maps and estimates in units of the pixels of the cutouts and pixels of the stamps."""

    cutouts: Cutouts
    maps: list[NDArray[np.float64]]
    values: NDArray[np.float64]
    baselines: NDArray[np.float64]
    pixel_unit: NDArray[np.float64]

    @classmethod
    def empty(cls, cutouts):
        maps = [np.full(tuple(shape), np.nan) for shape in cutouts.shapes.tolist()]
        return cls(cutouts, maps, *(np.full(len(cutouts), np.nan) for _ in range(3)))

    def store(self, batch, rows, maps, values, baselines):
        """Keep what a group of rows gave."""
        index = batch.index[rows]
        for row, pixels in zip(index, maps.detach().double().cpu().numpy(), strict=True):
            ny, nx = self.maps[row].shape
            self.maps[row][:] = pixels[:ny, :nx]
        self.values[index] = values.cpu().numpy()
        self.pixel_unit[index] = batch.scale[rows]
        if baselines is not None:
            self.baselines[index] = baselines.cpu().numpy()


def _explanation(arrays, parameter, method, weights, side):
    """Result in the units of tables and of the cutouts."""
    frame = Frame.of(arrays.cutouts)
    is_flux = SERSIC[parameter].kind == "flux"
    scale = frame.scale(parameter) * (arrays.pixel_unit if is_flux else 1.0)
    flux = arrays.pixel_unit if is_flux else 1.0
    per_map = {"saliency": scale / arrays.pixel_unit, "integrated_gradients": scale, "gradcam": np.ones(len(scale))}
    maps = [pixels * factor for pixels, factor in zip(arrays.maps, per_map[method], strict=True)]
    unit = _unit_of_maps(frame, parameter, method)
    maps = maps if unit is None else [u.Quantity(pixels, unit, copy=False) for pixels in maps]
    baselines = None
    if method == "integrated_gradients":
        baselines = frame.column(parameter, arrays.baselines * flux)
    values = frame.column(parameter, arrays.values * flux)
    return Explanation(parameter, method, maps, values, arrays.cutouts, weights, side, baselines)


def _unit_of_maps(frame, parameter, method):
    """Unit of the maps, or None."""
    unit = frame.unit_of(parameter)
    if method == "gradcam":
        return None
    if method == "integrated_gradients" or frame.unit is None:
        return unit
    unit = (u.dimensionless_unscaled if unit is None else unit) / frame.unit
    return None if unit == u.dimensionless_unscaled else unit
