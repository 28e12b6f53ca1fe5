"""`bdam convert-clip`: converts a checkpoint of CLIP or of its derivatives (IRRA, RDE, HAM, ...) to a BDAM model."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .errors import one_line_errors

app = typer.Typer()

TOKENIZER = "openai/clip-vit-base-patch16"


@app.command("convert-clip")
def convert_clip(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .pth, .pt or .safetensors file with CLIP weights in OpenAI's naming.")
    ],
    output: Annotated[Path, typer.Argument(help="A new folder for the model.")],
    image_height: Annotated[int, typer.Option(help="Height of its training images, unless they are squares.")] = 384,
    image_width: Annotated[int, typer.Option(help="Width of its training images, unless they are squares.")] = 128,
    tokenizer: Annotated[str, typer.Option(help="CLIP's tokenizer: a folder or a Hub id.")] = TOKENIZER,
    heads: Annotated[int | None, typer.Option(help="Attention heads of the vision tower.")] = None,
    text_heads: Annotated[int | None, typer.Option(help="Attention heads of the text tower.")] = None,
    activation: Annotated[str | None, typer.Option(help="quick_gelu (OpenAI) or gelu (OpenCLIP).")] = None,
    allow_pickle: Annotated[
        bool, typer.Option(help="Read a pickle with objects other than tensors, which can execute code.")
    ] = False,
) -> None:
    """Converts a checkpoint to a model that ranks as it does, and lists assumptions and unused weights."""
    with one_line_errors():
        from transformers import AutoTokenizer, ViTImageProcessorPil
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

        from modeling_bdam import BDAMProcessor
        from modeling_bdam.conversion.checkpoint_files import read_checkpoint
        from modeling_bdam.conversion.clip_checkpoints import convert_clip
        from modeling_bdam.files import atomic_folder

        from ..offline import go_offline_if_unreachable

        if output.exists():
            raise ValueError(f"{output} exists already; name a new folder")
        if activation not in (None, "quick_gelu", "gelu"):
            raise ValueError(f"--activation {activation}: give quick_gelu or gelu")
        go_offline_if_unreachable(tokenizer)
        text_tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        weights = read_checkpoint(checkpoint, allow_pickle)
        converted = convert_clip(weights, (image_height, image_width), heads, text_heads, activation)
        height, width = converted.assumed.image_size
        image_processor = ViTImageProcessorPil(
            size={"height": height, "width": width},
            image_mean=OPENAI_CLIP_MEAN,
            image_std=OPENAI_CLIP_STD,
            resample=PILImageResampling.BICUBIC if height == width else PILImageResampling.BILINEAR,  # CLIP, IRRA
        )
        longest = converted.model.longest_text or text_tokenizer.model_max_length
        text_tokenizer.model_max_length = min(text_tokenizer.model_max_length, longest)
        with atomic_folder(output) as draft:
            converted.model.save_pretrained(draft)
            BDAMProcessor(image_processor, text_tokenizer).save_pretrained(draft)
    typer.echo(
        f"{len(converted.matched)} weights of {checkpoint} are in {output}; {len(converted.left_out)} were left out"
    )
    for kind, count in sorted(Counter(re.sub(r"\d+", "*", name) for name in converted.left_out).items()):
        typer.echo(f"  left out: {kind}" + (f" ({count})" if count > 1 else ""))
    typer.echo(
        f"assumed: {converted.assumed}; change it by --heads, --text-heads, --activation, --image-height and -width"
    )
    typer.echo(f"evaluate it: run_t2i_reid.py --do_eval --model_name_or_path {output}")
    towers_given = f"--vision_model_name_or_path {output} --text_model_name_or_path {output}"
    typer.echo(f"train from it: run_t2i_reid.py --config clip {towers_given}")
