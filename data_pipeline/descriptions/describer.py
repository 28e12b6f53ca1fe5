"""Turns images into requests and answers into store records, and decides when an image has failed."""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from tqdm.auto import tqdm

from .answers import Problem
from .backend import Answer
from .costs import Price
from .images import ImageItem, data_uri
from .options import DescribeOptions
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

    @property
    def style_name(self) -> str | None:
        """The name of the style, if there is one."""
        return self.style.name if self.style else None


class Describer:
    """Prepares requests and records answers in the store; it sends nothing itself.

    The price has the tokens of an image, for servers that count no tokens.
    """

    def __init__(self, store: DescriptionStore, options: DescribeOptions, price: Price | None = None) -> None:
        self.store = store
        self.options = options
        self.prompt = DescriptionPrompt(options.requirements, options.prompts)
        self.prompt_tokens = self.prompt.letters // 4 + (price or Price).image_tokens  # estimate
        self.rule = StopRule()
        self._withheld: dict[str, tuple[Record, str]] = {}  # file_path -> failure that is not recorded yet, and its key
        self._estimates = False

    @property
    def settings(self) -> Record:
        """Model and prompt, stored with each record."""
        return {"model": self.options.model, "prompt": self.prompt.version}

    def is_settled(self, file_path: str) -> bool:
        """Whether an image has a description or a failure."""
        known = self.store.key_of(file_path) is not None or file_path in self.store.failures
        return known or file_path in self._withheld

    def key(self, data: bytes) -> tuple[str, Style | None]:
        """Returns the store key of an encoded image and its style, the same in every run."""
        digest = hashlib.sha256(data).hexdigest()
        draw_style = self.options.draw_style
        style = draw_style(random.Random(f"{self.options.seed}/{digest}")) if draw_style else None
        return self.prompt.key(digest, self.options.model, style), style

    def job(self, item: ImageItem) -> Job:
        """Reads an image and encodes it for a request; raises `ValueError` if it cannot be read."""
        try:
            data = item.read()
        except OSError as error:
            raise ValueError(f"unreadable image: {error.strerror or error}") from None
        key, style = self.key(data)
        return Job(item.file_path, key, style, data_uri(data, self.options.max_side, self.options.max_bytes))

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
        if attempts < self.options.max_attempts and "filtered" not in kinds:
            return self.prompt.messages(job.image_url, job.style, (last["answer"], reasons))
        (self.withhold if self.rule.is_failing else self.fail)(job, "; ".join(reasons), kinds)
        return None

    def record(self, job: Job, answer: Answer) -> bool:
        """Stores an answer as a description or as rejected; returns whether it was kept."""
        record, problems = self._check(answer)
        common: Record = {
            **self.settings,
            "style": job.style_name,
            "key": job.key,
            "usage": self._usage(answer),
            "response_id": answer.response_id,
            **({"batch": True} if self.options.batch else {}),
        }
        if not problems:
            attempt = self.store.rejected(job.key)[0] + 1
            self.store.add_description({"file_path": job.file_path, **record, "attempts": attempt, **common})
            self.rule.add(job.key, ())
            self.commit_failures()
            return True
        self.reject(job, problems, answer.refusal or answer.text, common)
        return False

    def _check(self, answer: Answer) -> tuple[Record, list[Problem]]:
        if answer.filtered:
            return {}, [Problem("filtered", "the server's content filter blocked the answer")]
        if answer.refusal is not None:
            return {}, [Problem("refusal", "the answer was a refusal")]
        record, problems = check_answer(answer.text, self.prompt.requirements)
        if answer.cut_off and not record:
            problems = [Problem("unparsable", "the answer was too long and was cut off")]
        most = self.options.max_duplicates
        if not problems and self.store.same_texts(record) >= most:
            problems = [Problem("duplicate", f"{most} other images have the same texts: be specific")]
        return record, problems

    def reject(self, job: Job, problems: Sequence[Problem], text: str, common: Record) -> None:
        """Stores a rejected answer; `common` has the rest of its record."""
        attempt = self.store.rejected(job.key)[0] + 1
        kinds = [asdict(problem) for problem in problems]
        text = text[:4000].encode(errors="replace").decode()  # drops unpaired surrogates
        self.store.add_rejected(
            {"file_path": job.file_path, "attempt": attempt, "problems": kinds, "answer": text, **common}
        )
        self.rule.add(job.key, problems, text)

    def fail(self, job: Job | ImageItem, reason: str, kinds: Sequence[str] = ()) -> None:
        """Records that an image remains without a description."""
        self.store.add_failure(self._failure(job, reason, kinds))

    def withhold(self, job: Job, reason: str, kinds: Sequence[str]) -> None:
        """Remembers a failure until an answer is kept: otherwise an outage would mark every image as failed."""
        self._withheld[job.file_path] = self._failure(job, reason, kinds), job.key

    def withheld(self) -> list[str]:
        """Returns the reasons of the withheld failures."""
        return [record["reason"] for record, _ in self._withheld.values()]

    def commit_failures(self) -> None:
        """Records the withheld failures: other answers were kept, or the run ended without a systematic failure."""
        for record, _ in self._withheld.values():
            self.store.add_failure(record)
        self._withheld.clear()

    def forgive(self) -> None:
        """Drops the withheld failures and resets the attempts of the recent rejected answers: no image was at fault."""
        self.store.reset_attempts({*self.rule.rejected_keys(), *(key for _, key in self._withheld.values())})
        self._withheld.clear()

    def _failure(self, job: Job | ImageItem, reason: str, kinds: Sequence[str]) -> Record:
        record = {"file_path": job.file_path, "reason": reason, "kinds": list(kinds), "attempts": 0, **self.settings}
        if isinstance(job, Job):
            record |= {"attempts": self.store.rejected(job.key)[0], "key": job.key, "style": job.style_name}
        return record

    def _usage(self, answer: Answer) -> dict[str, int | bool]:
        """Returns the tokens of an answer, estimated from four characters per token if the server counts none."""
        if not answer.prompt_tokens and not answer.completion_tokens:
            if not self._estimates:
                self._estimates = True
                _LOG.warning("the server counts no tokens: tokens and cost are estimated from the number of characters")
            completion = len(answer.text) // 4 + 1
            return {"prompt_tokens": self.prompt_tokens, "completion_tokens": completion, "estimated": True}
        usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        parts = {"cached_tokens": answer.cached_tokens, "image_tokens": answer.image_tokens}
        return usage | {name: tokens for name, tokens in parts.items() if tokens}

    def survey(self, items: Iterable[ImageItem]) -> tuple[Counter[str], list[str]]:
        """Compares the images with the store; reads only the images that have a description.

        Returns the numbers of "described", "failed" and "pending" images, and the images described under other settings
        or changed since.
        """
        counts: Counter[str] = Counter(described=0, failed=0, pending=0)
        changed = []
        for item in tqdm(items, unit=" images", desc="comparing", leave=False, disable=not self.options.progress):
            known = self.store.key_of(item.file_path)
            if known is not None:
                counts["described"] += 1
                if self._is_changed(item, known):
                    changed.append(item.file_path)
            else:
                counts["failed" if item.file_path in self.store.failures else "pending"] += 1
        return counts, changed

    def _is_changed(self, item: ImageItem, known: str) -> bool:
        try:
            return self.key(item.read())[0] != known
        except OSError:
            return False  # the image was deleted; its description is kept
