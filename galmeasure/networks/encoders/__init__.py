"""Encoders: from views of a stamp and of its PSF to a vector of features."""
