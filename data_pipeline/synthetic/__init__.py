"""Synthetic pedestrians: people, their photos and captions, all drawn from seeds."""
