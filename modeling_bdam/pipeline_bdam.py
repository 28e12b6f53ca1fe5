"""The pipeline `person-retrieval`: ranks a few images for a sentence."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.pipelines.base import Pipeline
from transformers.utils import ModelOutput

from .outputs_bdam import weigh_clothing

_BATCH_SIZE = 32


class PersonRetrievalPipeline(Pipeline):
    """Ranks images of people by their similarity to a sentence; for galleries that are too small to need an index.

    Example:
        ```python
        import modeling_bdam  # registers the task
        from transformers import pipeline

        search = pipeline("person-retrieval", model="outputs/tiny")
        best = search("a woman in a red coat", images=["a.jpg", "b.jpg", "c.jpg"], clothing_weight=0.3, top_k=1)[0]
        print(best["index"], best["score"])
        ```
    """

    _load_processor: Any = True  # Any: the base class declares these as None
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    model: Any
    processor: Any

    def __call__(  # type: ignore[override]
        self,
        sentences: str | list[str],
        images: Sequence[str | Image.Image] | Tensor,
        clothing_weight: float | None = None,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Ranks `images` for each sentence.

        Args:
            images: PIL images, paths or URLs; or vectors that `embed` returned, [G, 2 * projection_dim].
            clothing_weight: β; by default the model's. 0 for people who may have changed clothes.
            top_k: number of images to return; by default all.
            **kwargs: of each pipeline, such as `num_workers`.

        Returns:
            for a sentence, a list, best first, of `index` (into `images`), `score`, and its two summands
            `identity_score` and `clothing_score`; for a list of sentences, a list of such lists.

        Raises:
            ValueError: there are no images, or a sentence is empty.
        """
        gallery = images if isinstance(images, Tensor) else self.embed(images)
        if len(gallery) == 0:
            raise ValueError("person-retrieval: there are no images to rank")
        return super().__call__(sentences, gallery=gallery, clothing_weight=clothing_weight, top_k=top_k, **kwargs)

    @torch.inference_mode()
    def embed(self, images: Sequence[str | Image.Image]) -> Tensor:
        """Computes the vectors of images (PIL images, paths or URLs) for repeated searches: [G, 2P] on the CPU."""
        vectors = [torch.empty(0, 2 * self.model.config.projection_dim)]
        for start in range(0, len(images), _BATCH_SIZE):
            inputs = self.processor(images=images[start : start + _BATCH_SIZE], return_tensors="pt")
            pixel_values = inputs["pixel_values"].to(self.device, self.model.dtype)  # [B, 3, H, W]
            vectors.append(self.model.get_image_features(pixel_values=pixel_values).pooler_output.float().cpu())
        return torch.cat(vectors)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Saves model, processor and a copy of the code, for loading with `trust_remote_code=True`."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **pipeline_parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, pipeline_parameters  # all are for `postprocess`

    def preprocess(self, input_: str, **preprocess_parameters: Any) -> dict[str, Any]:
        """Tokenizes a sentence."""
        if not input_.strip():
            raise ValueError("person-retrieval: the sentence is empty")
        return self.processor(text=[input_], return_tensors="pt")

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> ModelOutput:
        return self.model.get_text_features(input_tensors["input_ids"], input_tensors["attention_mask"])

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: ModelOutput,
        gallery: Tensor,
        clothing_weight: float | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Ranks the gallery [G, 2 * projection_dim] for one query."""
        beta = self.model.config.clothing_weight if clothing_weight is None else clothing_weight
        products = weigh_clothing(model_outputs["pooler_output"].float(), beta) * gallery.float()  # [G, 2P]
        identity, clothing = (half.sum(dim=-1) for half in products.chunk(2, dim=-1))  # [G] each
        scores = identity + clothing
        parts = {"score": scores, "identity_score": identity, "clothing_score": clothing}
        order = scores.argsort(descending=True, stable=True)[:top_k].tolist()
        return [{"index": index} | {name: float(part[index]) for name, part in parts.items()} for index in order]


__all__ = ["PersonRetrievalPipeline"]
