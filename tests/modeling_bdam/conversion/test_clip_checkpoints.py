"""Converted models against the CLIP code of OpenAI, which is written out here."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from data_pipeline.commands.main import app
from data_pipeline.search.embedder import Embedder
from modeling_bdam import BDAMModel
from modeling_bdam.conversion.clip_checkpoints import convert_clip

from ..two_color_people import draw_people, rank_1, train_dual_encoder

WIDTH, TEXT_WIDTH, LAYERS, PATCH, VOCABULARY, LONGEST = 128, 64, 2, 16, 60, 12
SENTENCES = ["a man in a red coat", "a woman in a blue coat"]


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block as in OpenAI's model.py."""

    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", activation)
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # [L, B, width]
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(LAYERS))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # [B, L, width]
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class Visual(nn.Module):
    def __init__(self, grid: tuple[int, int], heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(grid[0] * grid[1] + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, heads, activation)
        self.proj = nn.Parameter(torch.randn(WIDTH, 32))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        return self.transformer(self.ln_pre(x))


class Text(nn.Module):
    """The text tower, inside of CLIP (OpenAI) or beside the vision tower."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.transformer = Transformer(TEXT_WIDTH, TEXT_WIDTH // 64, activation)
        self.token_embedding = nn.Embedding(VOCABULARY, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LONGEST, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.randn(TEXT_WIDTH, 32))

    def forward(self, ids: Tensor) -> Tensor:  # [B, 32], pooled at the largest id
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer(tokens, mask))
        return x[torch.arange(len(x)), ids.argmax(dim=1)] @ self.text_projection


class Clip(nn.Module):
    def __init__(self, grid: tuple[int, int], heads: int = WIDTH // 64, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.visual = Visual(grid, heads, activation or QuickGELU())
        self.text = Text(activation or QuickGELU())
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:  # cosines [texts, images]
        images = self.visual.ln_post(self.visual(pixels)[:, 0]) @ self.visual.proj
        return F.normalize(self.text(ids), dim=-1) @ F.normalize(images, dim=-1).T


def openai_names(clip: Clip, text_prefix: str = "") -> dict[str, Tensor]:
    """The state dict, with the text tower below another prefix; without one at the top, as in OpenAI's code."""
    state = clip.state_dict()
    return {f"{text_prefix}{name[5:]}" if name.startswith("text.") else name: value for name, value in state.items()}


def irra(clip: Clip) -> dict[str, Tensor]:
    """The state dict of a model like IRRA that contains a CLIP."""
    whole = nn.Module()
    whole.cross_attn = nn.MultiheadAttention(WIDTH, 2)
    whole.cross_modal_transformer, whole.classifier = Transformer(TEXT_WIDTH, 1, QuickGELU()), nn.Linear(32, 5)
    return {f"base_model.{name}": value for name, value in openai_names(clip).items()} | dict(whole.state_dict())


def write_torchscript(clip: Clip, path: Path) -> None:
    """Writes a file as OpenAI's: TorchScript, with three integers beside the weights."""
    module = nn.Module()
    for name, value in openai_names(clip).items():
        *owners, attribute = name.split(".")
        owner = module
        for part in owners:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        module.register_buffer(name, torch.tensor(7))
    torch.jit.save(torch.jit.script(module), path)


LAYOUTS: dict[str, tuple[dict[str, Any], Any, list[str]]] = {  # options of Clip, file writer, flags
    "irra": ({}, lambda clip, path: torch.save({"model": irra(clip), "epoch": 3}, path), []),
    "parallel": (
        {},
        lambda clip, path: torch.save({"state_dict": {f"module.{k}": v for k, v in irra(clip).items()}}, path),
        [],
    ),
    "net": ({}, lambda clip, path: torch.save({"net": {"model": openai_names(clip)}}, path), []),
    "torchscript": ({}, write_torchscript, []),
    "openclip": (
        {"heads": 4, "activation": nn.GELU()},
        lambda clip, path: torch.save(openai_names(clip), path),
        ["--heads", "4", "--activation", "gelu"],
    ),
    "custom_text": ({"activation": nn.GELU()}, lambda clip, path: torch.save(clip.state_dict(), path), []),
    "tbps_clip": (
        {},
        lambda clip, path: torch.save(
            {"model": openai_names(clip, "encode_text."), "config": argparse.Namespace(lr=1e-4)}, path
        ),
        ["--allow-pickle"],
    ),
}


def convert(layout: str, clip: Clip, grid: tuple[int, int], folder: Path) -> str:
    """Writes a checkpoint and converts it to `folder / "model"` by the command; returns its output."""
    LAYOUTS[layout][1](clip, folder / "best.pth")
    words = {word: 3 + number for number, word in enumerate(sorted({*" ".join(SENTENCES).split()}))}
    tokenizer = Tokenizer(models.WordLevel(words | {"[UNK]": 1, "[END]": VOCABULARY - 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", VOCABULARY - 1)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[END]", "eos_token": "[END]"}  # padded with the end token, as CLIP
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "words")
    size = ["--image-height", str(grid[0] * PATCH), "--image-width", str(grid[1] * PATCH)]
    arguments = ["convert-clip", str(folder / "best.pth"), str(folder / "model"), *size]
    ran = CliRunner().invoke(app, [*arguments, "--tokenizer", str(folder / "words"), *LAYOUTS[layout][2]])
    assert ran.exit_code == 0, ran.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "exists already" in again.output
    return ran.output


@pytest.mark.parametrize(("layout", "grid"), [*((layout, (6, 2)) for layout in LAYOUTS), ("openclip", (3, 3))])
def test_convert_clip_scores_as_the_checkpoint(layout: str, grid: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = Clip(grid, **LAYOUTS[layout][0]).eval()
    output = convert(layout, clip, grid, tmp_path)
    pixels, ids = torch.randn(5, 3, grid[0] * PATCH, grid[1] * PATCH), torch.randint(3, VOCABULARY - 1, (4, LONGEST))
    ids[:, -1] = VOCABULARY - 1  # the end of a text has the largest id
    expected = clip(pixels, ids)
    converted = BDAMModel.from_pretrained(tmp_path / "model")
    folder, fields = str(tmp_path / "model"), {"num_bdam_layers": 1, "interpolate_pos_encoding": True}
    for model in (converted, BDAMModel.from_vision_text_pretrained(folder, folder, **fields).eval()):
        texts, images = model.get_text_features(ids).pooler_output, model.get_image_features(pixels).pooler_output
        for beta in (0.0, 1.0, 2.0):
            torch.testing.assert_close(model.score(texts, images, beta) / (1 + beta), expected, atol=1e-4, rtol=1e-4)
        assert model.logit_scale.item() == 1.0
    # The assumptions are printed, and left-out weights
    heads, activation = LAYOUTS[layout][0].get("heads", 2), "gelu" if LAYOUTS[layout][0] else "quick_gelu"
    assert f"assumed: {heads} heads in the vision tower, 1 in the text tower, activation {activation}, images" in output
    if layout == "irra":
        assert "left out: cross_modal_transformer.resblocks.*.ln_*.weight (4)" in output
        assert "base_model" not in output


def test_converted_checkpoint_searches_as_the_checkpoint(tmp_path: Path, photo: Any) -> None:
    torch.manual_seed(0)
    clip = Clip((6, 2)).eval()
    convert("irra", clip, (6, 2), tmp_path)
    embedder = Embedder.load(tmp_path / "model")
    embedder.in_bfloat16 = False
    images = [photo(96, 40, seed) for seed in range(4)]
    batch = embedder.processor(images=images, text=SENTENCES, return_tensors="pt")
    assert embedder.processor.tokenizer.model_max_length == LONGEST
    queries = torch.stack([torch.from_numpy(embedder.embed_sentence(sentence)) for sentence in SENTENCES])
    gallery = torch.stack([torch.from_numpy(embedder.embed_image(image)) for image in images])
    expected = clip(batch["pixel_values"], batch["input_ids"])
    torch.testing.assert_close(embedder.model.score(queries, gallery), expected, atol=1e-4, rtol=1e-4)


def test_converted_checkpoint_keeps_the_rank_1_of_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip, size, end = Clip((6, 2)), (96, 32), VOCABULARY - 1
    train_dual_encoder(clip, clip.parameters(), size, end)
    convert("irra", clip.eval(), (6, 2), tmp_path)
    pixels, ids = draw_people(size, end, seed=1000)
    expected = clip(pixels, ids)
    assert rank_1(expected) > 0.9
    fields: Any = {"num_bdam_layers": 1, "interpolate_pos_encoding": True}
    model = BDAMModel.from_vision_text_pretrained(str(tmp_path / "model"), str(tmp_path / "model"), **fields).eval()
    output = model(pixel_values=pixels, input_ids=ids)
    for beta in (0.0, 1.0, 2.0):
        assert rank_1(model.score(output.text_embeds, output.image_embeds, beta)) == rank_1(expected)


@pytest.mark.parametrize(
    ("width", "heads", "activation"), [(768, 12, "quick_gelu"), (1280, 16, "gelu"), (1664, 16, "gelu")]
)
def test_convert_clip_knows_heads_of_known_widths(width: int, heads: int, activation: str) -> None:
    weights = openai_names(Clip((1, 1)))
    for name, value in weights.items():
        if name.startswith("visual.") and name != "visual.conv1.weight":
            sides = [side * width // WIDTH if side % WIDTH == 0 else side for side in value.shape]
            weights[name] = torch.zeros(sides)
    weights["visual.conv1.weight"] = torch.zeros(width, 3, 4, 4)
    assumed = convert_clip(weights).assumed
    assert (assumed.vision_heads, assumed.text_heads, assumed.activation) == (heads, 1, activation)


def test_convert_clip_reads_half_precision() -> None:
    clip = Clip((6, 2))
    expected = convert_clip(irra(clip), (96, 32)).model.state_dict()
    half = {name: value.half() for name, value in irra(clip).items()}
    for name, value in convert_clip(half, (96, 32)).model.state_dict().items():
        if name.startswith(("vision_model.", "text_model.", "visual_projection.", "textual_projection.")):
            torch.testing.assert_close(value, expected[name], atol=1e-2, rtol=1e-2, check_dtype=True)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("visual.class_embedding", "the checkpoint holds no CLIP vision transformer"),
        ("ln_final.weight", "the checkpoint holds no CLIP text transformer"),
        ("ln_final.bias", "the checkpoint lacks final_layer_norm.bias of the text tower"),
        ("visual.transformer.resblocks.1.ln_1.weight", "the checkpoint lacks 1 weights of the tower, such as encoder."),
        ("text_projection", "the checkpoint lacks text_projection, its projection into the joint space"),
    ],
)
def test_convert_clip_refuses_incomplete_checkpoints(lacking: str, message: str) -> None:
    weights = openai_names(Clip((6, 2)))
    del weights[lacking]
    with pytest.raises(ValueError, match=f"^{message}"):
        convert_clip(weights, (96, 32))


@pytest.mark.parametrize("extra", ["visual.attn_pool.query", "transformer.resblocks.0.ls_1.gamma", "cls_emb"])
def test_convert_clip_refuses_other_architectures(extra: str) -> None:
    with pytest.raises(ValueError, match=f"^the checkpoint has {extra}, which CLIP has not"):
        convert_clip(openai_names(Clip((6, 2))) | {extra: torch.ones(1)}, (96, 32))
    with pytest.raises(ValueError, match=r"^the checkpoint has positions for 12 patches, and images of 384x128 have"):
        convert_clip(openai_names(Clip((6, 2))))
