"""`bdam convert-clip`: converts a checkpoint of a CLIP baseline (IRRA and related) to towers."""

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
        Path, typer.Argument(help="A .pth or .safetensors file with CLIP weights in OpenAI's naming.")
    ],
    output: Annotated[Path, typer.Argument(help="A new folder for the towers.")],
    image_height: Annotated[int, typer.Option(help="Height of its training images.")] = 384,
    image_width: Annotated[int, typer.Option(help="Width of its training images.")] = 128,
    tokenizer: Annotated[str, typer.Option(help="CLIP's tokenizer: a folder or a Hub id.")] = TOKENIZER,
) -> None:
    """Converts the checkpoint of a CLIP baseline (IRRA and related) to towers, and lists the unused weights."""
    with one_line_errors():
        from transformers import AutoTokenizer

        from modeling_bdam.conversion.clip_checkpoints import convert_clip_baseline, read_checkpoint
        from modeling_bdam.files import atomic_folder
        from modeling_bdam.towers_bdam import save_joint_space

        if output.exists():
            raise ValueError(f"{output} exists already; name a new folder")
        towers = convert_clip_baseline(read_checkpoint(checkpoint), (image_height, image_width))
        text_tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        with atomic_folder(output) as draft:
            towers.vision.save_pretrained(draft / "vision")
            towers.text.save_pretrained(draft / "text")
            if towers.joint is not None:
                save_joint_space(towers.joint, draft)
            text_tokenizer.save_pretrained(draft / "text")
    typer.echo(f"{len(towers.matched)} weights of {checkpoint} are in {output}; {len(towers.left_out)} were left out")
    for kind, count in sorted(Counter(re.sub(r"\d+", "*", name) for name in towers.left_out).items()):
        typer.echo(f"  left out: {kind}" + (f" ({count})" if count > 1 else ""))
    towers_given = f"--vision_model_name_or_path {output}/vision --text_model_name_or_path {output}/text"
    typer.echo(f"train from it: run_t2i_reid.py --config clip {towers_given}")
