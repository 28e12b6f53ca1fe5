"""The trainer of BDAM: identity-balanced batches, losses over all processes, GradNorm, retrieval evaluation."""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import speed_metrics

from .evaluation import EncodedSplit, encode_split, protocol_metrics
from .gathering import gather_labels, gather_outputs, whole_batch_norms
from .gradnorm import GradNorm, shared_gradient_norms
from .losses import gate_regularisation
from .modeling_bdam import BDAMModel
from .objective_bdam import plain_losses, task_losses
from .outputs_bdam import BDAMOutput
from .sampler import IdentityBalancedSampler, KeyedDataset
from .training_args import BDAMTrainingArguments

GRADNORM_FILE = "gradnorm.pt"


class NonFiniteLossError(RuntimeError):
    """A task's loss or gradient is NaN or infinite; checkpoints saved before it stay as they are."""


class BDAMTrainer(Trainer):
    """`Trainer` for `BDAMModel` on data sets of person images, captions and descriptions.

    Batches, losses and gradients are those of one process with the whole batch, however many processes share it.

    Args:
        model: what to train.
        args: training arguments.
        train_dataset, eval_dataset: rows of the common schema (image, person_id, outfit_id, captions, ...); training
            draws P x K batches, evaluation encodes every image and every caption.
        data_collator: rows, each with an `augmentation_seed`, to a training batch.
        retrieval_collator: rows with `image` and/or `caption` to tensors, for evaluation.
        processing_class: saved beside the model.
        callbacks: as in `Trainer`.
    """

    args: BDAMTrainingArguments

    def __init__(
        self,
        model: BDAMModel,
        args: BDAMTrainingArguments,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        retrieval_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.retrieval_collator = retrieval_collator
        self.train_sampler: IdentityBalancedSampler | None = None
        self.gradnorm: GradNorm | None = None
        self._micro_batches: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms, since the last step
        self._noted: dict[str, tuple[Tensor, int]] = {}  # sums and counts for the next log entry
        if train_dataset is not None:
            self._new_sampler(train_dataset, args)  # refuses a batch size that does not fit before a folder is made
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=None if train_dataset is None else KeyedDataset(train_dataset),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=(torch.optim.Adam, _adam_arguments(args)) if args.adam_l2 else None,
        )
        self.model_accepts_loss_kwargs = False
        self.add_callback(_EpochCallback(self))

    # Batches

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> IdentityBalancedSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, KeyedDataset)
        self.train_sampler = self._new_sampler(dataset.rows, self.args)
        return self.train_sampler

    @staticmethod
    def _new_sampler(rows: Any, args: BDAMTrainingArguments) -> IdentityBalancedSampler:
        return IdentityBalancedSampler(
            rows["person_id"],
            images_per_person=args.images_per_person,
            batch_size=args.per_device_train_batch_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            num_processes=args.world_size,
        )

    # Losses

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This process's weighted task losses (eq. 6), whose gradients DDP averages; GradNorm moves once a step."""
        if self.args.objective == "plain":
            inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "person_ids")}
        texts = {name: value for name, value in inputs.items() if name != "person_ids"}
        output: BDAMOutput = model(**texts)
        everyone = gather_outputs(output, self.accelerator)
        labels = gather_labels(inputs["person_ids"], inputs, self.accelerator)
        if self.args.objective == "plain":
            losses = plain_losses(output, everyone, labels)
        else:
            losses = task_losses(output, everyone, labels, self.args.triplet_margin)
            losses = {task: loss for task, loss in losses.items() if task not in self.args.left_out_tasks}
        self._check_finite(losses)
        fixed = self.args.task_weights or {}
        assert isinstance(fixed, dict)  # the arguments have read it from JSON
        losses = {task: fixed.get(task, 1.0) * loss for task, loss in losses.items()}

        weights = self._gradnorm_weights(losses, output)
        total = sum(
            (weight * loss for weight, loss in zip(weights, losses.values(), strict=True)), start=weights.new_zeros(())
        )
        if self.args.gate_regularisation_weight > 0 and (everyone.gate is not None or everyone.fusion_gate is not None):
            gates = gate_regularisation(everyone.gate, everyone.fusion_gate)
            total = total + self.args.gate_regularisation_weight * gates
        self._note({f"loss_{task}": loss for task, loss in losses.items()})
        self._note({f"weight_{task}": weight for task, weight in zip(losses, weights, strict=True)})
        self._note({"temperature": 1 / output.logit_scale})
        if output.gate is not None:
            self._note({"bdam_gate_mean": output.gate.mean()})
        if output.fusion_gate is not None:
            self._note({"fusion_gate_image_mean": output.fusion_gate[:, 0].mean()})
        return (total, output) if return_outputs else total

    def _gradnorm_weights(self, losses: dict[str, Tensor], output: BDAMOutput) -> Tensor:
        """The weights of this step's losses, [K]; at the last micro-batch of a step, GradNorm moves on for the next."""
        values = torch.stack([loss.detach() for loss in losses.values()])
        if not self.args.gradnorm or len(losses) == 1:
            return torch.ones_like(values)
        if self.gradnorm is None:
            self.gradnorm = self._new_gradnorm(list(losses))
        weights = self.gradnorm.weights
        norms = shared_gradient_norms(list(losses.values()), [output.pooled_identity, output.pooled_clothing])
        norms = whole_batch_norms(norms, self.accelerator)
        self._note({f"gradient_norm_{task}": norm for task, norm in zip(losses, norms, strict=True)})
        self._micro_batches.append((self.accelerator.reduce(values, "mean"), norms))
        if self.accelerator.sync_gradients:
            mean_values, mean_norms = (torch.stack(part).mean(dim=0) for part in zip(*self._micro_batches, strict=True))
            self.gradnorm.update(mean_values, mean_norms)
            self._micro_batches.clear()
        return weights

    def _new_gradnorm(self, tasks: list[str]) -> GradNorm:
        return GradNorm(
            tasks,
            alpha=self.args.gradnorm_alpha,
            learning_rate=self.args.gradnorm_learning_rate,
            log_weight_penalty=self.args.gradnorm_penalty,
            device=self.args.device,
        )

    def _check_finite(self, losses: dict[str, Tensor]) -> None:
        for task, loss in losses.items():
            if not bool(torch.isfinite(loss)):
                raise self._non_finite(f"the loss of task '{task}' is {loss.item()}")

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """As in `Trainer`; stops before the step that would spoil every weight. fp16's scaler skips such steps."""
        norm = super()._get_grad_norm(model, grad_norm)
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._non_finite(f"the losses are finite, but the norm of their gradient is {float(norm)}")
        return norm

    def _non_finite(self, what: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{what} at step {self.state.global_step + 1}; training stops, checkpoints saved before it are kept in "
            f"{self.args.output_dir}. Lower the learning rate, or set max_grad_norm"
        )

    # Logs

    def _note(self, values: dict[str, Tensor]) -> None:
        """Adds to the means of the next log entry; nothing leaves the device before it is logged."""
        for name, value in values.items():
            total, count = self._noted.get(name, (torch.zeros((), device=self.args.device), 0))
            self._noted[name] = (total + value.detach().float(), count + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means over steps and processes of what `compute_loss` noted."""
        if "loss" in logs and self._noted:
            means = torch.stack([total / count for total, count in self._noted.values()])
            means = self.accelerator.reduce(means, "mean").tolist()
            logs |= dict(zip(self._noted, means, strict=True))
            self._noted.clear()
        super().log(logs, start_time)

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Retrieval figures of a split by every protocol that it allows (section 7).

        Args:
            eval_dataset: rows of the common schema; by default the trainer's own. A dictionary of them is evaluated
                one by one, each name going into the keys.
            ignore_keys: unused; of `Trainer`'s signature.
            metric_key_prefix: "eval" gives `eval_rank1`, `eval_clothes_changing_mAP`, ....

        Returns:
            fractions; logged as well.
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, dict):
            metrics: dict[str, float] = {}
            for name, part in rows.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        start_time = time.time()
        split = self.encode(rows)
        metrics = self.score(split, metric_key_prefix)
        metrics |= speed_metrics(metric_key_prefix, start_time, num_samples=len(split.gallery) + len(split.queries))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, split: EncodedSplit, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The figures of an encoded split at the model's own β."""
        beta = self.accelerator.unwrap_model(self.model).config.clothing_weight
        return {f"{metric_key_prefix}_{name}": value for name, value in protocol_metrics(split, beta).items()}

    def encode(self, rows: Any) -> EncodedSplit:
        """The vectors of every image and caption of `rows`, on every process."""
        split = encode_split(
            self.accelerator.unwrap_model(self.model),
            rows,
            self.retrieval_collator,
            self.args.per_device_eval_batch_size,
            self.accelerator,
            num_workers=self.args.dataloader_num_workers,
            show_progress=not self.args.disable_tqdm,
        )
        if self.args.objective == "plain":
            split.described_gallery = None  # nothing has trained the fusion with a description
        return split

    # Checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Weights by way of `from_pretrained`: `save_pretrained` writes a ViT's under its older names, which `Trainer`
        passes over without an error (transformers 5.23)."""
        own = self.accelerator.unwrap_model(self.model)
        own.load_state_dict(type(own).from_pretrained(resume_from_checkpoint).state_dict())

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.gradnorm is not None and self.args.should_save:
            torch.save(self.gradnorm.state_dict(), os.path.join(output_dir, GRADNORM_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = None if checkpoint is None else os.path.join(checkpoint, GRADNORM_FILE)
        if path is not None and os.path.isfile(path) and self.args.gradnorm:
            state = torch.load(path, map_location=self.args.device, weights_only=True)
            self.gradnorm = self._new_gradnorm(state["tasks"])
            self.gradnorm.load_state_dict(state)


def _adam_arguments(args: BDAMTrainingArguments) -> dict[str, Any]:
    """Weight decay is not among them: `Trainer` gives it to the parameters that it is meant for."""
    return {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


class _EpochCallback(TrainerCallback):
    """Tells the sampler its epoch; on resume, accelerate's wrappers do not (accelerate 1.15, several processes)."""

    def __init__(self, trainer: BDAMTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.trainer.train_sampler is not None:
            self.trainer.train_sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))


__all__ = ["BDAMTrainer", "NonFiniteLossError"]
