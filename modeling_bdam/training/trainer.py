"""The trainer of BDAM: identity-balanced batches, losses over all processes, balanced tasks, logs."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer_utils import EvalPrediction

from ..losses_bdam import normalized_hsic
from ..modeling_bdam import BDAMModel
from ..objective_bdam import MATCHING, PairLabels
from ..outputs_bdam import BDAMOutput
from .baselines import new_objective
from .batch_norm import rest_frozen_norms, use_whole_batch_norms
from .collation import Collator, ProcessorCollator, described_rows
from .console import ConsoleCallback
from .dual_encoder import DualEncoder
from .errors import NoBatchSizeError, NonFiniteLossError, TrainingStoppedError, non_finite
from .evaluating import RetrievalTrainer
from .gathering import gather_labels, gather_outputs
from .model_card import CardData
from .objective import PairedOutputs
from .parameter_groups import describe_groups, parameter_groups
from .robust_pairs import RowEncoder
from .sampler import IdentityBalancedSampler, KeyedDataset
from .saving import TextChoice
from .task_balance import TaskBalance, check_gradnorm
from .tower_training import lora_weights
from .training_args import BDAMTrainingArguments


class BDAMTrainer(RetrievalTrainer):
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
        objective: that of the arguments, see `Objective`.
        balance: weights of its tasks.
        card_data: names of the data sets, for the model card.

    Raises:
        TypeError: other training arguments, or rows without the column person_id.
        ValueError: no processor to build a default collator from; a batch size that does not fit; GradNorm together
            with an option under which its gradient norms would be 0; a stage that trains a matching head without one.
    """

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
        self.objective = new_objective(args)
        model = self.objective.prepare(model, train_dataset, processing_class)
        self.train_sampler: IdentityBalancedSampler | None = None
        self.text_choice, self.card_data, self.scored, self.untrained = TextChoice(), CardData(), {}, set()
        self._noted: dict[str, tuple[Tensor, int]] = {}  # sums and counts for the next log entry
        self._untouched: dict[bool, list[torch.nn.Parameter]] = {}  # not reached by batches with, without descriptions
        if train_dataset is not None:  # raises on an invalid batch size before a folder is created
            self._new_sampler(train_dataset, args, args.per_device_train_batch_size)
        super().__init__(
            model=model,
            args=args,
            data_collator=self.objective.prepare_collator(data_collator or ProcessorCollator(processing_class)),
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
        self.balance = TaskBalance(args, self.accelerator, self._note)
        if args.gradnorm and self.objective.is_decoupled:
            check_gradnorm(args, self.accelerator)
        if (args.matching_steps > 0 or args.train_only == MATCHING) and self.unwrapped.matching is None:
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
        """Sets the epoch of the sampler, and chooses the texts of the rows if the objective does so."""
        if self.train_sampler is None:
            return
        self.train_sampler.set_epoch(epoch)
        assert isinstance(self.train_dataset, KeyedDataset)
        # After a resume the choice of this epoch is already in the checkpoint
        if epoch > self.text_choice.epoch:
            args, trained = self.args, self.state.global_step / self.state.max_steps
            loading = args.per_device_eval_batch_size, self.accelerator, args.dataloader_num_workers
            encoder = RowEncoder(self.unwrapped, self.data_collator, *loading)
            chosen, kinds = self.objective.choose_texts(encoder, self.train_dataset.rows, self.train_sampler, trained)
            self._note({name: rows.float().mean().to(args.device) for name, rows in kinds.items()})
            self.text_choice = TextChoice(epoch, self.text_choice.text_rows if chosen is None else chosen)
        self.objective.use_texts(self.text_choice.text_rows, self.train_sampler, self.train_dataset)

    # Training loop

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `Trainer` does; `auto_find_batch_size` keeps the batch size a multiple of K."""
        self.balance, self.text_choice = TaskBalance(self.args, self.accelerator, self._note), TextChoice()
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
            for name, parameter in self.unwrapped.named_parameters():
                parameter.requires_grad_(parameter.requires_grad or name in self.untrained)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Freezes the parameters that no loss reaches, such as those for descriptions in a run on captions only.

        DDP would wait for their gradients, and weight decay would shrink them. DDP's own search for unused parameters
        separates the outputs of the model from each other, so that GradNorm could not see their dependence.
        """
        model = self.unwrapped
        use_whole_batch_norms(model)
        assert isinstance(self.train_dataset, KeyedDataset)
        assert self.train_sampler is not None
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        reached: dict[bool, set[str]] = {}  # by whether the batch has descriptions
        for rows_of_person, _ in self.train_sampler.kinds:
            rows = np.concatenate(rows_of_person[:2])[:4].tolist()
            batch = self.data_collator([self.train_dataset[row] for row in rows])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            loss, tasks = self._probed_loss(model, batch)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            names = {name for name, value in zip(parameters, gradients, strict=True) if value is not None}
            reached["identity_input_ids" in batch] = names
            self.balance.tasks = max(self.balance.tasks, tasks, key=len)
        trained = set().union(*reached.values())
        self.untrained = parameters.keys() - trained
        for name in self.untrained:
            parameters[name].requires_grad_(False)
        self._untouched = {kind: [parameters[name] for name in trained - names] for kind, names in reached.items()}
        return super()._prepare_for_training(*args, **kwargs)

    def _probed_loss(self, model: BDAMModel, batch: dict[str, Tensor]) -> tuple[Tensor, list[str]]:
        """Computes the loss of a few rows in this process, and the names of its tasks; the model stays unchanged."""
        was_training = model.training
        model.eval()
        with torch.enable_grad():
            output = model(**self.objective.inputs(model, batch))
        model.train(was_training)
        people = batch["person_ids"]
        paired = PairedOutputs(output, output, PairLabels.of_rows(people, people), self.state.epoch or 0.0)
        losses = self.objective.losses(model, paired)
        if not losses:
            left_out = ", ".join(self.args.left_out_tasks)
            raise TrainingStoppedError(
                f"no loss is left for rows without descriptions if {left_out} are left out: leave out fewer tasks, or "
                "add descriptions"
            )
        total = torch.stack(list(losses.values())).sum() + self.objective.gate_loss(output)
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
        objective, own, step = self.objective, self.unwrapped, self.state.global_step + 1

        rest_frozen_norms(own)
        # Forward pass of the N local rows, all-gather with gradient to M rows
        output: BDAMOutput = model(**objective.inputs(own, inputs))
        gathered = gather_outputs(output, self.accelerator)
        texts = inputs if objective.is_decoupled else {}
        labels = gather_labels(inputs["person_ids"], texts, self.accelerator)  # positive pairs, [N, M]

        # One scalar for each of K tasks, times its fixed weight
        paired = PairedOutputs(output, gathered, labels, self.state.epoch or 0.0)
        losses = objective.losses(own, paired)
        values = torch.stack([loss.detach() for loss in losses.values()])  # [K]
        if not bool(values.isfinite().all()):  # one synchronization with the device for all tasks
            task, value = next(each for each in zip(losses, values.tolist(), strict=True) if not math.isfinite(each[1]))
            raise non_finite(f"the loss of task '{task}' is {value}", step, self.args)
        fixed = self.args.task_weights or {}
        assert isinstance(fixed, dict)  # parsed by the arguments
        losses = {task: fixed.get(task, 1.0) * loss for task, loss in losses.items()}

        # Balance of the tasks
        is_balanced = objective.is_decoupled and (self.args.gradnorm or self.args.uncertainty_weighting)
        weights = torch.ones_like(values)  # [K]
        if is_balanced and len(losses) > 1:
            weights = self.balance.weights(losses, output, step)

        # Weighted sum over the tasks, plus the gate regularization with its fixed weight
        weighted = (weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
        total = sum(weighted, start=weights.new_zeros(())) + objective.gate_loss(gathered)
        if not self.is_fsdp_enabled:  # DDP waits for a gradient of each parameter that batches of the other kind train
            for parameter in self._untouched.get("identity_input_ids" in inputs, []):
                total = total + 0 * parameter.sum()

        # Values for the next log entry
        for (task, loss), weight in zip(losses.items(), weights, strict=True):
            self._note({f"loss_{task}": loss, f"weight_{task}": weight})
        self._note({"temperature": 1 / output.logit_scale.squeeze()})
        if "decouple" in losses:
            with torch.no_grad():
                halves = gathered.decoupled_identity, gathered.decoupled_clothing  # [M, D] each
                self._note({"normalized_hsic": normalized_hsic(*halves)})
        if output.gate is not None:
            self._note({"bdam_gate_mean": output.gate.mean()})
        if output.fusion_gate is not None:
            self._note({"fusion_gate_image_mean": output.fusion_gate[:, 0].mean()})
        return (total, output) if return_outputs else total

    # Optimizer

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Creates the optimizer with the groups of `parameter_groups`, and prints them."""
        is_new = self.optimizer is None
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        if is_new:
            groups = parameter_groups(self.unwrapped, self.args, set(self.get_decay_parameter_names(self.unwrapped)))
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
            problem = f"the losses are finite, but the norm of their gradient is {float(norm)}"
            raise non_finite(problem, self.state.global_step + 1, self.args)
        return norm

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
