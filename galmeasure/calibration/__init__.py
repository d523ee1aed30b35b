"""Calibration of error bars after training: a small monotone correction, learned on galaxies of known parameters."""

from .quantiles import QuantileCalibration

__all__ = ["QuantileCalibration"]
