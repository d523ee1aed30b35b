"""Cramer-Rao bounds of galaxies at their true parameters."""

import numpy as np
from astropy.table import QTable, Table

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.fitters.threads import map_batches, single_threaded
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES
from galmeasure.results.columns import TRUE, TRUTH_FORMS, find_column, table_values
from galmeasure.results.frame import Frame
from galmeasure.utils.chunks import chunk_size

__all__ = ["cramer_rao_bounds"]


def cramer_rao_bounds(cutouts: Cutouts, truth: Table) -> QTable:
    """Cramer-Rao bounds of cutouts for given parameters, all seven of them free.

    Parameters
    ----------
    cutouts : Cutouts
        Cutouts with noise, masks and PSFs; the values of their pixels do not matter.
    truth : `~astropy.table.Table`
        One row per cutout: columns ``true_<p>`` or ``<p>`` of all seven parameters.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``<p>_crb`` in the units of a result table: the smallest standard deviation that any unbiased
        estimator can have.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, or lacks rows or columns.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.table import Table
    >>> from galmeasure import Cutouts
    >>> from galmeasure.evaluation import cramer_rao_bounds
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> psf = np.exp(-(x**2 + y**2) / 8)
    >>> truth = {"flux": 1e4, "n": 1.0, "r_eff": 4.0, "g1": 0.2, "g2": 0.0, "x": 16.0, "y": 16.0}
    >>> bounds = cramer_rao_bounds(Cutouts(np.zeros((33, 33)), psf, error=10.0), Table([truth]))
    >>> print(f"{bounds['n_crb'][0]:.2f} {bounds['x_crb'][0]:.2f}")
    0.12 0.09
    """
    if not isinstance(cutouts, Cutouts):
        msg = f"cutouts must be a Cutouts, which holds the PSF, not {type(cutouts).__name__}"
        raise TypeError(msg)
    _check_columns(truth)
    values = table_values(truth, cutouts, TRUTH_FORMS, argument="truth")
    bounds = np.full((len(cutouts), N_PARAMETERS), np.nan)

    def measure(batch):
        scaled = values[batch.index].copy()
        scaled[:, PARAMETER_INDEX["flux"]] /= batch.scale
        rows, quality = batch_quality(BatchTensors.of(batch), scaled, crb=True)
        return batch, rows, None if quality is None else quality.crb.cpu().numpy()

    with single_threaded() as n_threads:
        for batch, rows, bounds_of_batch in map_batches(measure, cutouts.batches(chunk_size("bounds")), n_threads):
            if len(rows):
                bounds[batch.index[rows]] = bounds_of_batch
                bounds[batch.index[rows], PARAMETER_INDEX["flux"]] *= batch.scale[rows]
    frame = Frame.of(cutouts)
    return QTable(
        {f"{name}_crb": frame.column(name, bounds[:, i], difference=True) for i, name in enumerate(PARAMETER_NAMES)}
    )


def _check_columns(truth: Table) -> None:
    """Raise unless there is a column of every parameter."""
    for name in PARAMETER_NAMES:
        if find_column(truth, name, TRUTH_FORMS) is None:
            msg = f"truth must have a column {TRUE.format(name)} or {name}"
            raise ValueError(msg)
