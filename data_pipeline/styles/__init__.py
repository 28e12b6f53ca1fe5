"""Annotator styles: neutralizing captions, clustering them, naming the styles and sampling from them."""
