"""Stretches the learned position embeddings of a pretrained text tower to longer texts."""

import torch
from torch import nn
from transformers import PreTrainedModel

from ..towers_bdam import longest_text


@torch.no_grad()
def stretch_text_positions(text_model: PreTrainedModel, length: int) -> None:
    """Interpolates the position embeddings of a text tower, in place, so that it takes texts of `length` tokens.

    The interpolation is bicubic, as for the positions of images. Rows that a tower reserves before its first position
    (RoBERTa) are kept.

    Raises:
        ValueError: the tower has no table of learned absolute positions.
    """
    config, limit = text_model.config, longest_text(text_model)
    size = getattr(config, "max_position_embeddings", None)
    tables = [
        name
        for name, module in text_model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith(("position_embedding", "position_embeddings"))
    ]
    if size is None or limit is None or len(tables) != 1:
        raise ValueError(
            f"--max_text_length {length}: `{config.model_type}` takes at most {limit} tokens, and has no learned "
            "absolute positions that can be stretched; lower it, or use another text tower"
        )
    owner, attribute = text_model.get_submodule(tables[0].rpartition(".")[0]), tables[0].rpartition(".")[2]
    old = getattr(owner, attribute)
    reserved = size - limit
    positions = old.weight[reserved:].T[None, :, :, None]  # [1, width, limit, 1]
    stretched = nn.functional.interpolate(positions, size=(length, 1), mode="bicubic", align_corners=False)
    weight = torch.cat([old.weight[:reserved], stretched[0, :, :, 0].T])  # [reserved + length, width]
    setattr(owner, attribute, nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=old.padding_idx))
    for name, buffer in list(owner.named_buffers(recurse=False)):  # position_ids, and BERT's token_type_ids of zeros
        if buffer.shape[-1] == size:
            values = torch.arange(len(weight)) if name == "position_ids" else torch.zeros(len(weight), dtype=torch.long)
            owner.register_buffer(name, values.expand(1, -1).to(buffer.device), persistent=False)
    config.max_position_embeddings = len(weight)


__all__ = ["stretch_text_positions"]
