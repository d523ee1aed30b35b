"""Cramer-Rao bounds of galaxies at their true parameters."""

import numpy as np
from astropy import units as u
from astropy.table import QTable

from galmeasure.cutouts import Cutouts
from galmeasure.fitters.batch_quality import batch_quality
from galmeasure.fitters.tensors import BatchTensors
from galmeasure.fitters.threads import map_batches, single_threaded
from galmeasure.parameters import N_PARAMETERS, PARAMETER_INDEX, PARAMETER_NAMES, PARAMETERS
from galmeasure.results.columns import table_values

__all__ = ["cramer_rao_bounds"]

_FORMS = ("true_{}", "{}_true", "{}", "{}_fit")


def cramer_rao_bounds(cutouts, truth):
    """Cramer-Rao bounds of cutouts for given parameters, all seven of them free.

    Parameters
    ----------
    cutouts : Cutouts
        Their noise, masks and PSFs; the pixels do not matter.
    truth : `~astropy.table.Table`
        One row a cutout: columns ``true_<p>`` or ``<p>`` of all seven parameters.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``<p>_crb`` in the units of a result table: the least standard deviation that any estimator without
        bias can have.

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
    values = table_values(_plain_names(truth), cutouts, ("",), argument="truth")
    found = np.full((len(cutouts), N_PARAMETERS), np.nan)

    def measure(batch):
        scaled = values[batch.index].copy()
        scaled[:, PARAMETER_INDEX["flux"]] /= batch.scale
        rows, quality = batch_quality(BatchTensors.of(batch), scaled, crb=True)
        return batch, rows, None if quality is None else quality.crb.cpu().numpy()

    with single_threaded() as n_threads:
        for batch, rows, bounds in map_batches(measure, cutouts.batches(2**18), n_threads):
            if len(rows):
                found[batch.index[rows]] = bounds
                found[batch.index[rows], PARAMETER_INDEX["flux"]] *= batch.scale[rows]
    if cutouts.pixel_scale is not None:
        found[:, PARAMETER_INDEX["r_eff"]] *= cutouts.pixel_scale
    length = u.pix if cutouts.pixel_scale is None else u.arcsec
    table = QTable()
    for i, parameter in enumerate(PARAMETERS):
        unit = {"flux": cutouts.unit, "length": length}.get(parameter.kind)
        table[f"{parameter.name}_crb"] = found[:, i] if unit is None else u.Quantity(found[:, i], unit)
    return table


def _plain_names(truth):
    """Table with the true parameters under their plain names."""
    table = QTable()
    for name in PARAMETER_NAMES:
        column = next((form.format(name) for form in _FORMS if form.format(name) in truth.colnames), None)
        if column is None:
            msg = f"truth must have a column true_{name} or {name}"
            raise ValueError(msg)
        table[name] = truth[column]
    return table
