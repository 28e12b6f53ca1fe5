"""Tests of the alternatives to the state-space layers: they train, and padding has no effect."""

from typing import Any

import pytest
import torch
from torch import nn

from modeling_bdam import BDAMModel
from modeling_bdam.fusion_blocks import FUSION_BLOCKS, SelfAttentionBlock

pytestmark = pytest.mark.usefixtures("seed")


def test_self_attention_equals_torch_multi_head_attention() -> None:
    block = SelfAttentionBlock(64, dropout=0.0).eval()
    reference = nn.MultiheadAttention(64, block.heads, batch_first=True).eval()
    reference.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.projection.weight,
            "out_proj.bias": block.projection.bias,
        }
    )
    hidden, is_token = torch.randn(3, 7, 64), torch.arange(7) < torch.tensor([[7], [4], [1]])
    normed = block.norm(hidden)
    expected, _ = reference(normed, normed, normed, key_padding_mask=~is_token)
    torch.testing.assert_close(block(hidden, is_token), expected)


@pytest.mark.parametrize("sequence", ["global", "token"])
@pytest.mark.parametrize("block", FUSION_BLOCKS)
def test_each_parameter_of_a_block_gets_a_gradient(
    block: str, sequence: str, tiny_config: Any, make_batch: Any
) -> None:
    config = tiny_config(fusion_block=block, fusion_sequence=sequence, num_fusion_layers=2, initializer_range=0.2)
    model = BDAMModel(config).train()
    model(**make_batch(), return_loss=True).loss.backward()
    parameters = dict(model.fusion.layers.named_parameters())
    for name, parameter in parameters.items():
        assert parameter.isfinite().all(), name
        assert parameter.grad is not None, name
    # Of one vector the softmax is constant, so that the gradients of query and key are zero.
    moved = [name for name, parameter in parameters.items() if parameter.grad.any()]
    assert any("projection" in name or "layers" in name for name in moved)


@pytest.mark.parametrize("block", FUSION_BLOCKS)
def test_padding_does_not_change_embeddings(block: str, tiny_config: Any, make_batch: Any) -> None:
    model = BDAMModel(tiny_config(fusion_block=block, fusion_sequence="token", initializer_range=0.2)).eval()
    batch = make_batch()
    ids, mask, pixels = batch["identity_input_ids"], batch["identity_attention_mask"], batch["pixel_values"]
    padded = model.get_text_features(ids, mask).pooler_output
    fused = model.get_image_features(pixels, ids, mask).pooler_output
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        text = ids[row : row + 1, :length]
        single = model.get_text_features(text).pooler_output
        torch.testing.assert_close(padded[row], single[0], atol=1e-5, rtol=1e-4)
        single = model.get_image_features(pixels[row : row + 1], text, torch.ones_like(text)).pooler_output
        torch.testing.assert_close(fused[row], single[0], atol=1e-5, rtol=1e-4)
