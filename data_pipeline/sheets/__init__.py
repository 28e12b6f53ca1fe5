"""Drawings of images and captions: contact, retrieval and hit sheets, occlusion maps, figure style."""
