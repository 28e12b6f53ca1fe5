"""The trainer of BDAM: identity-balanced batches, losses over all processes, GradNorm, retrieval evaluation."""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import speed_metrics

from ..evaluation.protocols import EncodedSplit, encode_split, protocol_metrics
from ..losses_bdam import gate_regularization
from ..modeling_bdam import BDAMModel
from ..objective_bdam import task_losses
from ..outputs_bdam import BDAMOutput
from .baselines import plain_losses, sdm_losses
from .console import ConsoleCallback
from .gathering import gather_labels, gather_outputs, whole_batch_norms
from .model_card import CardData, RunFacts, SplitSize, write_model_card
from .robust_pairs import TextChoice, choose_texts
from .sampler import IdentityBalancedSampler, KeyedDataset
from .task_weighting import GradNorm, TaskWeighting, UncertaintyWeighting, shared_gradient_norms
from .tower_training import lora_weights, merged_weights, unmerged_weights
from .training_args import BDAMTrainingArguments

TASK_WEIGHTING_FILE = "task_weighting.pt"
TEXT_CHOICE_FILE = "text_choice.pt"
LORA_FILE = "lora.safetensors"
BASELINES = {"plain": plain_losses, "sdm": sdm_losses}


class NonFiniteLossError(RuntimeError):
    """The loss or gradient of a task is NaN or infinite; checkpoints that were saved before are unchanged."""


