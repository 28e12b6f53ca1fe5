"""Turns images into requests and answers into store records, and decides when an image has failed."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass

from tqdm.auto import tqdm

from .answers import Problem
from .backend import Answer
from .costs import Price
from .images import ImageItem, data_uri, image_digest
from .prompts import DescriptionPrompt, Message, Style
from .store import DescriptionStore, Record
from .systematic import StopRule
from .validation import check_answer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """An image to describe: its store key, its style, and its data URI."""

    file_path: str
    key: str
    style: Style | None
    image_url: str


@dataclass(frozen=True)
class Survey:
    """Counts of a data set before a run. `changed`: images described under other settings, or changed since."""

    images: int
    described: int
    failed: int
    pending: int
    changed: tuple[str, ...]


@dataclass
class Describer:
    """Prepares requests and records answers; it sends nothing itself.

    Args:
        store: all records are read from it and added to it.
        prompt: builds the messages.
        model: the model's name, stored with each record.
        draw_style: draws the style of an image's caption; required if and only if the prompt's requirements include
            a caption. Its random generator is seeded by the image and `seed` only, so reruns draw the same style.
        max_attempts: answers per image before it is recorded as failed.
        max_duplicates: number of images that may share the same two texts.
        max_side, max_bytes: see `data_uri`.
        batch: whether the answers come from the Batch API, at its price.
        image_tokens: prompt tokens of one image, for servers that count no tokens.
        seed: changes the drawn styles.

    Raises:
        ValueError: `draw_style` does not match the requirements, or a value is out of range.
    """

    store: DescriptionStore
    prompt: DescriptionPrompt
    model: str
    _: KW_ONLY
    draw_style: Callable[[random.Random], Style] | None = None
    max_attempts: int = 3
    max_duplicates: int = 20
    max_side: int = 768
    max_bytes: int = 200_000
    batch: bool = False
    image_tokens: int = Price.image_tokens
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt.requirements.caption != (self.draw_style is not None):
            raise ValueError("captions need styles, and styles need requirements with a caption")
        for name in ("max_attempts", "max_duplicates", "max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.rule = StopRule()
        self._withheld: dict[str, tuple[Record, str]] = {}  # file_path -> failure that is not recorded yet, and its key
        self._estimates = False

    def is_settled(self, file_path: str) -> bool:
        """Whether an image has a description or a failure."""
        known = self.store.key_of(file_path) is not None or file_path in self.store.failures
        return known or file_path in self._withheld

    def key(self, data: bytes) -> tuple[str, Style | None]:
        """Returns the store key of an encoded image and its style, the same in every run."""
        digest = image_digest(data)
        style = self.draw_style(random.Random(f"{self.seed}/{digest}")) if self.draw_style else None
        return self.prompt.key(digest, self.model, style), style

    def job(self, item: ImageItem) -> Job:
        """Reads an image and encodes it for a request.

        Raises:
            ValueError: the image cannot be read.
        """
        try:
            data = item.read()
        except OSError as error:
            raise ValueError(f"unreadable image: {error.strerror or error}") from None
        key, style = self.key(data)
        return Job(item.file_path, key, style, data_uri(data, self.max_side, self.max_bytes))

    def copied(self, job: Job) -> bool:
        """Copies an earlier description under the same key, if there is one; returns whether it did."""
        record = self.store.described_as(job.key)
        if record is None:
            return False
        self.store.add_description(
            {**record, "file_path": job.file_path, "attempts": 0, "usage": None, "copied_from": record["file_path"]}
        )
        return True

    def messages(self, job: Job) -> list[Message] | None:
        """Builds the next request of a job; returns None if its attempts are used up, which is a failure.

        The failure is withheld while all recent answers are rejected, since then the image may not be at fault.
        """
        attempts, last = self.store.rejected(job.key)
        if last is None:
            return self.prompt.messages(job.image_url, job.style)
        reasons = [problem["detail"] for problem in last["problems"]]
        kinds = [problem["kind"] for problem in last["problems"]]
        if attempts < self.max_attempts and "filtered" not in kinds:
            return self.prompt.messages(job.image_url, job.style, (last["answer"], reasons))
        self._withheld[job.file_path] = self._failure(job, "; ".join(reasons), attempts, kinds), job.key
        if not self.rule.is_failing:
            self.commit_failures()
        return None

    def record(self, job: Job, answer: Answer) -> bool:
        """Stores an answer as a description or as rejected; returns whether it was kept."""
        record: Record = {}
        if answer.filtered:
            problems = [Problem("filtered", "the server's content filter blocked the answer")]
        elif answer.refusal is not None:
            problems = [Problem("refusal", "the answer was a refusal")]
        else:
            record, problems = check_answer(answer.text, self.prompt.requirements)
            if answer.cut_off and not record:
                problems = [Problem("unparsable", "the answer was too long and was cut off")]
        if not problems and self.store.same_texts(record) >= self.max_duplicates:
            problems = [Problem("duplicate", f"{self.max_duplicates} other images have the same texts: be specific")]
        common: Record = {
            "model": self.model,
            "prompt": self.prompt.version,
            "style": job.style.name if job.style else None,
            "key": job.key,
            "usage": self._usage(answer),
            "response_id": answer.response_id,
            **({"batch": True} if self.batch else {}),
        }
        if not problems:
            attempt = self.store.rejected(job.key)[0] + 1
            self.store.add_description({"file_path": job.file_path, **record, "attempts": attempt, **common})
            self.rule.add(job.key, ())
            self.commit_failures()
            return True
        self.reject(job, problems, answer.refusal or answer.text, common)
        return False

    def reject(self, job: Job, problems: Sequence[Problem], text: str, common: Record) -> None:
        """Stores a rejected answer; `common` has the rest of its record."""
        attempt = self.store.rejected(job.key)[0] + 1
        kinds = [asdict(problem) for problem in problems]
        text = text[:4000].encode(errors="replace").decode()  # drops unpaired surrogates
        self.store.add_rejected(
            {"file_path": job.file_path, "attempt": attempt, "problems": kinds, "answer": text, **common}
        )
        self.rule.add(job.key, problems, text)

    def fail(self, job: Job | ImageItem, reason: str, attempts: int = 0, kinds: Sequence[str] = ()) -> None:
        """Records that an image remains without a description."""
        self.store.add_failure(self._failure(job, reason, attempts, kinds))

    def commit_failures(self) -> None:
        """Records the withheld failures: other answers were kept, or the run ended without a systematic failure."""
        for record, _ in self._withheld.values():
            self.store.add_failure(record)
        self._withheld.clear()

    def forgive(self) -> None:
        """Drops the withheld failures and resets the attempts of the recent rejected answers: no image was at fault."""
        self.store.reset_attempts({*self.rule.rejected_keys(), *(key for _, key in self._withheld.values())})
        self._withheld.clear()

    def _failure(self, job: Job | ImageItem, reason: str, attempts: int, kinds: Sequence[str]) -> Record:
        known = {"key": job.key, "style": job.style.name if job.style else None} if isinstance(job, Job) else {}
        common = {"kinds": list(kinds), "attempts": attempts, "model": self.model, "prompt": self.prompt.version}
        return {"file_path": job.file_path, "reason": reason, **common, **known}

    def _usage(self, answer: Answer) -> dict[str, int | bool]:
        """Returns the tokens of an answer, estimated from four characters per token if the server counts none."""
        if not answer.prompt_tokens and not answer.completion_tokens:
            if not self._estimates:
                self._estimates = True
                _LOG.warning("the server counts no tokens: tokens and cost are estimated from the number of characters")
            prompt, completion = self.prompt.letters // 4 + self.image_tokens, len(answer.text) // 4 + 1
            return {"prompt_tokens": prompt, "completion_tokens": completion, "estimated": True}
        usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        parts = {"cached_tokens": answer.cached_tokens, "image_tokens": answer.image_tokens}
        return usage | {name: tokens for name, tokens in parts.items() if tokens}

    def survey(self, items: Iterable[ImageItem], progress: bool = False) -> Survey:
        """Compares the images with the store; reads only the images that have a description."""
        images = described = failed = 0
        changed = []
        for item in tqdm(items, unit=" images", desc="comparing", leave=False, disable=not progress):
            images += 1
            known = self.store.key_of(item.file_path)
            if known is not None:
                described += 1
                if self._is_changed(item, known):
                    changed.append(item.file_path)
            elif item.file_path in self.store.failures:
                failed += 1
        return Survey(images, described, failed, images - described - failed, tuple(changed))

    def _is_changed(self, item: ImageItem, known: str) -> bool:
        try:
            return self.key(item.read())[0] != known
        except OSError:
            return False  # the image was deleted; its description is kept
