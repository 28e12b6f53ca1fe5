"""`bdam convert-clip`: start from a checkpoint of one of the field's CLIP baselines."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .errors import one_line_errors

app = typer.Typer()

TOKENIZER = "openai/clip-vit-base-patch16"


@app.command("convert-clip")
def convert_clip(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth or .safetensors with CLIP's weights by OpenAI's names.")],
    output: Annotated[Path, typer.Argument(help="A new folder for the towers.")],
    image_height: Annotated[int, typer.Option(help="Height of the images that it was trained on.")] = 384,
    image_width: Annotated[int, typer.Option(help="Width of the images that it was trained on.")] = 128,
    tokenizer: Annotated[str, typer.Option(help="CLIP's tokenizer: a folder or an id of the Hub.")] = TOKENIZER,
) -> None:
    """Makes towers of a CLIP baseline's checkpoint (IRRA's and its kin), and tells what matched."""
    with one_line_errors():
        from transformers import AutoTokenizer

        from modeling_bdam.conversion.clip_checkpoints import convert_clip_baseline, read_checkpoint

        if output.exists():
            raise ValueError(f"{output} exists already")
        towers = convert_clip_baseline(read_checkpoint(checkpoint), (image_height, image_width))
        words = AutoTokenizer.from_pretrained(tokenizer)
        draft = output.with_name(f".{output.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        towers.vision.save_pretrained(draft / "vision")
        towers.text.save_pretrained(draft / "text")
        words.save_pretrained(draft / "text")
        draft.rename(output)
    typer.echo(f"{len(towers.matched)} weights of {checkpoint} are in {output}; {len(towers.left_out)} were left out")
    for kind, count in sorted(Counter(re.sub(r"\d+", "*", name) for name in towers.left_out).items()):
        typer.echo(f"  left out: {kind}" + (f" ({count})" if count > 1 else ""))
    towers_given = f"--vision_model_name_or_path {output}/vision --text_model_name_or_path {output}/text"
    typer.echo(f"train from it: run_t2i_reid.py --config clip {towers_given}")
