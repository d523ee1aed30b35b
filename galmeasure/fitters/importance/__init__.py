"""Exact posteriors by importance sampling of a network's posterior."""
