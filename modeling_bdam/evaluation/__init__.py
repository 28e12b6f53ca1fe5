"""Protocols, metrics and the results table of text-to-image person re-identification."""
