"""Helpers that know no galaxies: arrays, units, files, coordinates, processes."""
