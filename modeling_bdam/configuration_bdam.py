"""Configuration of the BDAM model for text-to-image person re-identification."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# What transformers itself passes beyond a config's fields, when it reads a saved file or as a common argument; it also
# writes private ones, with a leading underscore.
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

_AT_LEAST_ONE = (
    "projection_dim",
    "hidden_size",
    "num_bdam_heads",
    "fusion_hidden_size",
    "mamba_state_size",
    "mamba_conv_size",
    "mamba_expand",
)
_AT_LEAST_ZERO = (
    "num_bdam_layers",
    "num_fusion_layers",
    "mlp_ratio",
    "dropout",
    "clothing_weight",
    "initializer_range",
)
_MOST_LAYERS = 1000
_LARGEST_SIZE = 2**24


@strict
class BDAMConfig(PreTrainedConfig):
    """Two towers, the Bidirectional Decoupling Alignment Module, the fusion head and what they are made of.

    Every row of the paper's tables 1 and 2 is a field here. Unknown arguments are refused, naming the nearest field.

    Args:
        text_config: any text tower that takes `input_ids, attention_mask`; a dict with `model_type`, or a config.
        vision_config: any vision tower that returns `last_hidden_state` [B, L, width].
        projection_dim: width of `identity_embeds` and of `clothing_embeds`; `pooler_output` is twice as wide.
        hidden_size: D, width of BDAM; a tower of another width gets one linear projection.
        dropout: on attention maps and residual branches of BDAM, and inside the fusion head.
        interpolate_pos_encoding: let the vision tower take images of another size than its own, such as CLIP's
            224 x 224 at 384 x 128.
        use_bdam: without it (table 1's baseline) identity and clothing come from the mean token by two linear heads.
        num_bdam_layers: N, self-attention layers a branch (section 3.2); table 1 calls 3 "shallow".
        num_bdam_heads: attention heads of BDAM.
        bdam_cross_attention: the bidirectional cross-attention between the branches.
        bdam_gate: the gate g; without it both branches pass whole.
        mlp_ratio: width of a feed-forward in BDAM's layers as a multiple of D; 0 leaves attention alone.
        use_fusion: without it (table 2's baseline) the final representation is one projection of each feature.
        fusion_hidden_size: d, the width shared by image and text in the fusion head.
        num_fusion_layers: residual state-space layers.
        fusion_block: what those layers are: `"mamba"`, the state space; `"transformer"`, `"attention"` or `"mlp"` for
            comparison (figure 5).
        fusion_alignment: the align MLPs; without them, one linear map each.
        fusion_gate: the softmax gate over the two modalities; without it each weighs 1/2.
        fusion_mamba: the state-space layers.
        fusion_sequence: `"global"` fuses one vector a modality (the paper), `"token"` the tokens of both.
        mamba_state_size: state dimension of a state-space layer.
        mamba_conv_size: kernel of its causal convolution.
        mamba_expand: its inner width as a multiple of `fusion_hidden_size`.
        adversarial_on: which feature eq. 1 keeps from telling the clothes: `"clothing"`, as printed, or
            `"identity"`, through gradient reversal, as the text around eq. 1 argues.
        decouple_on: what eq. 2 holds apart: `"features"`, f_id and f_clo, as printed, or `"embeddings"`, the identity
            and clothing embeddings that a search compares.
        clothing_weight: β of the score `s_id + β s_clo` that `logits_per_text` holds; a search may choose its own.
        logit_scale_init_value: logarithm of the initial 1/τ.
        initializer_range: standard deviation of newly initialized weights.

    Raises:
        ValueError: an unknown argument or kind of tower, naming the nearest known one.
        StrictDataclassError: a value of the wrong type, or fields that do not fit one another (as in every config of
            transformers).
    """

    model_type = "bdam"
    _auto_class = "AutoConfig"  # what is saved carries this code, for AutoConfig(trust_remote_code=True)
    sub_configs_defaults = {  # noqa: RUF012 - transformers reads a plain dict
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    projection_dim: int = 256
    hidden_size: int = 768
    dropout: float | int = 0.1
    interpolate_pos_encoding: bool = False

    use_bdam: bool = True
    num_bdam_layers: int = 6
    num_bdam_heads: int = 12
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
    fusion_sequence: Literal["global", "token"] = "global"
    mamba_state_size: int = 16
    mamba_conv_size: int = 4
    mamba_expand: int = 2

    adversarial_on: Literal["clothing", "identity"] = "identity"
    decouple_on: Literal["features", "embeddings"] = "embeddings"
    clothing_weight: float | int = 1.0
    logit_scale_init_value: float | int = 2.6592
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in _COMMON_ARGUMENTS and not name.startswith("_"):
                raise ValueError(f"BDAMConfig has no field `{name}`{_nearest(name, self.__dataclass_fields__)}")
        for field in self.sub_configs_defaults:
            tower = getattr(self, field)
            model_type = tower.get("model_type") if isinstance(tower, dict) else None
            if model_type is not None and model_type not in CONFIG_MAPPING:
                hint = _nearest(model_type, CONFIG_MAPPING)
                raise ValueError(f"{field}: transformers has no model type `{model_type}`{hint}")
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks the fields against one another; transformers calls it once a config is built.

        Raises:
            ValueError: naming the fields and the values that do not fit; transformers wraps it.
        """
        for names, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_ZERO, 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, value, most in _bounded(self):
            if value > most:
                raise ValueError(f"{name} must be at most {most}, got {value}")
        if self.dropout >= 1:
            raise ValueError(f"dropout must be below 1, got {self.dropout}")
        if self.use_bdam and self.hidden_size % self.num_bdam_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_bdam_heads ({self.num_bdam_heads})"
            )
        if self.fusion_sequence == "token" and not self.use_fusion:
            raise ValueError("fusion_sequence='token' needs use_fusion=True")


def _bounded(config: BDAMConfig) -> Iterator[tuple[str, float, int]]:
    """Name, value and bound of every size and number of layers: what a mad file must not make a process build."""
    for prefix, part in (
        ("", config),
        *((f"{tower}.", getattr(config, tower)) for tower in config.sub_configs_defaults),
    ):
        for name, value in vars(part).items():
            most = _MOST_LAYERS if "layers" in name or name == "depths" else _LARGEST_SIZE
            if most == _MOST_LAYERS or name.endswith(("_size", "_sizes", "_dim", "_embeddings", "_ratio", "_expand")):
                values = value if isinstance(value, (list, tuple)) else [value]
                yield from ((prefix + name, number, most) for number in values if isinstance(number, (int, float)))


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean `{nearest[0]}`?" if nearest else ""


__all__ = ["BDAMConfig"]
