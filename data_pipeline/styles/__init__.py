"""Annotator styles: neutralizing captions, clustering them, naming and sampling styles."""
