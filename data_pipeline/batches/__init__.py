"""Converts rows to batches of tensors: collators, augmentation, tokenizer."""
