"""Converted towers against the CLIP code of OpenAI, which is written out here."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from data_pipeline.batches.tokenizer import train_tokenizer
from data_pipeline.commands.main import app
from modeling_bdam import BDAMModel
from modeling_bdam.conversion.clip_checkpoints import convert_clip_baseline, read_checkpoint

WIDTH, TEXT_WIDTH, LAYERS, PATCH, VOCABULARY, LONGEST = 128, 64, 2, 16, 60, 12


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block as in OpenAI's model.py."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # [L, B, width]
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(LAYERS))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # [B, L, width]
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class Visual(nn.Module):
    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(grid[0] * grid[1] + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, 32))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        return self.transformer(self.ln_pre(x))


class Clip(nn.Module):
    """The tokens of both towers, and the projections of a baseline."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.visual = Visual(grid)
        self.transformer = Transformer(TEXT_WIDTH)
        self.token_embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LONGEST, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.randn(TEXT_WIDTH, 32))
        self.logit_scale = nn.Parameter(torch.ones(()))

    def text(self, ids: Tensor) -> Tensor:
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        return self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding, mask))


@pytest.fixture(params=[(6, 2), (3, 3)], ids=["tall", "square"])
def grid(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def baseline(grid: tuple[int, int]) -> tuple[Clip, dict[str, Tensor]]:
    """A CLIP of OpenAI and the state dict of a model like IRRA that contains it."""
    torch.manual_seed(0)
    clip = Clip(grid).eval()
    whole = nn.Module()
    whole.base_model, whole.cross_attn = clip, nn.MultiheadAttention(WIDTH, 2)
    whole.cross_modal_transformer, whole.classifier = Transformer(TEXT_WIDTH), nn.Linear(32, 5)
    return clip, dict(whole.state_dict())


def test_convert_clip_baseline_keeps_outputs(grid: tuple[int, int]) -> None:
    clip, weights = baseline(grid)
    size = (grid[0] * PATCH, grid[1] * PATCH)
    towers = convert_clip_baseline(weights, size)
    pixels, ids = torch.randn(2, 3, *size), torch.randint(3, VOCABULARY, (2, LONGEST))
    with torch.no_grad():
        tokens = towers.vision(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(tokens, clip.visual(pixels), atol=1e-4, rtol=1e-4)
        words = towers.text(input_ids=ids).last_hidden_state
        torch.testing.assert_close(words, clip.text(ids), atol=1e-4, rtol=1e-4)
    assert towers.joint is not None
    assert towers.joint.visual_projection.equal(clip.visual.proj.T)
    assert towers.joint.textual_projection.equal(clip.text_projection.T)
    assert towers.joint.logit_scale == 1.0
    assert {name.partition(".")[0] for name in towers.matched} == {"base_model"}
    assert not any(name.startswith("base_model.") for name in towers.left_out)
    assert sorted(towers.matched + towers.left_out) == sorted(weights)


@pytest.mark.parametrize("prefix", ["", "module.base_model.", "clip_model."])
def test_convert_clip_baseline_reads_any_prefix_in_fp16(prefix: str) -> None:
    _, weights = baseline((6, 2))
    expected = convert_clip_baseline(weights, (96, 32)).vision.state_dict()
    renamed = {
        prefix + name.removeprefix("base_model."): value.half()
        for name, value in weights.items()
        if name.startswith("base_model.")
    }
    towers = convert_clip_baseline(renamed, (96, 32))
    for name, value in towers.vision.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)


def test_convert_clip_baseline_refuses_other_checkpoints() -> None:
    _, weights = baseline((6, 2))
    with pytest.raises(
        ValueError, match=r"^the checkpoint has positions for 12 patches, and images of 384x128 have 24x8"
    ):
        convert_clip_baseline(weights)
    with pytest.raises(ValueError, match=r"^the checkpoint holds no CLIP vision transformer"):
        convert_clip_baseline({"visual.layer1.0.conv1.weight": torch.ones(1)})
    del weights["base_model.ln_final.weight"]
    with pytest.raises(ValueError, match=r"^the checkpoint lacks final_layer_norm.weight of the text tower"):
        convert_clip_baseline(weights, (96, 32))
    _, weights = baseline((6, 2))
    del weights["base_model.visual.transformer.resblocks.1.ln_1.weight"]
    with pytest.raises(ValueError, match=r"^the checkpoint lacks 1 weights of the tower, such as encoder.layers.1.lay"):
        convert_clip_baseline(weights, (96, 32))


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_read_checkpoint_executes_no_pickled_code(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2)}
    for name, content in {"plain.pth": weights, "model.pth": {"model": weights, "epoch": 3}}.items():
        torch.save(content, tmp_path / name)
        assert read_checkpoint(tmp_path / name)["a"].equal(weights["a"])
    save_file(weights, tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors")["a"].equal(weights["a"])
    torch.save({"model": weights, "args": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is no file of plain tensors: "):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        read_checkpoint(tmp_path / "list.pth")


def test_convert_clip_command_writes_usable_towers(tmp_path: Path) -> None:
    clip, weights = baseline((6, 2))
    torch.save({"model": weights}, tmp_path / "best.pth")
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(["a man in a red coat"], VOCABULARY, LONGEST)
    tokenizer.save_pretrained(tmp_path / "words")
    size = ["--image-height", "96", "--image-width", "32", "--tokenizer", str(tmp_path / "words")]
    arguments = ["convert-clip", str(tmp_path / "best.pth"), str(tmp_path / "towers"), *size]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert "left out: cross_modal_transformer.resblocks.*.ln_*.weight (4)" in ran.output
    folders = (str(tmp_path / "towers" / "vision"), str(tmp_path / "towers" / "text"))
    fields: Any = {"num_bdam_layers": 1, "interpolate_pos_encoding": True}
    model = BDAMModel.from_vision_text_pretrained(*folders, **fields).eval()
    pixels, ids = torch.randn(2, 3, 96, 32), torch.randint(3, VOCABULARY - 1, (2, LONGEST))
    ids[:, -1] = VOCABULARY - 1  # the end of a text has the largest id
    with torch.no_grad():
        found = model.get_image_features(pixels)
        tokens = found.last_hidden_state
        # The scores are those of the checkpoint
        image = F.normalize(clip.visual.ln_post(clip.visual(pixels)[:, 0]) @ clip.visual.proj, dim=-1)
        text = F.normalize(clip.text(ids)[:, -1] @ clip.text_projection, dim=-1)
        scores = model.score(model.get_text_features(ids).pooler_output, found.pooler_output, 2.0)
        torch.testing.assert_close(scores, 3 * text @ image.T, atol=1e-4, rtol=1e-4)
        expected = clip.visual.ln_post(clip.visual(pixels))
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)
    assert F.cosine_similarity(tokens[0].flatten(), tokens[1].flatten(), dim=0) < 0.999
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "exists already" in again.output
