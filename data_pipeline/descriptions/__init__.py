"""Annotator styles, and descriptions of people written by a multimodal LLM."""
