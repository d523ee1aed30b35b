"""Held-out stamps from a table of ``galmeasure simulate``: a check of training by another code's galaxies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from astropy.table import Table

from galmeasure.io import read_cutouts
from galmeasure.networks import CLEANING_SIZE, StampInputs, central_window, network_psfs, resize_stamps
from galmeasure.parameters import PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.results.columns import TRUE, table_values
from galmeasure.training.pool import training_psfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

__all__ = ["read_held_out"]

_MAX_PIXELS = 2**22  # of a batch, which limits its memory


def read_held_out(
    path: str | PathLike, device: str = "cpu", clean_psf: bool = True
) -> Iterator[tuple[StampInputs, torch.Tensor]]:
    """Read stamps and their true parameters.

    Parameters
    ----------
    path : path-like
        Cutout table with columns ``true_<parameter>``, as `~galmeasure.training.make_dataset` writes it.
    device : str, optional
        Torch device of the tensors, for example "cpu" or "cuda". Default "cpu".
    clean_psf : bool, optional
        True if the network takes PSFs that were cleaned. Default True.

    Yields
    ------
    inputs : `~galmeasure.networks.StampInputs`
        Stamps in units of their noise.
    parameters : Tensor
        Their truth in the same units and in pixels of the 64 x 64 stamp, shape ``(B, 7)``.

    Raises
    ------
    ValueError
        If a column of the truth, or the pixel scale, is missing.
    """
    table, cutouts = Table.read(Path(path)), read_cutouts(path)
    missing = [TRUE.format(name) for name in PARAMETER_NAMES if TRUE.format(name) not in table.colnames]
    if missing:
        msg = f"{path}: held-out stamps need the columns true_<parameter>; {', '.join(missing)} are missing"
        raise ValueError(msg)
    if cutouts.pixel_scale is None:
        msg = f"{path}: held-out stamps need their pixel scale"
        raise ValueError(msg)
    truth = table_values(table, cutouts, (TRUE,), argument=str(path))
    for batch in cutouts.batches(_MAX_PIXELS):
        yield _stamps(batch, truth[batch.index], device, clean_psf)


def _stamps(batch, truth, device, clean_psf):
    """Inputs and parameters of one batch."""

    def tensor(array, dtype=np.float32):
        return torch.from_numpy(np.array(array, dtype=dtype)).to(device)

    image, good = tensor(batch.image), tensor(batch.good, bool)
    error = tensor(np.broadcast_to(batch.error, batch.image.shape))
    gain = None if batch.gain is None else tensor(batch.gain)
    window = central_window(tensor(batch.shape, np.int64), image)
    native = (
        network_psfs(tensor(psf[None], np.float64), batch.psf_oversampling, size=CLEANING_SIZE) for psf in batch.psf
    )
    psf, quality = training_psfs(torch.cat(list(native)), clean_psf)
    inputs: StampInputs = resize_stamps(image, error, good, gain, psf, tensor(batch.psf_index, np.int64), window)
    inputs = replace(inputs, psf_quality=quality)
    truth = truth.copy()
    truth[:, PARAMETER_INDEX["flux"]] /= batch.scale
    return inputs, window.from_stamp(tensor(truth, np.float64)).float()
