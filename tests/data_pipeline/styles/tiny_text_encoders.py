"""Text encoders with random weights, saved to folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from data_pipeline.batches.tokenizer import train_tokenizer


def save_sentence_encoder(folder: Path, texts: Sequence[str], max_length: int = 64) -> str:
    """Saves a BERT with the vocabulary of the texts; returns the folder."""
    tokenizer = train_tokenizer(texts, max_length=max_length)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=max_length,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def save_clip(folder: Path, texts: Sequence[str]) -> str:
    """Saves a CLIP model with the vocabulary of the texts and at most 16 tokens; returns the folder."""
    tokenizer = train_tokenizer(texts, max_length=77)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size: dict[str, Any] = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    special: dict[str, Any] = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, projection_dim=8, **special, **size)
    vision = CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=8, **size)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return str(folder)
