"""Pictures of a run in the loggers that `report_to` names."""

from pathlib import Path

import numpy as np
from PIL import Image
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback


def log_picture(trainer: Trainer, name: str, path: Path) -> None:
    """Sends an image file to those of TensorBoard, trackio and W&B that the trainer reports to.

    Call it on the main process after `trainer.log`, which reopens loggers that were closed at the end of the training.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            callback.tb_writer.add_image(name, pixels, trainer.state.global_step, dataformats="HWC")
            callback.tb_writer.flush()
        elif isinstance(callback, TrackioCallback):
            import trackio

            trackio.log({name: trackio.Image(path)})
        elif isinstance(callback, WandbCallback):
            import wandb

            wandb.log({name: wandb.Image(str(path))})


__all__ = ["log_picture"]
