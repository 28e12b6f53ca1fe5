"""Evaluates a run by retrieval on whole splits, and chooses the weights of its scores on the validation split."""

import statistics
import time
from typing import Any

from torch.distributed.fsdp import register_fsdp_forward_method
from transformers.trainer_utils import EvalPrediction, PredictionOutput, speed_metrics

from ..evaluation.calibration import absence_metrics, calibrate
from ..evaluation.protocols import EncodedSplit, encode_split, protocol_metrics
from ..evaluation.reranking import COUNTS
from .collation import Collator
from .errors import TrainingStoppedError
from .model_card import SplitSize
from .saving import SavingTrainer

MATCHING_WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
CLOTHING_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


class RetrievalTrainer(SavingTrainer):
    """`Trainer` with an evaluation that encodes every image and every caption of a split, and ranks the images."""

    retrieval_collator: Collator

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
        queries, people = split.weighted_queries(self.unwrapped.config.clothing_weight), split.gallery_ids
        vectors: Any = queries.numpy(), split.gallery.numpy()
        ids: Any = people[split.query_rows].numpy(), people.numpy()
        return EvalPrediction(vectors, ids)

    def score(self, split: EncodedSplit, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Computes the metrics of an encoded split at the β of the config."""
        config = self.unwrapped.config
        beta, people = config.clothing_weight, len(split.gallery_ids.unique())
        self.scored[metric_key_prefix] = SplitSize(people, images=len(split.gallery), captions=len(split.queries))
        metrics = protocol_metrics(split, beta, (config.matching_weight, config.matching_candidates))
        metrics |= absence_metrics(split, config.score_calibration, beta)
        if self.compute_metrics is not None:
            metrics |= self.compute_metrics(self._prediction(split))
        return {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}

    def choose_clothing_weight(self) -> float:
        """Sets the config's β to the one of `CLOTHING_WEIGHTS` with the best mAP on the evaluation set; returns it."""
        split = self.encode(self.eval_dataset, candidates=0)
        mean_precision = {beta: split.standard(beta)["mAP"] for beta in CLOTHING_WEIGHTS}
        best = max(mean_precision, key=mean_precision.__getitem__)
        self.unwrapped.config.clothing_weight = best
        return best

    def calibrate(self) -> None:
        """Sets the config's `score_calibration` to that of the evaluation set; see `evaluation/calibration.py`."""
        split = self.encode(self.eval_dataset, candidates=0)
        self.unwrapped.config.score_calibration = calibrate(split)

    def choose_matching(self) -> tuple[float, int]:
        """Sets the config's λ and K to those with the best re-ranked mAP on the evaluation set; returns them."""
        config = self.unwrapped.config
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
        model = self.unwrapped
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
        if not self.objective.is_decoupled:
            split.described_gallery = None  # its fusion is not trained
        return split


__all__ = ["RetrievalTrainer"]
