"""The space of parameters: names and columns, and its unbounded coordinates."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import galmeasure
from galmeasure.parameters import BACKGROUND, G_MAX, PARAMETERS, SERSIC, ParameterSpace, SersicParameter
from galmeasure.transforms import Disc, Linear, Log, Logit, LogitOfLog, LogitOfOffset, SpaceTransform, Tanh

BULGE = tuple(
    SersicParameter(f"bulge_{p.name}", p.kind, p.lower, p.upper, p.latex, p.description, p.coordinate)
    for p in PARAMETERS
    if p.name in ("flux", "r_eff", "g1", "g2")
)
LARGER = SERSIC.extended(BACKGROUND, *BULGE)


def test_names_and_columns():
    assert SERSIC.size == len(SERSIC) == 7
    assert SERSIC.indices("flux", "y") == (0, 6)
    assert SERSIC.slice("n") == slice(1, 2)
    assert SERSIC["n"] is PARAMETERS[1]
    assert "x" in SERSIC
    assert "bulge" not in SERSIC
    assert SERSIC.without("flux", "g1", "g2").names == ("n", "r_eff", "x", "y")
    with pytest.raises(ValueError, match="name must be one of flux, n, r_eff, g1, g2, x, y, not 'radius'"):
        SERSIC.index("radius")


def test_larger_space():
    assert LARGER.size == 12
    assert LARGER.names[7:9] == ("background", "bulge_flux")
    assert list(LARGER.blocks())[-3:] == [("bulge_flux",), ("bulge_r_eff",), ("bulge_g1", "bulge_g2")]
    with pytest.raises(ValueError, match="must have different names"):
        SERSIC.extended(PARAMETERS[0])
    with pytest.raises(ValueError, match="two components of a disc side by side, not g1 alone"):
        ParameterSpace(PARAMETERS[:4])


TRANSFORMS = {
    "of a network": {"n": Logit(0.3, 8.0), "r_eff": LogitOfLog(0.2, 16.0), "x": LogitOfOffset(31.5, 1.5)},
    "of a fit": {"flux": Linear(), "n": Log(), "g1": Disc(G_MAX, smooth=False), "x": Linear()},
    "one by one": {"g1": Tanh(G_MAX), "bulge_g1": Tanh(G_MAX)},
    "of the table": {},
}


@pytest.mark.parametrize("space", [SERSIC, LARGER], ids=["one galaxy", "larger"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_coordinates(space, name):
    """Back and forth; derivatives and volume are those of automatic differentiation."""
    transform = SpaceTransform.of(space, TRANSFORMS[name])
    generator = torch.Generator().manual_seed(3)
    coordinates = 0.5 * torch.randn(20, space.size, generator=generator, dtype=torch.float64)
    scale = 1.0 + torch.rand(20, generator=generator, dtype=torch.float64)
    parameters = transform.from_coordinates(coordinates, scale)
    torch.testing.assert_close(transform.to_coordinates(parameters, scale), coordinates)
    jacobian = transform.jacobian(coordinates, scale)
    for row in range(20):
        exact = torch.autograd.functional.jacobian(
            lambda u, row=row: transform.from_coordinates(u, scale[row]), coordinates[row]
        )
        torch.testing.assert_close(jacobian[row], exact, atol=1e-9, rtol=1e-7)
    volume = transform.log_volume(coordinates, scale)
    torch.testing.assert_close(volume, torch.linalg.slogdet(jacobian).logabsdet)


def test_no_scale_is_a_scale_of_one():
    transform = SpaceTransform.of(SERSIC)
    coordinates = torch.zeros(3, 7)
    for method in (transform.from_coordinates, transform.to_coordinates, transform.jacobian, transform.log_volume):
        assert torch.equal(method(coordinates + 0.1), method(coordinates + 0.1, torch.ones(3)))


def test_space_without_the_flux():
    transform = SpaceTransform.of(SERSIC, TRANSFORMS["of a network"])
    smaller = transform.without("flux")
    coordinates = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    rest = coordinates[:, SERSIC.slice("n", "y")]
    full = transform.from_coordinates(coordinates)
    torch.testing.assert_close(smaller.from_coordinates(rest), full[:, SERSIC.slice("n", "y")])
    flux = coordinates[:, SERSIC.index("flux")]
    torch.testing.assert_close(smaller.log_volume(rest) + flux, transform.log_volume(coordinates))
    assert smaller.space == SERSIC.without("flux")


def test_outside_the_domain():
    """Values outside are moved to the edge where a network needs it, and marked where quantiles need that."""
    inside = Logit(0.3, 8.0).to_coordinates([torch.tensor([0.1, 9.0])], 1.0)[0]
    assert torch.isfinite(inside).all()
    strict = Logit(0.3, 8.0, edge=0.0).to_coordinates([torch.tensor([0.1, 0.3, 8.0], dtype=torch.float64)], 1.0)[0]
    np.testing.assert_array_equal(strict, [np.nan, -np.inf, np.inf])
    g1, g2 = Disc(0.9).to_coordinates([torch.tensor([0.0, 3.0]), torch.tensor([0.0, 4.0])], 1.0)
    assert g1[0] == g2[0] == 0.0
    assert torch.hypot(g1[1], g2[1]) == pytest.approx(np.arctanh(1.0 - 1e-6), rel=1e-2)


PACKAGE = Path(galmeasure.__file__).parent
ROOMS = ("fitters", "render", "networks", "calibration", "priors", "likelihood", "ood", "training", "simulation")

NOT_PARAMETERS = {
    "fitters/neural/fitter.py": {"log_density"},  # densities of several draws
    "fitters/problem.py": {"raw", "matrix"},  # raw images, and the row of the background
    "simulation/stamps.py": {"numbers", "start", "sides"},  # random numbers, y and x
    "fitters/lsq/fourier.py": {
        "amplitude",
        "even",
        "images",
        "odd",
        "sums",
        "profiles.rows",
    },  # modes of the stamp's transform; rows of a table
    "fitters/lsq/compiled.py": {"images", "offset", "lines"},  # modes; y and x
    "fitters/lsq/bias.py": {"projected"},  # the only column of a product
    "fitters/compiled_crops.py": {"start"},  # y and x
    "fitters/moments.py": {"sums", "image"},  # sums of pixels times 1, x, y, xx, xy, yy
    "fitters/neural/draws.py": {"cutouts.origin"},
    "fitters/importance/fourier.py": {
        "outside",
        "places",
        "psf",
        "value",
        "wave",
        "profiles.rows",
        "profiles.weights",
    },  # wavenumbers; disc and row; rows of a table
    "fitters/importance/compiled.py": {"offset", "lines"},  # y and x; orders of wavenumbers
    "fitters/importance/compiled_target.py": {"out"},  # sums
    "networks/compiled.py": {"start_units"},  # transforms and layers
    "networks/compiled_views.py": {"near", "far"},  # channels
    "fitters/importance/mixture.py": {"uniform"},  # random numbers
    "fitters/importance/sampling.py": {"uniform"},
    "fitters/neural/newton.py": {"score"},  # the only column of a product
    "fitters/quality.py": {"images"},
    "fitters/network_psfs.py": {"inside"},  # of y and x
    "render/dealias.py": {"base", "shape", "trial", "transform", "target"},  # numbers of a PSF's transform
    "render/grid.py": {"folded", "beyond"},  # wavenumbers
    "render/modes.py": {"coefficients", "power", "self.weights"},  # wavenumbers; of a value and its derivative
    "render/profiles.py": {"integrand", "log_s", "matrix", "table"},  # nodes of a quadrature and of splines
    "render/compiled_modes.py": {"lines"},  # orders of wavenumbers
    "render/compiled_profiles.py": {"weights", "form"},  # rows of a table; coefficients
    "render/compiled.py": {"out", "b_and_amplitude", "position"},
    "render/compiled_spectra.py": {"pieces", "psf_row"},  # coefficients, real and imaginary parts
    "render/sersic.py": {"coefficients", "components", "ky"},  # powers, real and imaginary parts, wavenumbers
    "render/wrap.py": {"b_and_amplitude", "n"},  # value and slope of two numbers
    "networks/flow_frame.py": {"white"},  # the only column of a solution
    "networks/inputs.py": {"image", "level", "rows"},  # pixels; a moment
    "networks/psf_cleaning.py": {"pedestal", "noise"},  # numbers of an image
    "networks/resize.py": {"weight"},  # along y and x
    "calibration/quantiles.py": {"quantiles", "_move_quantiles(name, quantiles, terms)"},  # of one parameter
    "priors/prior.py": {"middle", "offset"},  # of y and x
    "likelihood/white_noise.py": {"sums"},  # of all images and of one more
    "likelihood/compiled.py": {"totals"},
    "likelihood/fisher.py": {"fisher"},
    "ood/residuals.py": {"image", "pairs", "width"},  # pixels; the only column
    "ood/compiled.py": {"out"},  # statistics
    "networks/bodies/autoencoder.py": {"noise", "variance"},  # of one pixel
    "training/search.py": {"places"},  # of axes
    "ood/reference.py": {"rarity"},
    "simulation/psfs.py": {"numbers", "np.linspace(0.0, _KAPPA_MAX, _TABLE_KAPPAS)"},
}
"""Arrays whose columns are no parameters, by file; of expressions, their text."""


def is_number(node):
    """Whether a node of a syntax tree is an integer, such as 3 or -1."""
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(node, ast.Constant) and type(node.value) is int


def numbered(node):
    """Whether a node picks columns by number: an integer, a slice between integers or a list of them."""
    if isinstance(node, ast.Slice):
        return any(end is not None and is_number(end) for end in (node.lower, node.upper))
    return is_number(node) or (isinstance(node, ast.List) and any(map(is_number, node.elts)))


def columns_by_number(tree):
    """Subscripts ``array[rows, 3]``, ``array[..., 2:4]`` and the like, as the text of the array.

    The first subscript counts rows. The only column of what was calculated, ``(a @ b)[..., 0]``, is no parameter.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            columns = [column for column in node.slice.elts[1:] if numbered(column)]
            single = all(ast.unparse(column) == "0" for column in columns)
            if columns and not (single and not isinstance(node.value, ast.Name | ast.Attribute)):
                yield ast.unparse(node.value)


def test_rule_of_columns():
    source = "a[:, 3]; b[..., 1:2]; c[i, j]; d[:, :n]; (e @ f)[:, 0]; g[:, [4, 3]]; h[0, :]; k[:, -1]; l[:, i, 2:5]"
    assert sorted(columns_by_number(ast.parse(source))) == ["a", "b", "g", "k", "l"]


def test_no_parameter_is_addressed_by_a_column_number():
    found = {}
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            name = path.relative_to(PACKAGE).as_posix()
            arrays = columns_by_number(ast.parse(path.read_text(encoding="utf-8")))
            found[name] = [array for array in arrays if array not in NOT_PARAMETERS.get(name, ())]
    assert not {name: arrays for name, arrays in found.items() if arrays}
