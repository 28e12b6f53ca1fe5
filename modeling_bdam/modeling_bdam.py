"""BDAM: decoupled identity and clothing embeddings of person images and sentences in one retrieval space."""

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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

from .configuration_bdam import BDAMConfig, check_model_name, nearest_name
from .decoupling_bdam import BDAMAttention, BDAMLayer, BidirectionalDecoupling, Decoupled, LinearDecoupling, PartPooling
from .fusion_bdam import FusionHead, LinearFusion, masked_mean
from .losses_bdam import gradient_reversal
from .mamba_bdam import MambaBlock
from .matching_bdam import MatchingHead
from .objective_bdam import JOINT_SPACE_FIELDS, batch_loss
from .outputs_bdam import BDAMFeatures, BDAMOutput, weigh_clothing
from .towers_bdam import (
    JointSpace,
    build_tower,
    check_tower,
    drop_idle_parameters,
    joint_projection,
    load_dual_encoder,
    load_tower,
    longest_text,
    run_text_tower,
    run_vision_tower,
    split_by_length,
    supported_attention,
    takes_one_size,
    tower_width,
)

# Arguments of `from_pretrained` in addition to the fields of the config, for the nearest name of an unknown one
_LOADING_ARGUMENTS = (
    *("attn_implementation", "cache_dir", "config", "device_map", "dtype", "force_download", "ignore_mismatched_sizes"),
    *("key_mapping", "local_files_only", "max_memory", "offload_folder", "output_loading_info", "quantization_config"),
    *("revision", "subfolder", "token", "torch_dtype", "trust_remote_code", "use_safetensors", "variant"),
)

Model = TypeVar("Model", bound="BDAMPreTrainedModel")
LARGEST_SCALE = 100.0
_normalize = partial(nn.functional.normalize, dim=-1)


