"""The trainer of BDAM: identity-balanced batches, losses over all processes, GradNorm, retrieval evaluation."""

import math
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.utils import DynamoBackend
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalPrediction, PredictionOutput, speed_metrics

from ..evaluation.protocols import EncodedSplit, encode_split, protocol_metrics
from ..evaluation.reranking import COUNTS
from ..files import write_json
from ..losses_bdam import gate_regularization, normalized_hsic
from ..modeling_bdam import BDAMModel
from ..objective_bdam import MATCHING, PairLabels, task_losses
from ..outputs_bdam import BDAMOutput
from .baselines import BASELINES, DUAL_ENCODERS
from .collation import ProcessorCollator, WeightedCollator, described_rows
from .console import ConsoleCallback
from .dual_encoder import DualEncoder, without_heads
from .gathering import gather_labels, gather_outputs, whole_batch_norms
from .matching import matching_loss
from .model_card import CardData, RunFacts, SplitSize, write_model_card
from .parameter_groups import describe_groups, parameter_groups
from .rde import RDE, divide_pairs
from .robust_pairs import TextChoice, choose_texts
from .sampler import CaptionPairs, IdentityBalancedSampler, KeyedDataset
from .task_weighting import GradNorm, TaskWeighting, UncertaintyWeighting, shared_gradient_norms
from .tower_training import lora_weights, merged_weights, unmerged_weights
from .training_args import BDAMTrainingArguments

TASK_WEIGHTING_FILE = "task_weighting.pt"
TEXT_CHOICE_FILE = "text_choice.pt"
LORA_FILE = "lora.safetensors"
ARGUMENTS_FILE = "training_args.json"
MATCHING_WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
CLOTHING_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


Collator = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


class TrainingStoppedError(RuntimeError):
    """A training cannot continue; checkpoints that were saved before are unchanged."""


class NoBatchSizeError(TrainingStoppedError):
    """`auto_find_batch_size` found no batch size that fits into memory."""


class NonFiniteLossError(TrainingStoppedError):
    """The loss or gradient of a task is NaN or infinite."""


