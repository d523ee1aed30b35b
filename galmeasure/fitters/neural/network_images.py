"""Images that networks make of stamps: denoised, decoded, and where their attention lies."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from astropy import units as u
from numpy.typing import NDArray
from torch import Tensor

from galmeasure.cutouts import Cutouts
from galmeasure.cutouts.batches import CutoutBatch
from galmeasure.fitters.blank import fail_blank
from galmeasure.fitters.neural.encode import network_inputs
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.fitters.threads import map_batches, single_threaded
from galmeasure.networks import NATIVE_SIZE, PosteriorNetwork, StampInputs, Window
from galmeasure.utils.lazy import function_of
from galmeasure.utils.progress import progress
from galmeasure.weights import Weights, load_network

__all__ = ["NetworkImages"]


class NetworkImages:
    """Methods of estimators whose networks make images."""

    device: str
    _weights: Weights

    def denoise(
        self, cutouts: Any, psf: Any = None, *, progress_bar: bool = False, **options: Any
    ) -> list[NDArray[np.float64] | u.Quantity]:
        """Denoise stamps, with weights of a two-stage pipeline such as ``edsr-xception-set1-v1``.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        progress_bar : bool, optional
            Show a bar on standard error.
        **options
            The same options as those of `sample`.

        Returns
        -------
        list of ndarray or Quantity
            One image per cutout, in its shape and unit. Pixels that the network does not see, outside of its 64 x 64
            pixels, are NaN, and so are cutouts that cannot be measured; bad pixels are filled in.

        Raises
        ------
        TypeError, ValueError
            If the weights have no denoiser, or an argument is of the wrong kind, shape or unit.

        Examples
        --------
        >>> from galmeasure import NeuralSersicFitter, read_cutouts
        >>> cutouts = read_cutouts("examples/demo_catalog.fits")
        >>> denoised = NeuralSersicFitter(weights="edsr-xception-set1-v1").denoise(cutouts[:2])
        >>> denoised[0].shape, denoised[0].unit
        ((64, 64), Unit("adu"))
        """
        if "denoised" not in load_network(self._weights, self.device).makes:
            msg = f"weights must be a two-stage pipeline for denoise, and {self._weights.name} have no denoiser"
            raise ValueError(msg)
        return self._images(cutouts, psf, _denoised, progress_bar, options)

    def reconstruct(
        self, cutouts: Any, psf: Any = None, *, progress_bar: bool = False, **options: Any
    ) -> list[NDArray[np.float64] | u.Quantity]:
        """Draw the galaxies that an autoencoder sees, by its decoder.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        progress_bar : bool, optional
            Show a bar on standard error.
        **options
            The same options as those of `sample`.

        Returns
        -------
        list of ndarray or Quantity
            One noiseless image per cutout, as `denoise` gives them. The model that the physical renderer draws from
            the same measurement is that of `make_model_images`.

        Raises
        ------
        TypeError, ValueError
            If the weights have no decoder, or an argument is of the wrong kind, shape or unit.

        Examples
        --------
        >>> from galmeasure import NeuralSersicFitter, read_cutouts
        >>> cutouts = read_cutouts("examples/demo_catalog.fits")
        >>> decoded = NeuralSersicFitter(weights="autoencoder-set3-v1").reconstruct(cutouts[:2])
        >>> decoded[0].shape
        (64, 64)
        """
        if "decoded" not in load_network(self._weights, self.device).makes:
            msg = f"weights must be an autoencoder for reconstruct, and {self._weights.name} have no decoder"
            raise ValueError(msg)
        return self._images(cutouts, psf, _reconstructed, progress_bar, options)

    def attention_maps(
        self, cutouts: Any, psf: Any = None, *, progress_bar: bool = False, **options: Any
    ) -> list[NDArray[np.float64]]:
        """Show where the attention of a network lies, with weights such as ``attention-v1``.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        progress_bar : bool, optional
            Show a bar on standard error.
        **options
            The same options as those of `sample`.

        Returns
        -------
        list of ndarray
            For each cutout, in its shape, the weights with which the network pools what it sees of the pixels. They
            are constant over patches of 4 x 4 pixels near the middle and of 16 x 16 outside, and their sum is 1 for a
            stamp of 64 x 64 pixels; NaN outside the pixels that the network sees.

        Raises
        ------
        TypeError, ValueError
            If the network has no attention, or an argument is of the wrong kind, shape or unit.

        Examples
        --------
        >>> from galmeasure import NeuralSersicFitter, read_cutouts
        >>> cutouts = read_cutouts("examples/demo_catalog.fits")
        >>> maps = NeuralSersicFitter(weights="attention-v1").attention_maps(cutouts[:2])
        >>> maps[0].shape, round(float(maps[0].sum()), 3)
        ((64, 64), 1.0)
        """
        if "attention" not in load_network(self._weights, self.device).makes:
            msg = f"weights must have an encoder of attention for attention_maps, and {self._weights.name} have none"
            raise ValueError(msg)
        cutouts = Cutouts(cutouts, psf, **options)
        return self._images(cutouts, None, _attention, progress_bar, {}, is_light=False)

    def explain(
        self, cutouts: Any, psf: Any = None, parameter: str = "n", *, method: str = "saliency", **options: Any
    ) -> Any:
        """Explain the posterior mean of the network by the pixels, see `galmeasure.explain.explain`.

        Parameters
        ----------
        cutouts, psf
            The same arguments as those of `fit`.
        parameter : str, optional
            Parameter whose estimate is explained. Default "n".
        method : {"saliency", "integrated_gradients", "gradcam"}, optional
            Method of the explanation: derivatives by the pixels, integrated gradients, or up-sampled maps of features.
        **options
            ``n_steps`` and ``seed`` of integrated gradients, and the same options as those of `sample`.

        Returns
        -------
        galmeasure.explain.Explanation
            One map per cutout, in its shape, and the estimates.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, the network does not measure the parameter, or has no map of features.
        ImportError
            If captum is not installed.

        Examples
        --------
        >>> from galmeasure import NeuralSersicFitter, read_cutouts
        >>> cutouts = read_cutouts("examples/demo_catalog.fits")
        >>> explanation = NeuralSersicFitter().explain(cutouts[1:3], parameter="n")
        >>> explanation.maps[0].shape, explanation.maps[0].unit
        ((64, 64), Unit("1 / adu"))
        """
        # explanations stand above the estimators, which therefore find them by name
        explain = function_of("galmeasure.explain.attribution:explain")
        return explain(self, cutouts, psf, parameter, method=method, **options)

    def _each_batch(self, cutouts, function, progress_bar):
        """Yield what a function gives for each batch, in threads."""
        with single_threaded() as n_threads, progress(len(cutouts), progress_bar) as bar:
            n_workers = n_threads if self.device == "cpu" else 1
            batches = cutouts.batches(self._max_pixels(cutouts, n_workers))
            for batch, result in map_batches(function, map(fail_blank, batches), n_workers):
                yield batch, result
                bar.update(len(batch))

    def _images(self, cutouts, psf, function, progress_bar, options, is_light=True):
        """Images of a function of network and inputs, put onto the stamps."""
        cutouts = Cutouts(cutouts, psf, **options)
        images = [np.full(tuple(shape), np.nan) for shape in cutouts.shapes.tolist()]

        def draw(batch):
            return batch, list(_window_images(load_network(self._weights, self.device), batch, self.device, function))

        for batch, drawn in self._each_batch(cutouts, draw, progress_bar):
            for row, start, pixels in drawn:
                _paste(images[batch.index[row]], start, pixels * (batch.scale[row] if is_light else 1.0))
        if cutouts.unit is None or not is_light:
            return images
        return [u.Quantity(image, cutouts.unit, copy=False) for image in images]


def _window_images(
    network: PosteriorNetwork,
    batch: CutoutBatch,
    device: str,
    function: Callable[[PosteriorNetwork, StampInputs], Tensor],
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Yield row of the batch, first pixel and image of each window."""
    with torch.inference_mode():
        for rows, count, inputs, window in network_inputs(network, BatchTensors.of(batch, device)):
            images = function(network, inputs).double().cpu().numpy()
            yield from zip(rows[:count], _starts(window), images, strict=False)


def _starts(window: Window) -> NDArray[np.int64]:
    return window.start.cpu().numpy()


def _paste(image, start, pixels):
    """Put the pixels of a window onto a stamp, in place."""
    low = np.maximum(start, 0)
    high = np.minimum(start + NATIVE_SIZE, image.shape)
    inside = tuple(slice(first, last) for first, last in zip(low - start, high - start, strict=True))
    image[low[0] : high[0], low[1] : high[1]] = pixels[inside]


def _denoised(network, inputs):
    return network.denoise(inputs)


def _attention(network, inputs):
    return network.attention(inputs, psf=inputs.psf)


def _reconstructed(network, inputs):
    return network.reconstruct(inputs)
