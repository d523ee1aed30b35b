"""Shapes of the tensors of an architecture, checked against a file before memory is taken for a network."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from galmeasure.exceptions import WeightsError
from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.correction import CorrectionConfig
from galmeasure.networks.registry import body_class, encoder_class
from galmeasure.parameters import N_PARAMETERS
from galmeasure.utils.files import in_brief

__all__ = ["check_arguments", "check_shapes", "correction_shapes", "network_shapes"]

_LARGEST = 2**31  # number in the arguments of an architecture


def network_shapes(config: NetworkConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Names and shapes of the tensors from which every number of a network's configuration can be told.

    Parameters
    ----------
    config : galmeasure.networks.NetworkConfig
        Configuration of the network, with the name of its encoder.

    Yields
    ------
    tuple
        Name of a tensor and its shape, None where a length does not matter.
    """
    yield from _SHAPES[config.architecture](config)


def _posterior_shapes(config):
    for name, shape in encoder_class(config.encoder).tensor_shapes(config):
        yield f"encoder.{name}", shape
    yield "psf_encoder.layers.4.weight", (config.psf_features, None)
    yield "heads.0.weight", (config.features, config.features)
    yield "flow_context.weight", (config.flow_context, config.features)
    for transform in range(config.flow_transforms):
        hyper = f"flow.transform.transforms.{transform}.hyper"
        yield f"{hyper}.2.weight", (config.flow_hidden, config.flow_hidden)
        yield f"{hyper}.4.weight", (_spline_numbers(config.flow_bins), config.flow_hidden)


def _point_shapes(config):
    for name, shape in body_class(config.encoder).tensor_shapes(config):
        yield f"body.{name}", shape
    yield "errors.2.weight", (None, config.hidden)


_SHAPES = {"SersicPosterior": _posterior_shapes, "PointPosterior": _point_shapes}


def correction_shapes(config: CorrectionConfig) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Names and shapes of the tensors from which every number of a correction's configuration can be told.

    Parameters
    ----------
    config : galmeasure.networks.correction.CorrectionConfig
        Configuration of the correction.

    Yields
    ------
    tuple
        Name of a tensor and its shape.
    """
    yield "trunk.2.weight", (config.hidden, config.hidden)
    yield "flow_context.weight", (config.flow_context, config.hidden)
    for transform in range(config.flow_transforms):
        name = f"flow.transform.transforms.{transform}.hyper.2.weight"
        yield name, (_spline_numbers(config.flow_bins), config.flow_hidden)


def _spline_numbers(bins):
    """Numbers that a network gives for the splines of all parameters: widths, heights and slopes of their bins."""
    return N_PARAMETERS * (3 * bins - 1)


def check_arguments(arguments: object, default: NetworkConfig | CorrectionConfig) -> None:
    """Check that the arguments of an architecture have the types and lengths that they should have.

    Parameters
    ----------
    arguments : dict
        Arguments of the architecture on the card of a file; unknown names are not checked.
    default : galmeasure.networks.NetworkConfig or galmeasure.networks.correction.CorrectionConfig
        Configuration whose values have the right types.

    Raises
    ------
    TypeError, ValueError
        If one is something else.
    """
    if not isinstance(arguments, dict):
        msg = f"arguments must be a JSON object, not {in_brief(arguments, 60)}"
        raise TypeError(msg)
    for name, right in default.as_dict().items():
        value = arguments.get(name, right)
        if not _is_like(value, right):
            msg = f"{name} must be of the kind of {right!r}, not {in_brief(value, 60)}"
            raise ValueError(msg)


def _is_like(value, right):
    """Whether a value is a text, a truth value, a count, a number, or a list of these, as another one is."""
    if isinstance(right, list):
        lists = isinstance(value, list) and len(value) == len(right)
        return lists and all(_is_like(*pair) for pair in zip(value, right, strict=True))
    if isinstance(right, str):
        return isinstance(value, str)
    kinds = (int, float) if isinstance(right, float) else (type(right),)
    return type(value) in kinds and abs(value) < _LARGEST


def check_shapes(path: Path, tensors: dict[str, Tensor], shapes: Iterable[tuple[str, tuple[int | None, ...]]]) -> None:
    """Check that the tensors of a file are those of the architecture that its card declares.

    Parameters
    ----------
    path : pathlib.Path
        The file, for messages.
    tensors : dict of str to torch.Tensor
        Tensors of the file.
    shapes : iterable of tuple
        Names and shapes, as `network_shapes` gives them.

    Raises
    ------
    WeightsError
        If one is missing or has another shape.
    ValueError
        If a length that the card declares is not a whole number.
    """
    for name, shape in shapes:
        if not all(length is None or isinstance(length, int) for length in shape):
            msg = f"lengths of the tensor {name} must be whole numbers"
            raise ValueError(msg)
        if name not in tensors:
            msg = f"{path}: lacks the tensors {name} and more, which its card declares"
            raise WeightsError(msg)
        stored = tuple(tensors[name].shape)
        if len(stored) != len(shape) or any(b not in (a, None) for a, b in zip(stored, shape, strict=True)):
            text = " x ".join("any" if length is None else str(length) for length in shape)
            msg = f"{path}: the tensor {name} has the shape {stored}, not {text}, which its card declares"
            raise WeightsError(msg)