class BDAMTrainer(Trainer):
    """`Trainer` for `BDAMModel` on data sets of person images, captions and descriptions.

    Batches, losses and gradients are equal to those of one process with the whole batch, for any number of processes.
    Rows with and without descriptions may be mixed: each batch, on all processes, has rows of one kind.

    Args:
        model, model_init: the model to train, or a function that returns it, as in `Trainer`.
        args: training arguments.
        train_dataset, eval_dataset: rows of the common schema (image, person_id, outfit_id, captions, ...); training
            draws P x K batches, evaluation encodes every image and every caption.
        data_collator: rows, each with an `augmentation_seed`, to a training batch; by default `ProcessorCollator`.
        retrieval_collator: rows with `image` and/or `caption` to tensors, for evaluation; the same default.
        processing_class: the processor; builds the default collators and is saved beside the model.
        compute_metrics: further metrics of an evaluation from `EvalPrediction(predictions, label_ids)`, each a pair of
            queries and gallery: vectors with β applied, [Q, D] and [G, D], and person ids, [Q] and [G].
        callbacks, optimizers: as in `Trainer`.

    Attributes:
        card_data: names of the data sets, for the model card.

    Raises:
        TypeError: other training arguments, or rows without the column person_id.
        ValueError: no processor to build a default collator from; a batch size that does not fit; GradNorm together
            with an option under which its gradient norms would be 0; a stage that trains a matching head without one.
    """

    args: BDAMTrainingArguments

    def __init__(
        self,
        model: BDAMModel | None = None,
        args: BDAMTrainingArguments | None = None,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., BDAMModel] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        *,
        retrieval_collator: Collator | None = None,
    ) -> None:
        args = BDAMTrainingArguments() if args is None else args
        if not isinstance(args, BDAMTrainingArguments):
            raise TypeError(f"args is a {type(args).__name__}; BDAMTrainer needs BDAMTrainingArguments")
        if (data_collator is None or retrieval_collator is None) and processing_class is None:
            raise ValueError("without processing_class, pass data_collator and retrieval_collator to BDAMTrainer")
        self.retrieval_collator = retrieval_collator or ProcessorCollator(processing_class)
        data_collator = data_collator or ProcessorCollator(processing_class)
        if args.objective in DUAL_ENCODERS:
            model = _dual_encoder(model, args.objective, train_dataset, processing_class)
        if args.objective == "rde":
            data_collator = WeightedCollator(data_collator)
        self.train_sampler: IdentityBalancedSampler | None = None
        self.task_weighting: TaskWeighting | None = None
        self.text_choice = TextChoice()
        self.card_data = CardData()
        self.scored: dict[str, SplitSize] = {}  # by prefix of the figures
        self._micro_batches: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms, since the last step
        self._noted: dict[str, tuple[Tensor, int]] = {}  # sums and counts for the next log entry
        self._balanced_tasks: list[str] = []
        self._untrained: set[str] = set()  # names of the parameters that no loss of this run reaches
        self._untouched: dict[bool, list[torch.nn.Parameter]] = {}  # not reached by batches with, without descriptions
        if train_dataset is not None:  # raises on an invalid batch size before a folder is created
            self._new_sampler(train_dataset, args, args.per_device_train_batch_size)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=None if train_dataset is None else KeyedDataset(train_dataset),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=(
                (torch.optim.Adam, _adam_arguments(args)) if args.adam_l2 and optimizers[0] is None else None
            ),
        )
        self.model_accepts_loss_kwargs = False
        self._check_gradnorm()
        trains_head = args.matching_steps > 0 or args.train_only == MATCHING
        if trains_head and self.accelerator.unwrap_model(self.model).matching is None:
            raise ValueError(
                "matching_steps and train_only=matching need a model with --config_overrides use_matching=true"
            )
        if self.is_fsdp_enabled:
            assert isinstance(self.model, BDAMModel)
            self._prepare_fsdp(self.model)
        self.add_callback(_EpochCallback(self))
        self.add_callback(_StepClock(self))
        for printed_by_transformers in (ProgressCallback, PrinterCallback):
            if self.pop_callback(printed_by_transformers) is not None:
                self.add_callback(ConsoleCallback)

    def _check_gradnorm(self) -> None:
        """Refuses GradNorm where the outputs of the model do not depend on each other: all its norms would be 0."""
        if not self.args.gradnorm or self.args.objective in BASELINES:
            return
        options = {
            "--ddp_find_unused_parameters": self.args.ddp_find_unused_parameters,
            "--ddp_static_graph": self.args.ddp_static_graph,
            "--torch_compile (or a dynamo backend of accelerate)": (
                self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
            ),
        }
        if refused := [option for option, is_set in options.items() if is_set]:
            raise ValueError(
                f"GradNorm cannot be combined with {' and '.join(refused)}: set --gradnorm false, or leave it out"
            )

    def _prepare_fsdp(self, model: BDAMModel) -> None:
        """Shards layer by layer, unless the launch configuration names the classes itself.

        Raises:
            ValueError: the model has LoRA; merging it on saving needs unsharded weights.
        """
        for flag, is_given in (("--lora_rank", lora_weights(model)), ("--objective", isinstance(model, DualEncoder))):
            if is_given:
                raise ValueError(f"{flag} cannot be combined with FSDP; use a launch configuration without FSDP")
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.transformer_cls_names_to_wrap is None:
            # Embeddings are not wrapped: accelerate shards token embeddings by itself
            layers = {type(module).__name__ for module in model.modules()} & {*model._no_split_modules}
            plugin.transformer_cls_names_to_wrap = sorted(name for name in layers if not name.endswith("Embeddings"))
        model.logit_scale = torch.nn.Parameter(model.logit_scale.detach().reshape(1))  # FSDP cannot shard a scalar

    # Batches

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> IdentityBalancedSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, KeyedDataset)
        self.train_sampler = self._new_sampler(dataset.rows, self.args, self._train_batch_size)
        return self.train_sampler

    @staticmethod
    def _new_sampler(rows: Any, args: BDAMTrainingArguments, batch_size: int) -> IdentityBalancedSampler:
        try:
            people = rows["person_id"]
        except (TypeError, KeyError, ValueError):
            message = (
                "train_dataset has no column person_id: pass a Dataset of the library datasets, in the common schema"
            )
            raise TypeError(message) from None
        return IdentityBalancedSampler(
            people,
            images_per_person=args.images_per_person,
            batch_size=batch_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            num_processes=args.world_size,
            kinds=described_rows(rows),
        )

    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch of the sampler and, with `robust_pairs`, chooses the texts of the rows for this epoch."""
        if self.train_sampler is None:
            return
        self.train_sampler.set_epoch(epoch)
        if self.args.objective == "rde":
            self._divide_pairs(epoch)
        if not self.args.robust_pairs:
            return
        trained = self.state.global_step / self.state.max_steps
        # After a resume the choice of this epoch is already in the checkpoint
        if epoch > self.text_choice.epoch and trained >= self.args.robust_pairs_warmup:
            assert isinstance(self.train_dataset, KeyedDataset)
            text_rows = self._choose_texts(self.train_dataset.rows, trained >= self.args.robust_pairs_borrowing)
            own = text_rows == torch.arange(len(text_rows))  # [N]
            shares = {"plausible_rows": own, "borrowed_rows": (text_rows >= 0) & ~own}
            self._note({name: chosen.float().mean().to(self.args.device) for name, chosen in shares.items()})
            self.text_choice.text_rows = text_rows
        self.text_choice.epoch = epoch
        text_rows_now = self.text_choice.text_rows
        self.train_sampler.use_texts(None if text_rows_now is None else text_rows_now.numpy())

    def _divide_pairs(self, epoch: int) -> None:
        """Divides the pairs into clean and noisy ones for this epoch, unless the checkpoint holds the division."""
        model, dataset = self.accelerator.unwrap_model(self.model), self.train_dataset
        assert isinstance(model, RDE) and isinstance(dataset, KeyedDataset)
        if epoch > self.text_choice.epoch:
            batch_size = self.args.per_device_train_batch_size * self.args.world_size
            loading = self.data_collator, batch_size, self.accelerator, self.args.dataloader_num_workers
            clean = divide_pairs(model, dataset.rows, *loading, seed=self.args.seed + epoch)
            self.text_choice.text_rows = torch.where(clean, torch.arange(len(clean)), -1)
            self._note({"clean_pairs": clean.float().mean().to(self.args.device)})
        self.text_choice.epoch = epoch
        assert self.text_choice.text_rows is not None
        dataset.pair_weights = (self.text_choice.text_rows >= 0).numpy()

    def _choose_texts(self, rows: Any, borrow: bool) -> Tensor:
        """Chooses texts by `choose_texts`, separately for the rows with and without descriptions, [N]."""
        assert self.train_sampler is not None
        kinds = [np.sort(np.concatenate(rows_of_person)) for rows_of_person, _ in self.train_sampler.kinds]
        text_rows = torch.arange(len(rows))
        for numbers in map(torch.from_numpy, kinds):
            chosen = choose_texts(
                self.accelerator.unwrap_model(self.model),
                rows if len(numbers) == len(rows) else rows.select(numbers.numpy()),
                self.data_collator,
                self.args.per_device_eval_batch_size,
                self.accelerator,
                self.args.dataloader_num_workers,
                borrow=borrow,
            )
            text_rows[numbers] = torch.where(chosen >= 0, numbers[chosen], -1)
        return text_rows

    # Training loop

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer` does; `auto_find_batch_size` keeps the batch size a multiple of K."""
        self.task_weighting, self.text_choice = None, TextChoice()
        self._micro_batches.clear()
        self._noted.clear()
        if batch_size is not None and self.args.auto_find_batch_size:
            batch_size -= batch_size % self.args.images_per_person
            if batch_size == 0:
                raise NoBatchSizeError(
                    f"out of memory even with a batch of --images_per_person={self.args.images_per_person} images: "
                    "use smaller images or towers, or --gradient_checkpointing"
                )
        try:
            return super()._inner_training_loop(batch_size, *args, **kwargs)
        finally:
            for name, parameter in self.accelerator.unwrap_model(self.model).named_parameters():
                parameter.requires_grad_(parameter.requires_grad or name in self._untrained)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Freezes the parameters that no loss reaches, such as those for descriptions in a run on captions only.

        DDP would wait for their gradients, and weight decay would shrink them. DDP's own search for unused parameters
        separates the outputs of the model from each other, so that GradNorm could not see their dependence.
        """
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(self.train_dataset, KeyedDataset)
        assert self.train_sampler is not None
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        reached: dict[bool, set[str]] = {}  # by whether the batch has descriptions
        self._balanced_tasks = []
        for rows_of_person, _ in self.train_sampler.kinds:
            rows = np.concatenate(rows_of_person[:2])[:4].tolist()
            batch = self.data_collator([self.train_dataset[row] for row in rows])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            loss, tasks = self._probed_loss(model, batch)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            names = {name for name, value in zip(parameters, gradients, strict=True) if value is not None}
            reached["identity_input_ids" in batch] = names
            self._balanced_tasks = max(self._balanced_tasks, tasks, key=len)
        trained = set().union(*reached.values())
        self._untrained = parameters.keys() - trained
        for name in self._untrained:
            parameters[name].requires_grad_(False)
        self._untouched = {kind: [parameters[name] for name in trained - names] for kind, names in reached.items()}
        return super()._prepare_for_training(*args, **kwargs)

    def _probed_loss(self, model: BDAMModel, batch: dict[str, Tensor]) -> tuple[Tensor, list[str]]:
        """Computes the loss of a few rows in this process, and the names of its tasks; the model stays unchanged."""
        was_training = model.training
        model.eval()
        with torch.enable_grad():
            output = model(**self._texts_and_images(batch))
        model.train(was_training)
        people = batch["person_ids"]
        losses = self._task_losses(output, output, PairLabels.of_rows(people, people))
        if not losses:
            left_out = ", ".join(self.args.left_out_tasks)
            raise TrainingStoppedError(
                f"no loss is left for rows without descriptions if {left_out} are left out: leave out fewer tasks, or "
                "add descriptions"
            )
        total = torch.stack(list(losses.values())).sum() + self._gate_loss(output)
        return total, list(losses)

    # Losses

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the weighted sum of the task losses (paper, eq. 6) of the local batch against the gathered batch.

        DDP averages the gradients; the task weights are updated once per optimizer step.
        """
        # Forward pass on the local batch, all-gather with gradient
        output: BDAMOutput = model(**self._texts_and_images(inputs))
        gathered = gather_outputs(output, self.accelerator)
        texts = {} if self.args.objective in BASELINES else inputs
        labels = gather_labels(inputs["person_ids"], texts, self.accelerator)

        # One scalar per task
        losses = self._task_losses(output, gathered, labels)
        values = torch.stack([loss.detach() for loss in losses.values()])
        if not bool(values.isfinite().all()):  # one synchronization with the device for all tasks
            task, value = next(each for each in zip(losses, values.tolist(), strict=True) if not math.isfinite(each[1]))
            raise self._non_finite(f"the loss of task '{task}' is {value}")
        fixed = self.args.task_weights or {}
        assert isinstance(fixed, dict)  # parsed by the arguments
        losses = {task: fixed.get(task, 1.0) * loss for task, loss in losses.items()}

        # Weighted sum over the tasks, plus the gate regularization with its fixed weight
        weights = self._current_task_weights(losses, output)  # [K]
        weighted = (weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
        total = sum(weighted, start=weights.new_zeros(())) + self._gate_loss(gathered)
        if not self.is_fsdp_enabled:  # DDP waits for a gradient of each parameter that batches of the other kind train
            for parameter in self._untouched.get("identity_input_ids" in inputs, []):
                total = total + 0 * parameter.sum()

        # Values for the next log entry
        for (task, loss), weight in zip(losses.items(), weights, strict=True):
            self._note({f"loss_{task}": loss, f"weight_{task}": weight})
        self._note({"temperature": 1 / output.logit_scale.squeeze()})
        if "decouple" in losses:
            with torch.no_grad():
                halves = gathered.decoupled_identity, gathered.decoupled_clothing
                self._note({"normalized_hsic": normalized_hsic(*halves)})
        if output.gate is not None:
            self._note({"bdam_gate_mean": output.gate.mean()})
        if output.fusion_gate is not None:
            self._note({"fusion_gate_image_mean": output.fusion_gate[:, 0].mean()})
        return (total, output) if return_outputs else total

    def _texts_and_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the arguments of the model in a batch; the baselines take no descriptions."""
        if self.args.objective not in BASELINES:
            return {name: value for name, value in batch.items() if name != "person_ids"}
        model = self.accelerator.unwrap_model(self.model)
        extra = model.extra_inputs if isinstance(model, DualEncoder) else ()
        return {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", *extra)}

    def _task_losses(self, output: BDAMOutput, gathered: BDAMOutput, labels: PairLabels) -> dict[str, Tensor]:
        """Computes the unweighted losses of the tasks that this run trains."""
        if self.args.objective in BASELINES:
            return BASELINES[self.args.objective](output, gathered, labels, self.state.epoch or 0.0)
        model = self.accelerator.unwrap_model(self.model)
        if self.args.train_only == MATCHING:
            fields = ("image_embeds", "text_embeds", "matching_tokens", "caption_tokens", "caption_mask")
            own, every = (BDAMOutput(**{name: part[name].detach() for name in fields}) for part in (output, gathered))
            return {MATCHING: matching_loss(model.matching, own, every, labels, model.config.clothing_weight)}
        config = model.config
        losses = task_losses(output, gathered, labels, config, self.args.triplet_margin, self.args.pair_loss)
        if model.matching is not None:
            hard_pairs = self.args.matching_steps == 0  # otherwise they are trained in the second stage
            losses[MATCHING] = matching_loss(
                model.matching, output, gathered, labels, config.clothing_weight, hard_pairs
            )
        return {task: loss for task, loss in losses.items() if task not in self.args.left_out_tasks}

    def _gate_loss(self, gathered: BDAMOutput) -> Tensor | float:
        weight = self.args.gate_regularization_weight
        if weight == 0 or self.args.train_only == MATCHING or (gathered.gate is None and gathered.fusion_gate is None):
            return 0.0
        return weight * gate_regularization(gathered.gate, gathered.fusion_gate)

    def _current_task_weights(self, losses: dict[str, Tensor], output: BDAMOutput) -> Tensor:
        """Returns the weights of this step, [K], and updates them after the last micro-batch of a step.

        In a run on rows with and without descriptions, only batches with all tasks update the weights.
        """
        values = torch.stack([loss.detach() for loss in losses.values()])
        is_fixed = not (self.args.gradnorm or self.args.uncertainty_weighting) or self.args.objective in BASELINES
        if is_fixed or len(losses) == 1:
            return torch.ones_like(values)
        if self.task_weighting is None:
            self.task_weighting = self._new_task_weighting(self._balanced_tasks or list(losses))
        tasks = self.task_weighting.tasks
        weights = self.task_weighting.weights[[tasks.index(task) for task in losses]]
        if len(losses) == len(tasks):
            norms = self._gradient_norms(losses, output) if self.args.gradnorm else torch.zeros_like(values)
            if bool(norms.isfinite().all()):  # otherwise the scaler of fp16 skips this step
                self._micro_batches.append((self.accelerator.reduce(values, "mean"), norms))
        if self.accelerator.sync_gradients and self._micro_batches:
            mean_values, mean_norms = (torch.stack(part).mean(dim=0) for part in zip(*self._micro_batches, strict=True))
            self.task_weighting.update(mean_values, mean_norms)
            self._micro_batches.clear()
        return weights

    def _gradient_norms(self, losses: dict[str, Tensor], output: BDAMOutput) -> Tensor:
        """Computes the gradient norms of the losses by the pooled branches of the whole batch, [K]."""
        shared = [output.pooled_identity, output.pooled_clothing]
        scaler = self.accelerator.scaler
        norms = shared_gradient_norms(list(losses.values()), shared, 1.0 if scaler is None else scaler.get_scale())
        norms = whole_batch_norms(norms, self.accelerator)
        by_task = dict(zip(losses, norms, strict=True))
        if not bool(norms.any()) and any(bool(loss) for loss in losses.values()):
            raise TrainingStoppedError(
                f"GradNorm: the gradient norms of {', '.join(losses)} are all 0 at step {self.state.global_step + 1}, "
                "so the tasks cannot be balanced: set --gradnorm false"
            )
        if bool(norms.isfinite().all()):
            self._note({f"gradient_norm_{task}": norm for task, norm in by_task.items()})
        elif scaler is None:
            problem = ", ".join(f"{task} {norm.item():.3g}" for task, norm in by_task.items())
            raise self._non_finite(f"the losses are finite, but the norms of their gradients are {problem}")
        return norms

    def _new_task_weighting(self, tasks: list[str]) -> TaskWeighting:
        args, rate = self.args, self.args.gradnorm_learning_rate
        if args.uncertainty_weighting:
            return UncertaintyWeighting(tasks, rate, device=args.device)
        return GradNorm(
            tasks,
            args.gradnorm_alpha,
            rate,
            args.gradnorm_penalty,
            device=args.device,
            alpha_on=args.gradnorm_alpha_on,
        )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Creates the optimizer with the groups of `parameter_groups`, and prints them."""
        is_new = self.optimizer is None
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        if is_new:
            model = self.accelerator.unwrap_model(self.model)
            groups = parameter_groups(model, self.args, set(self.get_decay_parameter_names(model)))
            defaults = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
            optimizer.param_groups.clear()
            for group in groups:
                optimizer.add_param_group(defaults | group)
            if self.is_world_process_zero() and not self.args.disable_tqdm:
                print(describe_groups(groups), flush=True)
        return optimizer

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Leaves out biases, norms and other vectors, `logit_scale`, and the decay rates of the state-space layers."""
        shapes = {name: parameter.ndim for name, parameter in self.accelerator.unwrap_model(model).named_parameters()}
        decayed = super().get_decay_parameter_names(model)
        return [name for name in decayed if shapes.get(name, 0) > 1 and not name.endswith("A_log")]

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Raises before a step with a non-finite gradient; the scaler of fp16 skips such steps."""
        norm = super()._get_grad_norm(model, grad_norm)
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._non_finite(f"the losses are finite, but the norm of their gradient is {float(norm)}")
        return norm

    def _non_finite(self, problem: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{problem} at step {self.state.global_step + 1}; training stops, checkpoints saved before it are kept in "
            f"{self.args.output_dir}. Lower --learning_rate or set --max_grad_norm"
        )

    # Logs

    def _note(self, values: dict[str, Tensor]) -> None:
        """Adds to the means of the next log entry; values stay on the device until they are logged."""
        for name, value in values.items():
            total, count = self._noted.get(name, (torch.zeros((), device=self.args.device), 0))
            self._noted[name] = (total + value.detach().float(), count + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means over steps and processes of the values that `compute_loss` noted."""
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
        """Computes the retrieval metrics of a split by every protocol that the split supports, as fractions; logs them.

        Args:
            eval_dataset: rows of the common schema, or the name of one of the evaluation sets; by default all of
                `self.eval_dataset`. The data sets of a dictionary are evaluated one by one, and their names become part
                of the keys.
            ignore_keys: unused, part of the signature of `Trainer`.
            metric_key_prefix: "eval" gives `eval_rank1`, `eval_clothes_changing_mAP`, ....

        Raises:
            ValueError: there is no evaluation set, or it has no captions.
        """
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(rows, str) and isinstance(self.eval_dataset, dict):
            rows = self.eval_dataset[rows]
        if rows is None:
            raise ValueError("there is nothing to evaluate on: pass eval_dataset to BDAMTrainer or to evaluate")
        if isinstance(rows, dict):
            parts = [self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}") for name, part in rows.items()]
            return {name: value for metrics in parts for name, value in metrics.items()}
        start_time = time.time()
        split = self.encode(rows)
        metrics = self.score(split, metric_key_prefix)
        metrics |= speed_metrics(metric_key_prefix, start_time, num_samples=len(split.gallery) + len(split.queries))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Encodes a split; returns vectors and person ids as `compute_metrics` takes them, and the metrics.

        Args:
            test_dataset, metric_key_prefix: see `evaluate`.
            ignore_keys: unused, part of the signature of `Trainer`.
        """
        split = self.encode(test_dataset)
        prediction = self._prediction(split)
        metrics = self.score(split, metric_key_prefix)
        return PredictionOutput(prediction.predictions, prediction.label_ids, metrics)

    def _prediction(self, split: EncodedSplit) -> EvalPrediction:
        to_pair: Any = lambda pair: tuple(part.numpy() for part in pair)  # noqa: E731
        beta = self.accelerator.unwrap_model(self.model).config.clothing_weight
        vectors = split.weighted_queries(beta), split.gallery
        people = split.gallery_ids[split.query_rows], split.gallery_ids
        return EvalPrediction(to_pair(vectors), to_pair(people))

    def score(self, split: EncodedSplit, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Computes the metrics of an encoded split at the β of the config."""
        beta = self.accelerator.unwrap_model(self.model).config.clothing_weight
        self.scored[metric_key_prefix] = SplitSize(
            people=len(split.gallery_ids.unique()), images=len(split.gallery), captions=len(split.queries)
        )
        config = self.accelerator.unwrap_model(self.model).config
        metrics = protocol_metrics(split, beta, (config.matching_weight, config.matching_candidates))
        if self.compute_metrics is not None:
            metrics |= self.compute_metrics(self._prediction(split))
        return {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}

    def choose_clothing_weight(self) -> float:
        """Sets the config's β to the one of `CLOTHING_WEIGHTS` with the best mAP on the evaluation set; returns it."""
        split = self.encode(self.eval_dataset, candidates=0)
        mean_precision = {beta: split.standard(beta)["mAP"] for beta in CLOTHING_WEIGHTS}
        best = max(mean_precision, key=mean_precision.__getitem__)
        self.accelerator.unwrap_model(self.model).config.clothing_weight = best
        return best

    def choose_matching(self) -> tuple[float, int]:
        """Sets the config's λ and K to those with the best re-ranked mAP on the evaluation set; returns them."""
        config = self.accelerator.unwrap_model(self.model).config
        split = self.encode(self.eval_dataset, COUNTS[-1])
        choices = [(weight, count) for weight in MATCHING_WEIGHTS for count in COUNTS]
        best = max(choices, key=lambda choice: split.reranked(config.clothing_weight, *choice)["mAP"])
        config.matching_weight, config.matching_candidates = best
        return best

    def seconds_per_step(self) -> float:
        """Returns the median over the log entries of the time of a step, with the loading of its batch.

        Raises:
            TrainingStoppedError: nothing was logged.
        """
        seconds = [entry["seconds_per_step"] for entry in self.state.log_history if "seconds_per_step" in entry]
        if not seconds:
            raise TrainingStoppedError(
                "the log of the training has no entry with the time of a step: set --logging_strategy steps and lower "
                "--logging_steps"
            )
        return statistics.median(seconds)

    def encode(self, rows: Any, candidates: int | None = None) -> EncodedSplit:
        """Encodes every image and caption of `rows`; each process gets all vectors.

        Args:
            rows: see `evaluate`.
            candidates: K of the re-ranked protocol; by default the config's, and 0 during training.
        """
        model = self.accelerator.unwrap_model(self.model)
        if candidates is None:
            candidates = 0 if self.is_in_train else model.config.matching_candidates
        if self.is_fsdp_enabled:
            for method in ("get_image_features", "get_text_features", "match"):
                if method not in vars(model):  # not registered yet
                    register_fsdp_forward_method(model, method)
        split = encode_split(
            model,
            rows,
            self.retrieval_collator,
            self.args.per_device_eval_batch_size,
            self.accelerator,
            num_workers=self.args.dataloader_num_workers,
            show_progress=not self.args.disable_tqdm,
            candidates=candidates if model.matching is not None else 0,
        )
        if self.args.objective in BASELINES:
            split.described_gallery = None  # not trained by the baselines
        return split

    # Checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Loads weights by `from_pretrained`: `Trainer` ignores the older names that `save_pretrained` writes for a ViT
        (transformers 5.23)."""
        own = self.accelerator.unwrap_model(self.model)
        weights = BDAMModel.from_pretrained(resume_from_checkpoint).state_dict()
        if isinstance(own, DualEncoder):
            own.load_heads(Path(resume_from_checkpoint))
            weights |= {f"heads.{name}": value for name, value in own.heads.state_dict().items()}
        if lora_weights(own):
            weights = unmerged_weights(own, weights, load_file(Path(resume_from_checkpoint, LORA_FILE)))
        if self.is_fsdp_enabled:
            weights["logit_scale"] = weights["logit_scale"].reshape(1)
            set_model_state_dict(own, weights, options=StateDictOptions(full_state_dict=True))
        else:
            own.load_state_dict(weights)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Saves the plain model: LoRA is merged into the weights, and class and shapes are those without FSDP."""
        own = self.accelerator.unwrap_model(self.model)
        if lora_weights(own):
            state_dict = merged_weights(own, own.state_dict() if state_dict is None else state_dict)
        if isinstance(own, DualEncoder):
            state_dict = without_heads(own.state_dict() if state_dict is None else state_dict)
        if self.is_fsdp_enabled and state_dict:  # empty on all processes but the first
            state_dict["logit_scale"] = state_dict["logit_scale"].reshape(())
        # Under FSDP the class of the model is defined in torch, and `save_pretrained` would copy the code of torch, or
        # that of a baseline
        sharded, own.__class__ = own.__class__, BDAMModel
        super()._save(output_dir, state_dict)
        own.__class__ = sharded
        # The arguments as JSON: `Trainer` pickles them, and reading a pickle can run arbitrary code
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        if self.args.should_save:
            if isinstance(own, DualEncoder):
                own.save_heads(folder)
            write_json(folder / ARGUMENTS_FILE, self.args.to_dict() | {"world_size": self.args.world_size})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        lora = lora_weights(self.accelerator.unwrap_model(self.model))
        if not self.args.should_save:
            return
        if lora:
            save_file(lora, Path(output_dir, LORA_FILE))
        if self.task_weighting is not None:
            torch.save(self.task_weighting.state_dict(), Path(output_dir, TASK_WEIGHTING_FILE))
        if self.args.robust_pairs or self.args.objective == "rde":
            torch.save(vars(self.text_choice), Path(output_dir, TEXT_CHOICE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return

        def saved(name: str) -> dict[str, Any] | None:
            path = Path(checkpoint, name)
            return torch.load(path, map_location=self.args.device, weights_only=True) if path.is_file() else None

        if (state := saved(TASK_WEIGHTING_FILE)) is not None:
            self.task_weighting = self._new_task_weighting(state["tasks"])
            self.task_weighting.load_state_dict(state)
        if (state := saved(TEXT_CHOICE_FILE)) is not None:
            self.text_choice = TextChoice(state["epoch"], None if (rows := state["text_rows"]) is None else rows.cpu())

    # Hub

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes `README.md` from the results of this run, see `write_model_card`.

        Args:
            license: Hub identifier; by default derived from the training data.
            tags: in addition to the tags of every card.
            model_name: by default the last part of the repository's name.
            language, finetuned_from, tasks, dataset_tags, dataset, dataset_args: unused, part of the signature of
                `Trainer`; `card_data` holds the names of the data sets.
        """
        if not self.is_world_process_zero():
            return
        model = self.accelerator.unwrap_model(self.model)
        rows = self.train_dataset.rows if isinstance(self.train_dataset, KeyedDataset) else None
        rows = rows.rows if isinstance(rows, CaptionPairs) else rows
        facts = RunFacts(
            args=self.args,
            state=self.state,
            data=self.card_data,
            config=model.config,
            parameters=sum(value.numel() for name, value in model.named_parameters() if ".lora_" not in name),
            trained_parameters=sum(
                value.numel()
                for name, value in model.named_parameters()
                if value.requires_grad and name not in self._untrained
            ),
            train_size=SplitSize.of_rows(rows) if rows is not None else None,
            test_sizes=self.scored,
        )
        write_model_card(facts, model_name, license, [tags] if isinstance(tags, str) else tags)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a checkpoint as `Trainer` does, together with the code for `trust_remote_code` and a card."""
        if self.is_world_process_zero():
            for path in Path(checkpoint_folder).glob("*.py"):
                shutil.copy(path, self.args.output_dir)
        self.create_model_card()
        # `Trainer` pickles the arguments into the folder that it pushes, without files that begin with an underscore
        pickled = f"_{TRAINING_ARGS_NAME}"
        with patch("transformers.trainer.TRAINING_ARGS_NAME", pickled):
            super()._push_from_checkpoint(checkpoint_folder)
        Path(self.args.output_dir, pickled).unlink(missing_ok=True)


def _dual_encoder(model: BDAMModel | None, objective: str, rows: Any, processor: Any) -> DualEncoder:
    """Returns the dual encoder that an objective trains, see `DUAL_ENCODERS`."""
    if model is None:
        raise ValueError(f"objective={objective} adds heads to a model: pass `model`, not `model_init`")
    tokenizer = None if processor is None else processor.tokenizer
    return DUAL_ENCODERS[objective](model, () if rows is None else rows["person_id"], tokenizer)


def _adam_arguments(args: BDAMTrainingArguments) -> dict[str, Any]:
    """Returns Adam arguments without weight decay, which `Trainer` sets per parameter group."""
    return {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


class _StepClock(TrainerCallback):
    """Measures each step with the loading of its batch, without logging, evaluation and saving."""

    def __init__(self, trainer: BDAMTrainer) -> None:
        self.trainer = trainer
        self.begin = 0.0

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.trainer._note({"seconds_per_step": torch.tensor(now - self.begin, device=args.device)})
        self.begin = now

    def _restart(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.begin = time.perf_counter()

    on_train_begin = on_log = on_evaluate = on_save = _restart


class _EpochCallback(TrainerCallback):
    """Calls `begin_epoch`, since accelerate 1.15 does not set the epoch after a resume on several processes."""

    def __init__(self, trainer: BDAMTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch(int((state.epoch or 0.0) + 1e-6))


__all__ = ["BDAMTrainer", "NoBatchSizeError", "NonFiniteLossError", "TrainingStoppedError"]
