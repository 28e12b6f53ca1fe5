"""Options of a run that describes images."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .backend import Sampling
from .prompts import Style
from .validation import Requirements


@dataclass(frozen=True)
class DescribeOptions:
    """Options of a run.

    Attributes:
        output: the file of descriptions; see `DescriptionStore` for the files beside it.
        model: name at the server, or a folder or Hub id if `local`; stored with each record.
        base_url: the server's address; the OpenAI service by default.
        local: use a transformers model in this process (`batch_size`, `device`) instead of a server.
        batch: use the server's Batch API, at its price, with at most `batch_requests` requests per batch and a status
            request every `poll_seconds`.
        requirements: the checks that answers must pass.
        prompts: a folder of prompt files, see `DescriptionPrompt`.
        draw_style: draws the style of an image's caption; required if and only if the requirements include a caption.
            Its random generator is seeded by the image and `seed` only, so reruns draw the same style.
        sampling, in_flight, timeout, requests_per_minute, tokens_per_minute: see `ChatClient`.
        max_attempts: answers per image before it is recorded as failed.
        max_duplicates: number of images that may share the same two texts.
        max_side, max_bytes: see `data_uri`.
        limit: maximum number of images; all by default.
        max_cost: requires `prices`, a price table, see `read_prices`.
        retry_failed: describe the images with a recorded failure again.
        others: "keep" or "replace" descriptions under other settings; None raises an error if there are any.
        progress: whether to show progress bars.

    Raises:
        ValueError: a value is out of range, or two options exclude each other.
    """

    output: Path
    model: str
    base_url: str | None = None
    local: bool = False
    batch: bool = False
    batch_requests: int = 50_000
    requirements: Requirements = field(default_factory=Requirements)
    prompts: Path | None = None
    draw_style: Callable[[random.Random], Style] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_attempts: int = 3
    max_duplicates: int = 20
    in_flight: int = 32
    timeout: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    batch_size: int = 8
    device: str | None = None
    poll_seconds: float = 30.0
    max_side: int = 768
    max_bytes: int = 200_000
    limit: int | None = None
    prices: Path | None = None
    max_cost: float | None = None
    retry_failed: bool = False
    others: str | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs a price table (prices)")
        if self.batch and self.local:
            raise ValueError("batch needs a server with the Batch API, not a local model")
        if self.requirements.caption != (self.draw_style is not None):
            raise ValueError("captions need styles, and styles need requirements with a caption")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")
        for name in ("max_attempts", "max_duplicates", "max_side", "batch_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
