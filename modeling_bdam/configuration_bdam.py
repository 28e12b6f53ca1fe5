"""Configuration of the BDAM model for text-to-image person re-identification."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Arguments that transformers passes in addition to a config's fields; private ones begin with an underscore.
_COMMON_ARGUMENTS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
}

_AT_LEAST_ONE = ("_dim", "_size", "_heads", "_expand")  # ends of the names of fields that cannot be 0
# Upper bounds, so that a malicious config.json cannot exhaust memory.
_MOST_LAYERS = 1000
_LARGEST_SIZE = 2**24
_QUERIES, _CURVES = (
    {"text", "image", "composed"},
    {"slopes", "intercepts", "thresholds", "growths"},
)  # of `score_calibration`


@strict
class BDAMConfig(PreTrainedConfig):
    """Configures two towers, the Bidirectional Decoupling Alignment Module (BDAM) and the fusion head.

    Each row of the paper's tables 1 and 2 is a field. An unknown argument raises an error with the most similar field.

    Args:
        text_config: a text tower with inputs `input_ids, attention_mask`; a dict with `model_type`, or a config.
        vision_config: a vision tower that returns `last_hidden_state` [B, L, width].
        projection_dim: width of `identity_embeds` and of `clothing_embeds`; `pooler_output` is twice as wide.
        hidden_size: D, width of BDAM; a tower of another width gets one linear projection.
        dropout: on attention maps and residual branches of BDAM, and in the fusion head.
        joint_embeds: adds the towers' own embeddings in their joint space (CLIP, MetaCLIP, Chinese-CLIP, SigLIP) to
            both halves, whose own branches begin at zero: a new model ranks as the dual encoder does for every β.
        interpolate_pos_encoding: interpolates the vision tower's position embeddings to other image sizes, such as
            CLIP's 224 x 224 to 384 x 128.
        use_bdam: False for table 1's baseline: two linear heads on the mean token.
        num_bdam_layers: N, self-attention layers per branch (paper, section 3.2); "shallow" in table 1 has 3.
        num_bdam_heads: attention heads of BDAM.
        num_bdam_parts: P, learned queries that pool the tokens of the tower before BDAM's layers, so that these cost P
            instead of L tokens; 0 for all tokens (the paper).
        bdam_cross_attention: bidirectional cross-attention between the branches.
        bdam_gate: the gate g; without it neither branch is weighted.
        mlp_ratio: width of the feed-forward in BDAM's layers as a multiple of D; 0 for layers without feed-forward.
        use_fusion: False for table 2's baseline: one linear projection per modality.
        fusion_hidden_size: d, the width shared by image and text in the fusion head.
        num_fusion_layers: residual state-space layers.
        fusion_block: type of these layers: `"mamba"`, or `"transformer"`, `"attention"`, `"mlp"` for comparison
            (paper, figure 5).
        fusion_alignment: alignment MLPs; without them, one linear layer each.
        fusion_gate: softmax gate over the two modalities; without it each has weight 1/2.
        fusion_mamba: False for no state-space layers.
        fusion_norm: an RMSNorm before each state-space layer; without it (the paper), an output grows with the fourth
            power of its input.
        fusion_sequence: `"global"` fuses one vector per modality (the paper), `"token"` all tokens of both.
        mamba_state_size: state dimension of a state-space layer.
        mamba_conv_size: kernel size of its causal convolution.
        mamba_expand: its inner width as a multiple of `fusion_hidden_size`.
        use_matching: adds a matching head, which re-ranks the first candidates of a search (`MatchingHead`).
        matching_hidden_size: its width.
        num_matching_layers: its layers over the tokens of text and image; 0 for none.
        matching_block: type of these layers, as `fusion_block`; the `mamba_...` fields and `fusion_gate` apply to both.
        matching_bidirectional: state-space layers scan the tokens from both ends; otherwise from image to text only.
        matching_candidates: K, the first candidates that a search re-ranks by default.
        matching_weight: λ; the score of these is `s_id + β (s_clo + λ m)` with the match logit m.
        adversarial_on: the feature from which eq. 1 removes clothing information: `"clothing"`, as printed in the
            paper, or `"identity"` through gradient reversal, as its text argues.
        decouple_on: the pair that eq. 2 decorrelates: `"features"`, f_id and f_clo, as printed, or `"embeddings"`, the
            identity and clothing embeddings that retrieval compares.
        decouple_gradient: the half of an image that the gradient of eq. 2 reaches: `"identity"`, since the clothing
            half may know the identity, or `"both"`, as in the paper.
        decouple_estimator: of HSIC in eq. 2, `"unbiased"`, or `"biased"` as printed; see `hsic`.
        info_weights: weights of contrastive terms that differ from `objective_bdam.INFO_WEIGHTS`.
        clothing_weight: β of the score `s_id + β s_clo` in `logits_per_text`; a search may override it.
        score_calibration: likelihoods and thresholds of scores, fitted on a validation split after the training: the
            number of `images`, a list of `clothing_weights` and, for the kinds of query `text`, `image` and `composed`,
            the lists `slopes`, `intercepts`, `thresholds`, `growths`. See `evaluation/calibration.py`.
        logit_scale_init_value: logarithm of the initial 1/τ.
        initializer_range: standard deviation of new weights.

    Raises:
        ValueError: an unknown argument or tower type; the message names the most similar known one.
        StrictDataclassError: a value of the wrong type, or inconsistent fields (as in each config of transformers).
    """

    model_type = "bdam"
    _auto_class = "AutoConfig"  # save_pretrained copies this code, for trust_remote_code=True
    sub_configs_defaults = {  # noqa: RUF012 - transformers reads a plain dict
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    projection_dim: int = 256
    hidden_size: int = 768
    dropout: float | int = 0.1
    joint_embeds: bool = False
    interpolate_pos_encoding: bool = False

    use_bdam: bool = True
    num_bdam_layers: int = 6
    num_bdam_heads: int = 12
    num_bdam_parts: int = 0
    bdam_cross_attention: bool = True
    bdam_gate: bool = True
    mlp_ratio: float | int = 0.0

    use_fusion: bool = True
    fusion_hidden_size: int = 256
    num_fusion_layers: int = 2
    fusion_alignment: bool = True
    fusion_gate: bool = True
    fusion_mamba: bool = True
    fusion_block: Literal["mamba", "transformer", "attention", "mlp"] = "mamba"
    fusion_norm: bool = True
    fusion_sequence: Literal["global", "token"] = "global"
    mamba_state_size: int = 16
    mamba_conv_size: int = 4
    mamba_expand: int = 2

    use_matching: bool = False
    matching_hidden_size: int = 64
    num_matching_layers: int = 1
    matching_block: Literal["mamba", "transformer", "attention", "mlp"] = "mamba"
    matching_bidirectional: bool = True
    matching_candidates: int = 32
    matching_weight: float | int = 0.05

    adversarial_on: Literal["clothing", "identity"] = "identity"
    decouple_on: Literal["features", "embeddings"] = "embeddings"
    decouple_gradient: Literal["identity", "both"] = "identity"
    decouple_estimator: Literal["unbiased", "biased"] = "unbiased"
    info_weights: dict[str, float | int] | None = None
    clothing_weight: float | int = 1.0
    score_calibration: dict[str, Any] | None = None
    logit_scale_init_value: float | int = 2.6592
    initializer_range: float | int = 0.02

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a config file as transformers does.

        Raises:
            OSError: there is no such folder or file.
            ValueError: the config is that of another model type.
        """
        name = str(pretrained_model_name_or_path)
        check_model_name(name)
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not fields:
            raise OSError(f"{name}: no model, since it has no config.json; give the folder of a saved model")
        found = fields.get("model_type") if isinstance(fields, dict) else None
        if found != cls.model_type:
            raise ValueError(
                f"{name}: its config.json is of the model type `{found}`, but `{cls.model_type}` is needed"
            )
        return fields, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "BDAMConfig":
        """Makes a config of the fields of a file; one that was saved before there was `fusion_norm` has no norms."""
        if "transformers_version" in config_dict:  # saved, with all fields
            config_dict = {"fusion_norm": False} | config_dict
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in _COMMON_ARGUMENTS and not name.startswith("_"):
                raise ValueError(f"BDAMConfig has no field `{name}`{nearest_name(name, self.__dataclass_fields__)}")
        for field in self.sub_configs_defaults:
            tower = getattr(self, field)
            model_type = tower.get("model_type") if isinstance(tower, dict) else None
            if model_type is not None and model_type not in CONFIG_MAPPING:
                hint = nearest_name(model_type, CONFIG_MAPPING)
                raise ValueError(f"{field}: transformers has no model type `{model_type}`{hint}")
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks the fields for consistency; transformers calls it after `__init__`.

        Raises:
            ValueError: names the inconsistent fields and their values; transformers wraps it in StrictDataclassError.
        """
        for name in BDAMConfig.__annotations__:
            value, least = getattr(self, name), int(name.endswith(_AT_LEAST_ONE))
            if isinstance(value, (int, float)) and value < least and name != "logit_scale_init_value":
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name, value, most in _upper_bounds(self):
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, got {self.dropout}")
        if self.use_bdam and self.hidden_size % self.num_bdam_heads:
            heads = f"num_bdam_heads ({self.num_bdam_heads})"
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of {heads}")
        towers = [str(getattr(tower, "model_type", None)) for tower in (self.vision_config, self.text_config)]
        if self.joint_embeds and not have_joint_space(*towers):
            raise ValueError(f"joint_embeds needs the towers of a CLIP or SigLIP model, got {' and '.join(towers)}")
        if self.fusion_sequence == "token" and not self.use_fusion:
            raise ValueError("fusion_sequence='token' needs use_fusion=True")
        if self.score_calibration is not None and not _is_calibration(self.score_calibration):
            raise ValueError("score_calibration must have images, clothing_weights and lists of as many finite numbers")


def have_joint_space(vision_type: str, text_type: str) -> bool:
    """Returns whether towers of these model types are those of one dual encoder with a supported joint space."""
    families = ("clip", "metaclip_2", "chinese_clip", "siglip")
    return (vision_type, text_type) in {(f"{name}_vision_model", f"{name}_text_model") for name in families}


def _is_calibration(fields: dict[str, Any]) -> bool:
    """Returns whether all lists of a calibration are finite numbers, as many as β, which increase."""
    try:
        curves = [fields["clothing_weights"]]
        curves += [fields[kind][name] for kind in _QUERIES & fields.keys() for name in _CURVES]
        numbers = [fields["images"], *(value for curve in curves for value in curve)]
        is_finite = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
        lengths = {len(curve) for curve in curves}
        return is_finite and numbers[0] >= 1 and len(lengths) == 1 and lengths != {0} and curves[0] == sorted(curves[0])
    except (KeyError, TypeError):
        return False


def _upper_bounds(config: BDAMConfig) -> Iterator[tuple[str, float, int]]:
    """Yields name, value and upper bound of each size and number of layers of the model and its towers."""
    parts = {"": config} | {f"{tower}.": getattr(config, tower) for tower in config.sub_configs_defaults}
    for prefix, part in parts.items():
        for name, value in vars(part).items():
            most = _MOST_LAYERS if "layers" in name or name == "depths" else _LARGEST_SIZE
            if most == _MOST_LAYERS or name.endswith(("_size", "_sizes", "_dim", "_embeddings", "_ratio", "_expand")):
                values = value if isinstance(value, (list, tuple)) else [value]
                yield from ((prefix + name, number, most) for number in values if isinstance(number, (int, float)))


def check_model_name(name: str) -> None:
    """Raises OSError if `name` is neither an existing path nor a name of the Hub."""
    if not os.path.exists(name) and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise OSError(f"{name}: no such folder, and not of the form owner/name of the Hub")


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The hint "; did you mean `X`?" for an unknown name, or "" where no known name is similar."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean `{nearest[0]}`?" if nearest else ""


__all__ = ["BDAMConfig"]
