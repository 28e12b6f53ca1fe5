"""BDAM: decoupled identity and clothing embeddings of person images and sentences, in one space for retrieval."""

from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_bdam import BDAMConfig
from .decoupling_bdam import BDAMAttention, BDAMLayer, BidirectionalDecoupling, Decoupled, LinearDecoupling
from .fusion_bdam import FusionHead, LinearFusion, masked_mean
from .losses_bdam import gradient_reversal
from .mamba_bdam import MambaBlock
from .objective_bdam import batch_loss
from .outputs_bdam import BDAMFeatures, BDAMOutput
from .towers_bdam import (
    build_tower,
    check_image_size,
    check_text_length,
    drop_idle_parameters,
    interpolates,
    load_tower,
    longest_text,
    takes_one_size,
    tower_width,
    vision_tokens,
)

Model = TypeVar("Model", bound="BDAMPreTrainedModel")


class BDAMPreTrainedModel(PreTrainedModel):
    """Initialization, loading and saving of BDAM models."""

    config: BDAMConfig
    base_model_prefix = "bdam"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["BDAMLayer"]  # noqa: RUF012 - transformers reads a plain list
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": BDAMLayer,
        "attentions": OutputRecorder(BDAMAttention, index=1, layer_name="cross_attention"),
    }

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: for code of unknown habits transformers skips the initialization of modules without parameters of their
        own, which is where CLIP and SigLIP towers initialize their layers. Ours writes through `initialization`."""
        return False

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Model:
        """As in transformers, but from safetensors alone: a pickle can run any code when it is read.

        Raises:
            OSError: there are no safetensors, or they are damaged.
            ValueError: they do not fit the config.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs | {"use_safetensors": True})
        except SafetensorError as error:
            raise OSError(
                f"{pretrained_model_name_or_path}: the safetensors are damaged or cut off ({error}); get them anew"
            ) from None
        except OSError as error:
            if "safetensors" not in str(error):
                raise
            raise OSError(f"{error} Weights in a pickle (pytorch_model.bin) are not read: it could run code") from None

    @staticmethod
    def _finalize_model_loading(model: PreTrainedModel, load_config: Any, loading_info: Any) -> Any:
        """As in transformers, which here makes room for what the file did not give; a mismatch is told before that."""
        mismatched = sorted(loading_info.mismatched_keys)
        if mismatched and not load_config.ignore_mismatched_sizes:
            name, found, expected = mismatched[0]
            raise ValueError(
                f"{load_config.pretrained_model_name_or_path}: the weights do not fit the config: `{name}` is "
                f"{list(found)} in the file and {list(expected)} by the config ({len(mismatched)} weights differ)"
            )
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        missing = sum(sizes.get(name, 0) for name in loading_info.missing_keys)
        # A file of one tensor or none, such as transformers' own tests load, is no other model's.
        is_of_another = missing < sum(sizes.values()) or len(loading_info.unexpected_keys) > 1
        if is_of_another and missing > sum(sizes.values()) - missing:
            raise ValueError(
                f"{load_config.pretrained_model_name_or_path}: the weights do not fit the config: of its "
                f"{sum(sizes.values()):,} parameters, the file lacks {missing:,}"
            )
        return PreTrainedModel._finalize_model_loading(model, load_config, loading_info)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MambaBlock):
            module.init_weights()
        elif isinstance(module, BDAMModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class BDAMModel(BDAMPreTrainedModel):
    """Vision tower, text tower, BDAM and the fusion head (sections 3.1 to 3.4).

    Example:
        ```python
        model = AutoModel.from_pretrained(folder)
        gallery = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
        query = model.get_text_features(**processor(text="a man in a red coat", return_tensors="pt"))
        ```
    """

    _auto_class = "AutoModel"  # type: ignore[assignment]  # what is saved carries this code

    def __init__(
        self,
        config: BDAMConfig,
        vision_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        vision_config, text_config = (
            cast(PreTrainedConfig, config.vision_config),
            cast(PreTrainedConfig, config.text_config),
        )
        self.vision_model = vision_model if vision_model is not None else build_tower(vision_config)
        self.text_model = text_model if text_model is not None else build_tower(text_config)
        # The towers read their attention kernel from these configs; sharing the objects keeps both in step.
        self.vision_model.config, self.text_model.config = vision_config, text_config
        drop_idle_parameters(self.vision_model, self.text_model)
        self.vision_takes_one_size = takes_one_size(self.vision_model)
        self.longest_text = longest_text(self.text_model)

        vision_width, text_width = tower_width(vision_config), tower_width(text_config)
        width = config.hidden_size
        self.vision_projection = nn.Identity() if vision_width == width else nn.Linear(vision_width, width)
        self.text_projection = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.decoupling = BidirectionalDecoupling(config) if config.use_bdam else LinearDecoupling(config)
        self.fusion = FusionHead(config, width) if config.use_fusion else LinearFusion(config, width)
        self.image_clothing_head = nn.Linear(width, config.projection_dim)
        self.text_clothing_head = nn.Linear(width, config.projection_dim)
        self.adversarial_projection = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(cls, vision: str, text: str, **config_fields: Any) -> "BDAMModel":
        """A model over two pretrained towers; all else is newly initialized and wants training.

        Args:
            vision: Hub id or folder of a vision tower, or of a CLIP or SigLIP model, whose vision half is taken.
            text: the same for the text tower.
            **config_fields: fields of `BDAMConfig`.

        Raises:
            OSError: a tower cannot be read.
            ValueError: an unknown config field.
        """
        vision_model = load_tower(vision, "vision_config")
        text_model = load_tower(text, "text_config")
        config = BDAMConfig(
            vision_config=vision_model.config.to_dict(), text_config=text_model.config.to_dict(), **config_fields
        )
        return cls(config, vision_model=vision_model, text_model=text_model)

    def get_input_embeddings(self) -> nn.Module:
        """The text tower's token embeddings, which `resize_token_embeddings` fits to a tokenizer."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Puts `value` in the place of the text tower's token embeddings."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        identity_input_ids: Tensor | None = None,
        identity_attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BDAMFeatures:
        """Gallery vectors of images, fused with a description of each where one is given.

        Args:
            pixel_values: [B, 3, H, W].
            identity_input_ids: [B, T], the image's own MLLM identity description (method "described gallery").
            identity_attention_mask: [B, T].

        Raises:
            ValueError: an image size that the vision tower cannot take, or a text longer than the text tower takes.
        """
        tokens, tower = self._encode_images(pixel_values, **kwargs)
        decoupled = self.decoupling(tokens)
        description = None
        if identity_input_ids is not None:
            description, _ = self._encode_texts(identity_input_ids, identity_attention_mask)
        identity, fusion_gate = self._fuse(decoupled, description, identity_attention_mask)
        clothing = _normalize(self.image_clothing_head(decoupled.clothing))
        return _features(identity, clothing, tokens, tower, fusion_gate)

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BDAMFeatures:
        """Query vectors of sentences, which depend on no image.

        Args:
            input_ids, attention_mask: [B, T], padded on the right.

        Raises:
            ValueError: a text longer than the text tower takes.
        """
        tokens, tower = self._encode_texts(input_ids, attention_mask, **kwargs)
        identity, _ = self._fuse(None, tokens, attention_mask)
        clothing = _normalize(self.text_clothing_head(masked_mean(tokens, attention_mask)))
        return _features(identity, clothing, tokens, tower)

    @capture_outputs
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        identity_input_ids: Tensor | None = None,
        identity_attention_mask: Tensor | None = None,
        clothing_input_ids: Tensor | None = None,
        clothing_attention_mask: Tensor | None = None,
        person_ids: Tensor | None = None,
        return_loss: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BDAMOutput:
        """Images, their captions, their identity and clothing descriptions; any of the texts may be missing.

        Args:
            pixel_values: [B, 3, H, W].
            input_ids, attention_mask: captions, [B, T].
            identity_input_ids, identity_attention_mask: identity descriptions, [B, T'].
            clothing_input_ids, clothing_attention_mask: clothing descriptions, [B, T''].
            person_ids: [B], equal for images of one person; without it every image is its own.
            return_loss: add up the task losses of section 5 over this batch.

        Raises:
            ValueError: an image size that the vision tower cannot take; a text longer than the text tower takes;
                `return_loss` without images or captions, or with one of the two descriptions alone.
        """
        output = BDAMOutput(logit_scale=self.logit_scale.exp())
        decoupled = None
        if pixel_values is not None:
            decoupled = self.decoupling(self._encode_images(pixel_values)[0])
            self._describe_images(output, decoupled)
        if input_ids is not None:
            caption = self.get_text_features(input_ids, attention_mask, return_dict=True)
            output.text_embeds = caption.pooler_output
            output.caption_identity_embeds = caption.identity_embeds
            output.caption_clothing_embeds = caption.clothing_embeds
        if identity_input_ids is not None:
            tokens, _ = self._encode_texts(identity_input_ids, identity_attention_mask)
            output.description_identity_embeds, _ = self._fuse(None, tokens, identity_attention_mask)
            if decoupled is not None:
                output.fused_identity_embeds, output.fusion_gate = self._fuse(
                    decoupled, tokens, identity_attention_mask
                )
        if clothing_input_ids is not None:
            tokens, _ = self._encode_texts(clothing_input_ids, clothing_attention_mask)
            pooled = masked_mean(tokens, clothing_attention_mask)
            output.description_clothing_embeds = _normalize(self.text_clothing_head(pooled))
            output.clothing_text_embeds = _normalize(pooled.detach())
        if output.image_embeds is not None and output.text_embeds is not None:
            output.logits_per_text = output.logit_scale * self.score(output.text_embeds, output.image_embeds)
            output.logits_per_image = output.logits_per_text.T
        if return_loss:
            needed = {"pixel_values": pixel_values, "input_ids": input_ids}
            if identity_input_ids is not None or clothing_input_ids is not None:
                needed |= {"identity_input_ids": identity_input_ids, "clothing_input_ids": clothing_input_ids}
            if missing := [name for name, value in needed.items() if value is None]:
                raise ValueError(f"return_loss=True needs {', '.join(missing)} as well")
            output.loss = batch_loss(
                output,
                person_ids,
                _with_mask(identity_input_ids, identity_attention_mask),
                _with_mask(clothing_input_ids, clothing_attention_mask),
            )
        return BDAMOutput(**output)  # once more, for the order of its fields: the loss is `output[0]`

    def score(self, text_embeds: Tensor, image_embeds: Tensor, clothing_weight: float | None = None) -> Tensor:
        """`s_id + β s_clo` of every sentence with every image (method section 4).

        Args:
            text_embeds: `pooler_output` of sentences, [Q, 2 * projection_dim].
            image_embeds: `pooler_output` of images, [G, 2 * projection_dim].
            clothing_weight: β; by default the config's. 0 finds a person who may have changed clothes.

        Returns:
            [Q, G].
        """
        beta = self.config.clothing_weight if clothing_weight is None else clothing_weight
        identity, clothing = text_embeds.chunk(2, dim=-1)
        return torch.cat([identity, beta * clothing], dim=-1) @ image_embeds.T

    def _encode_images(
        self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, BaseModelOutput]:
        """The vision tower's tokens at width D, [B, L, D], and its whole output."""
        interpolate = self.vision_takes_one_size and self.config.interpolate_pos_encoding
        check_image_size(pixel_values, self.vision_model.config, self.vision_takes_one_size and not interpolate)
        interpolate = interpolate and interpolates(pixel_values, self.vision_model)
        arguments = {"interpolate_pos_encoding": True} if interpolate else {}
        tower = self.vision_model(pixel_values=pixel_values, **arguments, **kwargs)
        return self.vision_projection(vision_tokens(self.vision_model, tower)), tower

    def _encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, BaseModelOutput]:
        """The text tower's tokens at width D, [B, T, D], and its whole output."""
        check_text_length(input_ids, self.longest_text)
        tower = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return self.text_projection(tower.last_hidden_state), tower

    def _fuse(
        self, decoupled: Decoupled | None, text_tokens: Tensor | None, text_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """f_final, normalized, of an image, a text or both; and the fusion gate, where both are there."""
        image, text = None, None
        if self.config.fusion_sequence == "token":
            image = decoupled.identity_tokens if decoupled is not None else None  # [B, L, D]
            text = text_tokens  # [B, T, D]
        else:
            image = decoupled.identity[:, None] if decoupled is not None else None  # [B, 1, D]
            text = masked_mean(text_tokens, text_mask)[:, None] if text_tokens is not None else None
            text_mask = None
        final, gate = self.fusion(image, text, text_mask if text is not None else None)
        return _normalize(final), gate

    def _describe_images(self, output: BDAMOutput, decoupled: Decoupled) -> None:
        """Fills in what follows from the images alone."""
        output.image_identity_embeds, _ = self._fuse(decoupled, None, None)
        output.image_clothing_embeds = _normalize(self.image_clothing_head(decoupled.clothing))
        output.image_embeds = torch.cat([output.image_identity_embeds, output.image_clothing_embeds], dim=-1)
        output.identity_features, output.clothing_features = decoupled.identity, decoupled.clothing
        output.decoupled_identity, output.decoupled_clothing = decoupled.identity, decoupled.clothing
        if self.config.decouple_on == "embeddings":
            scale = self.config.projection_dim**0.5  # from unit length to about unit variance a dimension
            output.decoupled_identity = scale * output.image_identity_embeds
            output.decoupled_clothing = scale * output.image_clothing_embeds
        output.pooled_identity, output.pooled_clothing = decoupled.pooled_identity, decoupled.pooled_clothing
        output.gate = decoupled.gate
        if self.config.adversarial_on == "clothing":
            watched = self.adversarial_projection(decoupled.pooled_clothing)
        else:
            # The projection learns to tell the clothes, the identity feature to keep them from it: both sides of
            # eq. 1 in one pass, since reversing twice leaves the feature's own gradient as it is.
            watched = gradient_reversal(self.adversarial_projection(gradient_reversal(decoupled.pooled_identity)))
        output.adversarial_embeds = _normalize(watched)


def _features(
    identity: Tensor,
    clothing: Tensor,
    tokens: Tensor,
    tower: BaseModelOutput,
    fusion_gate: Tensor | None = None,
) -> BDAMFeatures:
    return BDAMFeatures(
        pooler_output=torch.cat([identity, clothing], dim=-1),
        identity_embeds=identity,
        clothing_embeds=clothing,
        last_hidden_state=tokens,
        fusion_gate=fusion_gate,
        hidden_states=tower.hidden_states,
        attentions=tower.get("attentions"),  # a convolutional tower's output has no such field
    )


def _with_mask(input_ids: Tensor | None, attention_mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if input_ids is None:
        return None
    return input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask


def _normalize(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


__all__ = ["BDAMFeatures", "BDAMModel", "BDAMOutput", "BDAMPreTrainedModel"]
