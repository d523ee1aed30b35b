"""Batched, differentiable Sersic models convolved with a PSF: Fourier space, analytic derivatives.

The transform of the Sersic profile is tabulated once (:mod:`galmeasure.render.profiles`), evaluated at the sheared
wavenumbers, multiplied by the PSF's transform and the centre's phase, and transformed back. Everything
here is tensors in, tensors out; devices and dtypes follow the parameters.
"""

from galmeasure.render.grid import PSFGrid, prepare_psf
from galmeasure.render.sersic import raw_jacobian_matrix, render_raw, render_sersic

__all__ = ["PSFGrid", "prepare_psf", "raw_jacobian_matrix", "render_raw", "render_sersic"]
