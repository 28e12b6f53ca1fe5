"""Draws synthetic pedestrians: people, photos and captions as functions of a seed."""
