"""Identity and clothing descriptions of person images, written by a multimodal LLM."""
