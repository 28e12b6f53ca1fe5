"""From rows to tensors: collators, augmentation, tokenizer."""