class BDAMTrainer(Trainer):
    """`Trainer` for `BDAMModel` on data sets of person images, captions and descriptions.

    Batches, losses and gradients are equal to those of one process with the whole batch, for any number of processes.

    Args:
        model: the model to train.
        args: training arguments.
        train_dataset, eval_dataset: rows of the common schema (image, person_id, outfit_id, captions, ...); training
            draws P x K batches, evaluation encodes every image and every caption.
        data_collator: rows, each with an `augmentation_seed`, to a training batch.
        retrieval_collator: rows with `image` and/or `caption` to tensors, for evaluation.
        processing_class: saved beside the model.
        callbacks: as in `Trainer`.

    Attributes:
        card_data: names of the data sets, for the model card.
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
        self.task_weighting: TaskWeighting | None = None
        self.text_choice = TextChoice()
        self.card_data = CardData()
        self.scored: dict[str, SplitSize] = {}  # by prefix of the figures
        self._micro_batches: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms, since the last step
        self._noted: dict[str, tuple[Tensor, int]] = {}  # sums and counts for the next log entry
        if train_dataset is not None:
            self._new_sampler(train_dataset, args)  # raises on an invalid batch size before a folder is created
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
        if self.is_fsdp_enabled:
            self._prepare_fsdp(model)
        self.add_callback(_EpochCallback(self))
        for printed_by_transformers in (ProgressCallback, PrinterCallback):
            if self.pop_callback(printed_by_transformers) is not None:
                self.add_callback(ConsoleCallback)

    def _prepare_fsdp(self, model: BDAMModel) -> None:
        """Shards layer by layer, unless the launch configuration names the classes itself.

        Raises:
            ValueError: the model has LoRA; merging it on saving needs unsharded weights.
        """
        if lora_weights(model):
            raise ValueError("--lora_rank cannot be combined with FSDP; use a launch configuration without FSDP")
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

    def begin_epoch(self, epoch: int) -> None:
        """Sets the epoch of the sampler and, with `robust_pairs`, chooses the texts of the rows for this epoch."""
        if self.train_sampler is None:
            return
        self.train_sampler.set_epoch(epoch)
        if not self.args.robust_pairs:
            return
        trained = self.state.global_step / self.state.max_steps
        # After a resume the choice of this epoch is already in the checkpoint
        if epoch > self.text_choice.epoch and trained >= self.args.robust_pairs_warmup:
            assert isinstance(self.train_dataset, KeyedDataset)
            text_rows = choose_texts(
                self.accelerator.unwrap_model(self.model),
                self.train_dataset.rows,
                self.data_collator,
                self.args.per_device_eval_batch_size,
                self.accelerator,
                self.args.dataloader_num_workers,
                borrow=trained >= self.args.robust_pairs_borrowing,
            )
            own = text_rows == torch.arange(len(text_rows))  # [N]
            shares = {"plausible_rows": own, "borrowed_rows": (text_rows >= 0) & ~own}
            self._note({name: chosen.float().mean().to(self.args.device) for name, chosen in shares.items()})
            self.text_choice.text_rows = text_rows
        self.text_choice.epoch = epoch
        text_rows_now = self.text_choice.text_rows
        self.train_sampler.use_texts(None if text_rows_now is None else text_rows_now.numpy())

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
        if self.args.objective in BASELINES:
            inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "person_ids")}
        texts = {name: value for name, value in inputs.items() if name != "person_ids"}
        output: BDAMOutput = model(**texts)
        gathered = gather_outputs(output, self.accelerator)
        labels = gather_labels(inputs["person_ids"], inputs, self.accelerator)

        # One scalar per task
        if self.args.objective in BASELINES:
            losses = BASELINES[self.args.objective](output, gathered, labels)
        else:
            losses = task_losses(output, gathered, labels, self.args.triplet_margin)
            losses = {task: loss for task, loss in losses.items() if task not in self.args.left_out_tasks}
        for task, loss in losses.items():
            if not bool(torch.isfinite(loss)):
                raise self._non_finite(f"the loss of task '{task}' is {loss.item()}")
        fixed = self.args.task_weights or {}
        assert isinstance(fixed, dict)  # parsed by the arguments
        losses = {task: fixed.get(task, 1.0) * loss for task, loss in losses.items()}

        # Weighted sum over the tasks, plus the gate regularization with its fixed weight
        weights = self._current_task_weights(losses, output)  # [K]
        weighted = (weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
        total = sum(weighted, start=weights.new_zeros(()))
        if self.args.gate_regularization_weight > 0 and (gathered.gate is not None or gathered.fusion_gate is not None):
            gates = gate_regularization(gathered.gate, gathered.fusion_gate)
            total = total + self.args.gate_regularization_weight * gates

        # Values for the next log entry
        for (task, loss), weight in zip(losses.items(), weights, strict=True):
            self._note({f"loss_{task}": loss, f"weight_{task}": weight})
        self._note({"temperature": 1 / output.logit_scale.squeeze()})
        if output.gate is not None:
            self._note({"bdam_gate_mean": output.gate.mean()})
        if output.fusion_gate is not None:
            self._note({"fusion_gate_image_mean": output.fusion_gate[:, 0].mean()})
        return (total, output) if return_outputs else total

    def _current_task_weights(self, losses: dict[str, Tensor], output: BDAMOutput) -> Tensor:
        """Returns the weights of this step, [K], and updates them after the last micro-batch of a step."""
        values = torch.stack([loss.detach() for loss in losses.values()])
        if not (self.args.gradnorm or self.args.uncertainty_weighting) or len(losses) == 1:
            return torch.ones_like(values)
        if self.task_weighting is None:
            self.task_weighting = self._new_task_weighting(list(losses))
        weights = self.task_weighting.weights
        norms = torch.zeros_like(values)
        if self.args.gradnorm:
            norms = shared_gradient_norms(list(losses.values()), [output.pooled_identity, output.pooled_clothing])
            norms = whole_batch_norms(norms, self.accelerator)
            self._note({f"gradient_norm_{task}": norm for task, norm in zip(losses, norms, strict=True)})
        self._micro_batches.append((self.accelerator.reduce(values, "mean"), norms))
        if self.accelerator.sync_gradients:
            mean_values, mean_norms = (torch.stack(part).mean(dim=0) for part in zip(*self._micro_batches, strict=True))
            self.task_weighting.update(mean_values, mean_norms)
            self._micro_batches.clear()
        return weights

    def _new_task_weighting(self, tasks: list[str]) -> TaskWeighting:
        args, rate = self.args, self.args.gradnorm_learning_rate
        if args.uncertainty_weighting:
            return UncertaintyWeighting(tasks, rate, device=args.device)
        return GradNorm(tasks, args.gradnorm_alpha, rate, args.gradnorm_penalty, device=args.device)

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
            eval_dataset: rows of the common schema; by default `self.eval_dataset`. The data sets of a dictionary are
                evaluated one by one, and their names become part of the keys.
            ignore_keys: unused, part of the signature of `Trainer`.
            metric_key_prefix: "eval" gives `eval_rank1`, `eval_clothes_changing_mAP`, ....
        """
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
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

    def score(self, split: EncodedSplit, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Computes the metrics of an encoded split at the β of the config."""
        beta = self.accelerator.unwrap_model(self.model).config.clothing_weight
        self.scored[metric_key_prefix] = SplitSize(
            people=len(split.gallery_ids.unique()), images=len(split.gallery), captions=len(split.queries)
        )
        return {f"{metric_key_prefix}_{name}": value for name, value in protocol_metrics(split, beta).items()}

    def encode(self, rows: Any) -> EncodedSplit:
        """Encodes every image and caption of `rows`; each process gets all vectors."""
        model = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled:
            for method in ("get_image_features", "get_text_features"):
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
        if self.is_fsdp_enabled and state_dict:  # empty on all processes but the first
            state_dict["logit_scale"] = state_dict["logit_scale"].reshape(())
        # Under FSDP the class of the model is defined in torch, and `save_pretrained` would copy the code of torch
        sharded, own.__class__ = own.__class__, BDAMModel
        super()._save(output_dir, state_dict)
        own.__class__ = sharded

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        lora = lora_weights(self.accelerator.unwrap_model(self.model))
        if not self.args.should_save:
            return
        if lora:
            save_file(lora, Path(output_dir, LORA_FILE))
        if self.task_weighting is not None:
            torch.save(self.task_weighting.state_dict(), Path(output_dir, TASK_WEIGHTING_FILE))
        if self.args.robust_pairs:
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
        if self.args.robust_pairs and (state := saved(TEXT_CHOICE_FILE)) is not None:
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
        facts = RunFacts(
            args=self.args,
            state=self.state,
            data=self.card_data,
            config=model.config,
            parameters=sum(value.numel() for name, value in model.named_parameters() if ".lora_" not in name),
            trained_parameters=self.get_num_trainable_parameters(),
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
        super()._push_from_checkpoint(checkpoint_folder)


def _adam_arguments(args: BDAMTrainingArguments) -> dict[str, Any]:
    """Returns Adam arguments without weight decay, which `Trainer` sets per parameter group."""
    return {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


class _EpochCallback(TrainerCallback):
    """Calls `begin_epoch`, since accelerate 1.15 does not set the epoch after a resume on several processes."""

    def __init__(self, trainer: BDAMTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch(int((state.epoch or 0.0) + 1e-6))


__all__ = ["BDAMTrainer", "NonFiniteLossError"]
