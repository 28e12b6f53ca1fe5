"""Lets the flags of the command line win over contradicting settings of a preset."""

from typing import Any

# Settings that exclude each other, each with the value that switches it off (None: its default)
_EXCLUSIVE = (
    ("num_train_epochs", None, "max_steps", -1),
    ("optim", None, "adam_l2", False),
    ("fp16", False, "bf16", False),
    ("gradnorm", False, "uncertainty_weighting", False),
    ("lr_scheduler_type", "constant_with_warmup", "warmup_steps", 0),
)
# Settings without effect unless one of the others is on
_NEEDS = {
    "gradnorm_alpha": ("gradnorm",),
    "gradnorm_alpha_on": ("gradnorm",),
    "gradnorm_penalty": ("gradnorm",),
    "gradnorm_learning_rate": ("gradnorm", "uncertainty_weighting"),
    "robust_pairs_warmup": ("robust_pairs",),
    "robust_pairs_borrowing": ("robust_pairs",),
}
_BEST = "load_best_model_at_end"


def yield_to_flags(preset: dict[str, Any], typed: dict[str, Any]) -> None:
    """Changes the training settings of a preset that contradict the command line, in place.

    For example `--num_train_epochs` removes `max_steps`, `--eval_strategy no` removes `load_best_model_at_end`, and
    `--eval_steps` sets the strategies to steps.

    Args:
        preset: the section training of a preset or file.
        typed: values of the flags on the command line, also of those that equal a default.

    Raises:
        ValueError: two flags of the command line contradict each other, or one has no effect.
    """
    for one, one_off, two, two_off in _EXCLUSIVE:
        for flag, other, off in ((one, two, two_off), (two, one, one_off)):
            if _is_on(flag, typed):
                if _is_on(other, typed):
                    raise _contradiction(flag, other)
                if off is None:
                    preset.pop(other, None)
                elif _is_on(other, {"gradnorm": True} | preset):
                    preset[other] = off
    if typed.get("objective", "decoupled") != "decoupled":  # only the decoupled objective has robust pairs
        preset["robust_pairs"] = False
    if "pair_loss" in typed and ({"objective": "decoupled"} | preset | typed)["objective"] != "decoupled":
        raise ValueError("command line: --pair_loss has no effect, add --objective decoupled or leave it out")
    for flag, needed in _NEEDS.items():
        if flag in typed and not any(_is_on(name, {"gradnorm": True} | preset | typed) for name in needed):
            raise ValueError(f"command line: --{flag} has no effect, add --{needed[0]} true or leave it out")

    # Steps need the strategy of steps
    for kind in ("eval", "save", "logging"):
        if f"{kind}_steps" in typed:
            if typed.get(f"{kind}_strategy", "steps") != "steps":
                raise _contradiction(f"{kind}_steps", f"{kind}_strategy {typed[f'{kind}_strategy']}")
            preset[f"{kind}_strategy"] = "steps"

    # The best checkpoint needs an evaluation of each checkpoint
    settings: dict[str, Any] = {
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": 500,
        "logging_steps": 500,
    }
    settings |= preset | typed
    for kind in ("eval", "save"):
        if typed.get(f"{kind}_strategy") == "no":
            if typed.get(_BEST):
                raise _contradiction(f"{kind}_strategy no", _BEST)
            settings[_BEST] = preset[_BEST] = False
    if not settings.get(_BEST) or settings["save_strategy"] == "best":
        return
    settings["eval_steps"] = settings.get("eval_steps") or settings["logging_steps"]
    is_typed = {kind: bool({f"{kind}_strategy", f"{kind}_steps"} & typed.keys()) for kind in ("eval", "save")}
    if is_typed["eval"] == is_typed["save"]:
        return  # `TrainingArguments` checks them
    kind, other = ("eval", "save") if is_typed["eval"] else ("save", "eval")
    preset[f"{other}_strategy"] = settings[f"{kind}_strategy"]
    if settings[f"{kind}_strategy"] == "steps" and not _is_multiple(settings["save_steps"], settings["eval_steps"]):
        preset[f"{other}_steps"] = settings[f"{kind}_steps"]


def _is_on(name: str, values: dict[str, Any]) -> bool:
    value = values.get(name)
    if name in ("max_steps", "warmup_steps"):
        return value is not None and value > 0
    if name == "lr_scheduler_type":
        return value == "constant"  # ignores the warm-up
    return value is not None and value is not False


def _is_multiple(save_steps: float, eval_steps: float) -> bool:
    """Returns whether each checkpoint is evaluated; values below 1 are fractions of the training."""
    save, evaluate = (round(1_000_000 * float(steps)) for steps in (save_steps, eval_steps))
    return (float(save_steps) < 1) == (float(eval_steps) < 1) and evaluate > 0 and save % evaluate == 0


def _contradiction(flag: str, other: str) -> ValueError:
    return ValueError(f"command line: --{flag} and --{other} contradict each other: leave out one of them")


__all__ = ["yield_to_flags"]
