"""Shapes of the tensors of an architecture, checked against a file before memory is taken for a network."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from galmeasure.exceptions import WeightsError
from galmeasure.networks.config import NetworkConfig
from galmeasure.networks.correction import CorrectionConfig
from galmeasure.networks.registry import encoder_class
from galmeasure.parameters import N_PARAMETERS

__all__ = ["check_shapes", "correction_shapes", "network_shapes"]


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
    for name, shape in encoder_class(config.encoder).tensor_shapes(config):
        yield f"encoder.{name}", shape
    yield "psf_encoder.layers.4.weight", (config.psf_features, None)
    yield "heads.0.weight", (config.features, config.features)
    yield "flow_context.weight", (config.flow_context, config.features)
    for transform in range(config.flow_transforms):
        hyper = f"flow.transform.transforms.{transform}.hyper"
        yield f"{hyper}.2.weight", (config.flow_hidden, config.flow_hidden)
        yield f"{hyper}.4.weight", (_spline_numbers(config.flow_bins), config.flow_hidden)


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
