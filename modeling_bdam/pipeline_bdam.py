"""`pipeline("person-retrieval")`: a sentence and a few images in, the images ranked."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import load_image
from transformers.pipelines.base import Pipeline
from transformers.utils import ModelOutput

_BATCH_SIZE = 32


class PersonRetrievalPipeline(Pipeline):
    """Ranks images of people by how well a sentence describes them; for a few images that need no index.

    Example:
        ```python
        import modeling_bdam  # makes the task known
        from transformers import pipeline

        search = pipeline("person-retrieval", model="outputs/tiny")
        best = search("a woman in a red coat", images=["a.jpg", "b.jpg", "c.jpg"], clothing_weight=0.3, top_k=1)[0]
        print(best["index"], best["score"])
        ```
    """

    _load_processor: Any = True  # Any: the base class declares these by None
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
        """Ranks `images` for a sentence, or for each of several.

        Args:
            images: PIL images, paths or URLs; or their vectors, as `embed` returns them, [G, 2 * projection_dim].
            clothing_weight: β; by default the model's own. 0 finds a person who may have changed clothes.
            top_k: how many images to return; by default all.
            **kwargs: of every pipeline, such as `num_workers`.

        Returns:
            For a sentence, best first, `index` (into `images`), `score`, and the two parts that it is the sum of,
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
        """Vectors of images (PIL images, paths or URLs), on the CPU, [G, 2 * projection_dim]: embed once, ask often."""
        vectors = []
        for start in range(0, len(images), _BATCH_SIZE):
            batch = [load_image(image) for image in images[start : start + _BATCH_SIZE]]
            inputs = self.processor(images=batch, return_tensors="pt")
            pixel_values = inputs["pixel_values"].to(self.device, self.model.dtype)
            vectors.append(self.model.get_image_features(pixel_values=pixel_values).pooler_output.float().cpu())
        return torch.cat(vectors) if vectors else torch.empty(0, 2 * self.model.config.projection_dim)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Saves model, processor and the code of all of it; such a folder is loaded with `trust_remote_code=True`."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **pipeline_parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, pipeline_parameters  # all are for `postprocess`

    def preprocess(self, input_: str, **preprocess_parameters: Any) -> dict[str, Any]:
        """Tokens of one sentence."""
        if not input_.strip():
            raise ValueError("person-retrieval: the sentence is empty")
        return self.processor(text=[input_], return_tensors="pt")

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> ModelOutput:
        return self.model.get_text_features(input_tensors["input_ids"], input_tensors["attention_mask"])

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: ModelOutput,
        gallery: Tensor | None = None,
        clothing_weight: float | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Ranks the gallery [G, 2 * projection_dim] for one query."""
        assert gallery is not None
        beta = self.model.config.clothing_weight if clothing_weight is None else clothing_weight
        products = model_outputs["pooler_output"].float() * gallery.float()  # [G, 2 * projection_dim]
        identity, clothing = (half.sum(dim=-1) for half in products.chunk(2, dim=-1))
        scores = identity + beta * clothing
        order = scores.argsort(descending=True, stable=True)[:top_k]
        return [
            {
                "index": index,
                "score": float(scores[index]),
                "identity_score": float(identity[index]),
                "clothing_score": float(beta * clothing[index]),
            }
            for index in order.tolist()
        ]


__all__ = ["PersonRetrievalPipeline"]
