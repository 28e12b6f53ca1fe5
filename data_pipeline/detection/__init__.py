"""Finds people in videos and whole frames, follows them, and writes crops for an index."""