class BDAMPreTrainedModel(PreTrainedModel):
    """Initializes, loads and saves BDAM models."""

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
        """Returns False: for custom code, transformers would skip the `_init_weights` of CLIP's and SigLIP's layers."""
        return False

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Model:
        """Loads a model as transformers does, but only from safetensors: a pickle can run arbitrary code.

        Raises:
            OSError: there is no such model, there are no safetensors, or they are damaged.
            TypeError: an unknown argument; the message names the nearest known one.
            ValueError: the weights do not fit the config, or this is the config of another model type.
        """
        if pretrained_model_name_or_path is not None:
            check_model_name(str(pretrained_model_name_or_path))
        places = kwargs.get("device_map")
        if isinstance(places, dict) and "" not in places and places.get("logit_scale", "disk") == "disk":
            # Accelerate offloads the parameters of modules; this one belongs to the model itself.
            kwargs["device_map"] = places | {"logit_scale": "cpu"}
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs | {"use_safetensors": True})
        except SafetensorError as error:
            damaged = f"{pretrained_model_name_or_path}: the safetensors are damaged or truncated ({error})"
            raise OSError(f"{damaged}; download them again") from None
        except OSError as error:
            problem = " ".join(str(error).split())
            if "safetensors" not in problem:
                raise OSError(problem) from error
            raise OSError(
                f"{problem} Weights in a pickle (pytorch_model.bin) are not read: it could run code"
            ) from None
        except TypeError as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown is None or unknown[1] not in kwargs:
                raise
            known = {*_LOADING_ARGUMENTS, *BDAMConfig.__dataclass_fields__}
            hint = nearest_name(unknown[1], known)
            raise TypeError(f"{cls.__name__}.from_pretrained has no argument `{unknown[1]}`{hint}") from None

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves a model as transformers does, readable by others as by the umask; safetensors writes for the owner."""
        super().save_pretrained(save_directory, *args, **kwargs)
        mask = os.umask(0)
        os.umask(mask)
        for file in Path(save_directory).glob("*.safetensors"):
            with suppress(PermissionError):  # of another owner
                file.chmod(0o666 & ~mask)

    @staticmethod
    def _finalize_model_loading(model: PreTrainedModel, load_config: Any, loading_info: Any) -> Any:
        """Checks the weights against the config before transformers allocates memory for missing weights."""
        problem = f"{load_config.pretrained_model_name_or_path}: the weights do not fit the config"
        mismatched = sorted(loading_info.mismatched_keys)
        if mismatched and not load_config.ignore_mismatched_sizes:
            name, found, expected = mismatched[0]
            raise ValueError(
                f"{problem}: `{name}` is {list(found)} in the file and {list(expected)} by the config "
                f"({len(mismatched)} weights differ)"
            )
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        total, missing = sum(sizes.values()), sum(sizes.get(name, 0) for name in loading_info.missing_keys)
        # transformers' own tests load files of one tensor or none, which are accepted.
        is_other_model = missing < total or len(loading_info.unexpected_keys) > 1
        if is_other_model and missing > total - missing:
            raise ValueError(f"{problem}: of its {total:,} parameters, the file lacks {missing:,}")
        return PreTrainedModel._finalize_model_loading(model, load_config, loading_info)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        kernels = supported_attention(type(self), attn_implementation)
        return super()._check_and_adjust_attn_implementation(kernels, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (MambaBlock, MatchingHead, PartPooling)):
            module.init_weights()
        elif isinstance(module, BDAMModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if self.config.joint_embeds:  # the branches beside the joint space begin at zero
                for layer in (*module.fusion.output_layers(), module.image_clothing_head, module.text_clothing_head):
                    init.zeros_(layer.weight)


class BDAMModel(BDAMPreTrainedModel):
    """Vision tower, text tower, BDAM and fusion head (paper, sections 3.1 to 3.4).

    Example:
        ```python
        model = AutoModel.from_pretrained(folder)
        gallery = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
        query = model.get_text_features(**processor(text="a man in a red coat", return_tensors="pt"))
        ```
    """

    _auto_class = "AutoModel"  # type: ignore[assignment]  # save_pretrained copies this code

    def __init__(
        self, config: BDAMConfig, vision_model: PreTrainedModel | None = None, text_model: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        # Towers; they read their attention implementation from these config objects, which must be shared
        vision_config = cast(PreTrainedConfig, config.vision_config)
        text_config = cast(PreTrainedConfig, config.text_config)
        check_tower(vision_config, "vision_config")
        check_tower(text_config, "text_config")
        self.vision_model = vision_model or build_tower(vision_config, config.joint_embeds)
        self.text_model = text_model or build_tower(text_config, config.joint_embeds)
        self.vision_model.config, self.text_model.config = vision_config, text_config
        for tower in (self.vision_model, self.text_model):  # of a pretrained one, the new config resets the kernels
            kernels = supported_attention(type(tower), tower.config._attn_implementation)
            tower.config._attn_implementation = tower.get_correct_attn_implementation(kernels)
        drop_idle_parameters(self.vision_model, self.text_model, config.joint_embeds)
        self.vision_takes_one_size = takes_one_size(self.vision_model)
        self.longest_text = longest_text(self.text_model)
        # Projections to width D, decoupling and fusion
        width, vision_width, text_width = config.hidden_size, tower_width(vision_config), tower_width(text_config)
        self.vision_projection = nn.Identity() if vision_width == width else nn.Linear(vision_width, width)
        self.text_projection = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.decoupling = BidirectionalDecoupling(config) if config.use_bdam else LinearDecoupling(config)
        self.fusion = FusionHead(config, width) if config.use_fusion else LinearFusion(config, width)
        # Heads
        self.image_clothing_head = nn.Linear(width, config.projection_dim)
        self.text_clothing_head = nn.Linear(width, config.projection_dim)
        self.adversarial_projection = nn.Linear(width, width)
        self.matching = MatchingHead(config) if config.use_matching else None
        # Projections of pretrained towers into their joint space
        joint = config.joint_embeds
        self.visual_projection = joint_projection(vision_config, config.projection_dim) if joint else None
        self.textual_projection = joint_projection(text_config, config.projection_dim) if joint else None
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(cls, vision: str, text: str, **config_fields: Any) -> "BDAMModel":
        """Creates a model from two pretrained towers; all other weights are new and need training.

        Args:
            vision: Hub id or folder of a vision tower, or of a CLIP or SigLIP model, of which the vision tower is used.
            text: the same for the text tower. If both name one dual encoder (CLIP, MetaCLIP, Chinese-CLIP, SigLIP, a
                converted checkpoint), its joint space is kept (`joint_embeds`), and `projection_dim`, `hidden_size`,
                `num_bdam_heads` and the temperature are by default its own, and the objective is that of
                `objective_bdam.JOINT_SPACE_FIELDS`.
            **config_fields: fields of `BDAMConfig`.

        Raises:
            OSError: a tower cannot be read.
            ValueError: an unknown config field.
        """
        encoder = load_dual_encoder(vision, text) if config_fields.get("joint_embeds", True) else None
        own: dict[str, Any] = {}
        if encoder is None:
            vision_model, text_model = load_tower(vision, "vision_config"), load_tower(text, "text_config")
        else:
            vision_model, text_model, joint = encoder
            own = {
                "joint_embeds": True,
                "projection_dim": joint.width,
                "logit_scale_init_value": joint.logit_scale,
                "hidden_size": vision_model.config.hidden_size,
                "num_bdam_heads": vision_model.config.num_attention_heads,
                **JOINT_SPACE_FIELDS,
            }
        towers: dict[str, Any] = {"vision_config": vision_model.config, "text_config": text_model.config}
        model = cls(BDAMConfig(**towers, **own | config_fields), vision_model, text_model)
        if encoder is not None:
            model.load_joint_space(encoder[2])
        return model

    @torch.no_grad()
    def load_joint_space(self, joint: JointSpace) -> None:
        """Copies the projections of pretrained towers.

        Raises:
            ValueError: `projection_dim` is not that of the joint space.
        """
        if self.config.projection_dim != joint.width:
            raise ValueError(
                f"projection_dim={self.config.projection_dim}, but the towers have a joint space of {joint.width}: "
                "leave it out, or set joint_embeds=False"
            )
        if joint.visual_projection is not None and joint.textual_projection is not None:
            cast(nn.Linear, self.visual_projection).weight.copy_(joint.visual_projection)
            cast(nn.Linear, self.textual_projection).weight.copy_(joint.textual_projection)

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        """Sets the attention kernels; a tower that does not support them keeps its default, with one warning."""
        if not isinstance(attn_implementation, dict):
            attn_implementation = dict.fromkeys(("", *self.config.sub_configs), attn_implementation)
        for field, tower in (("vision_config", self.vision_model), ("text_config", self.text_model)):
            if field in attn_implementation:
                kernels = supported_attention(type(tower), attn_implementation[field])
                attn_implementation = attn_implementation | {field: kernels}
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        identity_input_ids: Tensor | None = None,
        identity_attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BDAMFeatures:
        """Computes gallery vectors of images, fused with a description of each image if given.

        Args:
            pixel_values: [B, 3, H, W].
            identity_input_ids: [B, T], the identity description of each image, generated by an MLLM.
            identity_attention_mask: [B, T].

        Raises:
            ValueError: an image size that the vision tower does not support, or a text above the text tower's limit.
        """
        tokens, tower = self._encode_images(pixel_values, **kwargs)  # [B, L, D]
        decoupled = self._decouple(tokens, tower)
        description = None
        if identity_input_ids is not None:
            description, _ = self._encode_texts(identity_input_ids, identity_attention_mask)
        [(identity, fusion_gate)] = self._fuse_sets([(decoupled, description)])  # [B, P], [B, 2]
        clothing = _join(self.image_clothing_head(decoupled.clothing), decoupled.joint)  # [B, P]
        matching_tokens = None if self.matching is None else self._matching_tokens(decoupled)  # [B, 2L, D]
        return _features(identity, clothing, tokens, tower, fusion_gate, matching_tokens)

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BDAMFeatures:
        """Computes query vectors of sentences, without any image.

        Args:
            input_ids, attention_mask: [B, T], padded on the right.

        Raises:
            ValueError: a text above the text tower's limit.
        """
        texts, tower = self._encode_texts(input_ids, attention_mask, **kwargs)
        [(identity, _)] = self._fuse_sets([(None, texts)])  # [B, P]
        clothing = _join(self.text_clothing_head(texts.mean), texts.joint)  # [B, P]
        return _features(identity, clothing, cast(Tensor, texts.tokens), tower)

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
        """Embeds images, captions, identity and clothing descriptions, each of which is optional, for training.

        Args:
            pixel_values: [B, 3, H, W].
            input_ids, attention_mask: captions, [B, T].
            identity_input_ids, identity_attention_mask: identity descriptions, [B, T'].
            clothing_input_ids, clothing_attention_mask: clothing descriptions, [B, T''].
            person_ids: [B], equal for images of one person; by default each image is another person.
            return_loss: adds up the task losses of this batch.

        Raises:
            ValueError: an image size that the vision tower does not support; a text above the text tower's limit;
                `return_loss` without images or captions, or with only one of the two descriptions.
        """
        output = BDAMOutput(logit_scale=self.temperature_scale())

        # Towers, decoupling into identity and clothing
        decoupled = None
        if pixel_values is not None:
            decoupled = self._decouple(*self._encode_images(pixel_values))  # of tokens [B, L, D]
        captions, identity_texts, clothing_texts = self._encode_text_sets(
            (input_ids, attention_mask),
            (identity_input_ids, identity_attention_mask),
            (clothing_input_ids, clothing_attention_mask),
        )

        # Identity: images, captions, descriptions, and images fused with their descriptions (P: projection_dim)
        sets = {
            "image_identity_embeds": (decoupled, None),
            "caption_identity_embeds": (None, captions),
            "description_identity_embeds": (None, identity_texts),
        }
        given = {field: pair for field, pair in sets.items() if any(part is not None for part in pair)}
        if decoupled is not None and identity_texts is not None:
            given["fused_identity_embeds"] = (decoupled, identity_texts)
        for field, (embeds, gate) in zip(given, self._fuse_sets(list(given.values())), strict=True):
            output[field], output.fusion_gate = embeds, gate  # [B, P]; the gate [B, 2] of the last set

        # Clothing
        if decoupled is not None:
            clothing = self.image_clothing_head(decoupled.clothing)  # [B, P]
            output.image_clothing_embeds = _join(clothing, decoupled.joint)  # [B, P]
            output.image_embeds = torch.cat([output.image_identity_embeds, output.image_clothing_embeds], dim=-1)
            self._add_decoupling_outputs(output, decoupled)
            if self.matching is not None:
                output.matching_tokens = self._matching_tokens(decoupled)  # [B, 2L, D]
        if captions is not None:
            output.caption_clothing_embeds = _join(self.text_clothing_head(captions.mean), captions.joint)  # [B, P]
            output.text_embeds = torch.cat([output.caption_identity_embeds, output.caption_clothing_embeds], dim=-1)
            if self.matching is not None:
                output.caption_tokens, output.caption_mask = cast(Tensor, captions.tokens), cast(Tensor, captions.mask)
        if clothing_texts is not None:
            clothing = self.text_clothing_head(clothing_texts.mean)  # [B, P]
            output.description_clothing_embeds = _join(clothing, clothing_texts.joint)  # [B, P]
            output.clothing_text_embeds = _normalize(clothing_texts.mean.detach())  # [B, D]

        # Scores of all pairs, [texts, images]
        if output.image_embeds is not None and output.text_embeds is not None:
            output.logits_per_text = output.logit_scale * self.score(output.text_embeds, output.image_embeds)
            output.logits_per_image = output.logits_per_text.T

        # Loss
        if return_loss:
            needed = {"pixel_values": pixel_values, "input_ids": input_ids}
            if identity_input_ids is not None or clothing_input_ids is not None:
                needed |= {"identity_input_ids": identity_input_ids, "clothing_input_ids": clothing_input_ids}
            if missing := [name for name, value in needed.items() if value is None]:
                raise ValueError(f"return_loss=True also needs {', '.join(missing)}")
            descriptions = None
            if identity_input_ids is not None:
                identity = _with_mask(identity_input_ids, identity_attention_mask)
                descriptions = identity, _with_mask(clothing_input_ids, clothing_attention_mask)
            output.loss = batch_loss(output, self.config, person_ids, descriptions)
        return BDAMOutput(**output)  # restores the order of the fields: the loss is `output[0]`

    def score(self, text_embeds: Tensor, image_embeds: Tensor, clothing_weight: float | None = None) -> Tensor:
        """Computes the retrieval score `s_id + β s_clo` of each sentence with each image.

        Args:
            text_embeds: `pooler_output` of sentences, [Q, 2 * projection_dim].
            image_embeds: `pooler_output` of images, [G, 2 * projection_dim].
            clothing_weight: β; by default the config's. 0 for people who may have changed clothes.
        """
        beta = self.config.clothing_weight if clothing_weight is None else clothing_weight
        return weigh_clothing(text_embeds, beta) @ image_embeds.T  # [Q, G]

    def match(self, image_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Scores candidate images of sentences by the matching head, for the re-ranking of a search.

        Args:
            image_tokens: `matching_tokens` of K candidates for each sentence, [Q, K, 2L, D].
            text_tokens: `last_hidden_state` of the sentences, [Q, T, D].
            text_mask: their attention mask, [Q, T].

        Returns:
            match logits m, [Q, K]; the score of a candidate is `s_id + β (s_clo + λ m)`, see `BDAMConfig`.

        Raises:
            ValueError: the model has no matching head.
        """
        if self.matching is None:
            raise ValueError("this model has no matching head to re-rank with: train one with use_matching=true")
        if text_mask is None:
            text_mask = text_tokens.new_ones(text_tokens.shape[:2])
        return self.matching(image_tokens, text_tokens, text_mask)[0]

    def temperature_scale(self) -> Tensor:
        """Returns 1/τ, at most `LARGEST_SCALE` as in CLIP, a scalar."""
        return self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp()

    def _encode_images(
        self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, BaseModelOutput]:
        """Returns the vision tower's tokens, projected to width D, [B, L, D], and its whole output."""
        size = (self.vision_takes_one_size, self.config.interpolate_pos_encoding)
        tokens, tower = run_vision_tower(self.vision_model, pixel_values, *size, **kwargs)
        return self.vision_projection(tokens), tower

    def _encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple["EncodedTexts", BaseModelOutput]:
        """Encodes texts [B, T]; returns their tokens at width D, and the text tower's whole output."""
        tower = run_text_tower(self.text_model, input_ids, attention_mask, self.longest_text, **kwargs)
        tokens = self.text_projection(tower.last_hidden_state)  # [B, T, D]
        joint = None
        if self.textual_projection is not None:
            joint = _normalize(self.textual_projection(tower["pooler_output"]))  # [B, P]
        return EncodedTexts(masked_mean(tokens, attention_mask), joint, tokens, attention_mask), tower

    def _decouple(self, tokens: Tensor, tower: BaseModelOutput) -> Decoupled:
        """Decouples the tokens [B, L, D] of the vision tower, and projects its pooled vector into the joint space."""
        decoupled = self.decoupling(tokens)
        if self.visual_projection is not None:
            decoupled.joint = _normalize(self.visual_projection(tower["pooler_output"]))  # [B, P]
        return decoupled

    def _matching_tokens(self, decoupled: Decoupled) -> Tensor:
        """Returns the tokens that the matching head reads of images, [B, 2L, D].

        Captions name clothes, so the head does not train the identity tokens.
        """
        return torch.cat([decoupled.identity_tokens.detach(), decoupled.clothing_tokens], dim=1)

    def _encode_text_sets(self, *sets: tuple[Tensor | None, Tensor | None]) -> list["EncodedTexts | None"]:
        """Encodes sets of texts, each ids and mask [B, T]; a set without ids stays None.

        Where only means over tokens are needed, each distinct text is encoded once, and texts of similar length are
        encoded together: most texts are much shorter than the longest, to which a batch is padded.
        """
        given = {number: _with_mask(*each) for number, each in enumerate(sets) if each[0] is not None}
        if len(given) < 2 or self.config.fusion_sequence == "token" or torch.compiler.is_compiling():
            encoded = [self._encode_texts(ids, mask)[0] for ids, mask in given.values()]
        else:
            width = max(ids.shape[1] for ids, _ in given.values())
            rows = [
                nn.functional.pad(ids.masked_fill(mask == 0, -1), (0, width - ids.shape[1]), value=-1)
                for ids, mask in given.values()
            ]
            texts, number_of_row = torch.unique(torch.cat(rows), dim=0, return_inverse=True)  # [U, width], [rows]
            lengths = (texts >= 0).sum(dim=1)  # [U]
            order = lengths.argsort()  # [U]
            ordered = lengths[order].cpu()  # one synchronization for all groups
            sizes = split_by_length(ordered)
            groups = zip(order.split(sizes), ordered.split(sizes), strict=True)
            parts = [texts[group, : int(own[-1])] for group, own in groups]
            passes = [self._encode_texts(ids.clamp(min=0), (ids >= 0).long())[0] for ids in parts]
            row = order.argsort()[number_of_row]  # [rows]
            sizes = [len(ids) for ids, _ in given.values()]
            means = torch.cat([each.mean for each in passes])[row].split(sizes)  # [B, D] each
            joints: Any = [None] * len(given)
            if self.textual_projection is not None:
                joints = torch.cat([cast(Tensor, each.joint) for each in passes])[row].split(sizes)  # [B, P] each
            encoded = [EncodedTexts(mean, joint) for mean, joint in zip(means, joints, strict=True)]
            if self.matching is not None and 0 in given:  # its head reads captions token by token
                own, most = cast(Tensor, sets[0][0]).shape[1], int(lengths.max())
                pad: Any = nn.functional.pad
                missing = [most - cast(Tensor, each.tokens).shape[1] for each in passes]
                tokens = [pad(each.tokens, (0, 0, 0, count)) for each, count in zip(passes, missing, strict=True)]
                masks = [pad(each.mask, (0, count)) for each, count in zip(passes, missing, strict=True)]
                encoded[0].tokens = torch.cat(tokens)[row[: sizes[0]], :own]  # [B, T, D]
                encoded[0].mask = torch.cat(masks)[row[: sizes[0]], :own]  # [B, T]
        found = dict(zip(given, encoded, strict=True))
        return [found.get(number) for number in range(len(sets))]

    def _fuse_sets(
        self, sets: list[tuple[Decoupled | None, "EncodedTexts | None"]]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Returns the normalized f_final [B, P] of each set of images, texts or both, and for both the gate [B, 2]."""
        if self.config.fusion_sequence == "token":
            fused = [
                self.fusion(image and image.identity_tokens, text and text.tokens, text and text.mask)
                for image, text in sets
            ]
        else:
            vectors = [
                (None if image is None else image.identity[:, None], None if text is None else text.mean[:, None])
                for image, text in sets
            ]
            fused = self.fusion.forward_sets(vectors)
        joints = [[part.joint for part in parts if part is not None and part.joint is not None] for parts in sets]
        means = [_normalize(torch.stack(joint).sum(dim=0)) if joint else None for joint in joints]  # [B, P] each
        return [(_join(final, joint), gate) for (final, gate), joint in zip(fused, means, strict=True)]

    def _add_decoupling_outputs(self, output: BDAMOutput, decoupled: Decoupled) -> None:
        """Sets the fields of `output` that the losses on decoupling read."""
        # Features before and after the gate
        output.pooled_identity, output.pooled_clothing = decoupled.pooled_identity, decoupled.pooled_clothing
        output.identity_features, output.clothing_features = decoupled.identity, decoupled.clothing
        output.gate = decoupled.gate
        # The pair of the decoupling loss, eq. 2
        output.decoupled_identity, output.decoupled_clothing = decoupled.identity, decoupled.clothing
        if self.config.decouple_on == "embeddings":
            scale = self.config.projection_dim**0.5  # from unit length to about unit variance per dimension
            output.decoupled_identity = scale * output.image_identity_embeds
            output.decoupled_clothing = scale * output.image_clothing_embeds
        # The feature of the adversarial loss, eq. 1
        if self.config.adversarial_on == "clothing":
            adversarial = self.adversarial_projection(decoupled.pooled_clothing)
        else:
            # Trains both adversaries in one pass: the projection gets the reversed gradient of eq. 1 and learns to
            # predict the clothing text; for the identity feature the two reversals cancel, so that it minimizes eq. 1.
            adversarial = gradient_reversal(self.adversarial_projection(gradient_reversal(decoupled.pooled_identity)))
        output.adversarial_embeds = _normalize(adversarial)  # [B, D]


@dataclass
class EncodedTexts:
    """Texts after the text tower.

    Attributes:
        mean: mean over tokens, [B, D].
        joint: embedding of the text tower in the joint space of the towers, normalized, [B, P]; None without one.
        tokens, mask: [B, T, D] and [B, T]; None where only the mean is needed.
    """

    mean: Tensor
    joint: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


def _join(branch: Tensor, joint: Tensor | None) -> Tensor:
    """Adds the embedding in the joint space of the towers, if there is one, and normalizes, [B, P]."""
    return _normalize(branch if joint is None else branch + joint)


def _features(
    identity: Tensor,
    clothing: Tensor,
    tokens: Tensor,
    tower: BaseModelOutput,
    fusion_gate: Tensor | None = None,
    matching_tokens: Tensor | None = None,
) -> BDAMFeatures:
    return BDAMFeatures(
        pooler_output=torch.cat([identity, clothing], dim=-1),
        identity_embeds=identity,
        clothing_embeds=clothing,
        last_hidden_state=tokens,
        matching_tokens=matching_tokens,
        fusion_gate=fusion_gate,
        hidden_states=tower.hidden_states,
        attentions=tower.get("attentions"),  # the output of a convolutional tower has no such field
    )


def _with_mask(input_ids: Any, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask


__all__ = ["BDAMFeatures", "BDAMModel", "BDAMOutput", "BDAMPreTrainedModel"]
