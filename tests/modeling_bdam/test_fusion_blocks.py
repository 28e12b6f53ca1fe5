"""The blocks that figure 5 sets beside the state space: each trains, and padding never shows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modeling_bdam import BDAMConfig, BDAMModel
from modeling_bdam.fusion_blocks import FUSION_BLOCKS, SelfAttentionBlock

MakeConfig = Callable[..., BDAMConfig]
MakeBatch = Callable[..., dict[str, Tensor]]


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def test_self_attention_equals_torchs_multi_head_attention() -> None:
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
    hidden, readable = torch.randn(3, 7, 64), torch.arange(7) < torch.tensor([[7], [4], [1]])
    normed = block.norm(hidden)
    expected, _ = reference(normed, normed, normed, key_padding_mask=~readable)
    torch.testing.assert_close(block(hidden, readable), expected)


@pytest.mark.parametrize("sequence", ["global", "token"])
@pytest.mark.parametrize("block", FUSION_BLOCKS)
def test_every_parameter_of_a_block_is_initialized_and_gets_a_gradient(
    block: str, sequence: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    config = tiny_config(fusion_block=block, fusion_sequence=sequence, num_fusion_layers=2, initializer_range=0.2)
    model = BDAMModel(config).train()
    model(**make_batch(), return_loss=True).loss.backward()
    for name, parameter in model.fusion.layers.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.grad is not None, name
    # A softmax over a single vector is constant: query and key then do nothing.
    moved = [name for name, parameter in model.fusion.layers.named_parameters() if parameter.grad.any()]
    assert any("projection" in name or "layers" in name for name in moved)


@pytest.mark.parametrize("block", FUSION_BLOCKS)
def test_a_text_is_embedded_alike_alone_and_padded_in_a_batch(
    block: str, tiny_config: MakeConfig, make_batch: MakeBatch
) -> None:
    model = BDAMModel(tiny_config(fusion_block=block, fusion_sequence="token", initializer_range=0.2)).eval()
    batch = make_batch()
    ids, mask = batch["identity_input_ids"], batch["identity_attention_mask"]
    pixels = batch["pixel_values"]
    padded = model.get_text_features(ids, mask).pooler_output
    fused = model.get_image_features(pixels, ids, mask).pooler_output
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        text = ids[row : row + 1, :length]
        alone = model.get_text_features(text).pooler_output
        torch.testing.assert_close(padded[row], alone[0], atol=1e-5, rtol=1e-4)
        alone = model.get_image_features(pixels[row : row + 1], text, torch.ones_like(text)).pooler_output
        torch.testing.assert_close(fused[row], alone[0], atol=1e-5, rtol=1e-4)
