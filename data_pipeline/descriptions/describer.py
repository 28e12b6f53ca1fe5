"""From an image to its description: what is asked, what is kept, when an image is given up."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from .client import Answer
from .images import ImageItem, data_uri, image_digest
from .prompts import DescriptionPrompt, Message, Style
from .store import DescriptionStore, Record
from .validation import Problem, check_answer


@dataclass(frozen=True)
class Job:
    """An image that is to be described: what it is asked under, and the image as a data URI."""

    file_path: str
    key: str
    style: Style | None
    image_url: str


@dataclass(frozen=True)
class Survey:
    """How a data set stands before a run. `changed`: images described under other settings, or changed since."""

    images: int
    described: int
    failed: int
    pending: int
    changed: tuple[str, ...]


class Describer:
    """Turns images into jobs, and answers into lines of a store. It sends nothing itself.

    Args:
        store: where everything is kept.
        prompt: what is asked.
        model: who is asked.
        draw_style: draws the style of an image's caption; needed where the prompt's requirements ask for a caption.
            The generator it is given depends on the image alone.
        max_attempts: how many answers an image may take.
        max_duplicates: how many images may have the same two texts.
        batch: whether answers come by the Batch API, at its price.
        seed: chooses other styles.

    Raises:
        ValueError: styles are missing or not wanted, or a value is out of its range.
    """

    def __init__(
        self,
        store: DescriptionStore,
        prompt: DescriptionPrompt,
        model: str,
        *,
        draw_style: Callable[[random.Random], Style] | None = None,
        max_attempts: int = 3,
        max_duplicates: int = 20,
        max_side: int = 768,
        max_bytes: int = 200_000,
        batch: bool = False,
        seed: int = 0,
    ) -> None:
        if prompt.requirements.caption != (draw_style is not None):
            raise ValueError("captions need styles to be written in, and styles are for captions alone")
        for name, value in {
            "max_attempts": max_attempts,
            "max_duplicates": max_duplicates,
            "max_side": max_side,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.store = store
        self.prompt = prompt
        self.model = model
        self._draw_style = draw_style
        self._max_attempts = max_attempts
        self._max_duplicates = max_duplicates
        self._max_side = max_side
        self._max_bytes = max_bytes
        self._batch = batch
        self._seed = seed

    def is_settled(self, file_path: str) -> bool:
        """Whether an image has a description or a recorded failure."""
        return self.store.key_of(file_path) is not None or file_path in self.store.failures

    def key(self, data: bytes) -> tuple[str, Style | None]:
        """The key of an encoded image, and the style drawn for it: the same in every run."""
        digest = image_digest(data)
        style = self._draw_style(random.Random(f"{self._seed}/{digest}")) if self._draw_style else None
        return self.prompt.key(digest, self.model, style), style

    def job(self, item: ImageItem) -> Job:
        """Reads an image and makes it ready to be sent.

        Raises:
            ValueError: the image cannot be read.
        """
        try:
            data = item.read()
        except OSError as error:
            raise ValueError(f"no readable image: {error.strerror or error}") from None
        key, style = self.key(data)
        return Job(item.file_path, key, style, data_uri(data, self._max_side, self._max_bytes))

    def copied(self, job: Job) -> bool:
        """Settles a job from an earlier answer under the same key, if there is one."""
        record = self.store.described_as(job.key)
        if record is None:
            return False
        self.store.add_description(
            {**record, "file_path": job.file_path, "attempts": 0, "usage": None, "copied_from": record["file_path"]}
        )
        return True

    def messages(self, job: Job) -> list[Message] | None:
        """What to ask next; None if the job has been asked often enough, which is then recorded as a failure."""
        attempts, last = self.store.rejected(job.key)
        if last is None:
            return self.prompt.messages(job.image_url, job.style)
        reasons = [problem["detail"] for problem in last["problems"]]
        if attempts >= self._max_attempts:
            self.fail(job, "; ".join(reasons), attempts, [problem["kind"] for problem in last["problems"]])
            return None
        return self.prompt.messages(job.image_url, job.style, (last["answer"], reasons))

    def record(self, job: Job, answer: Answer) -> bool:
        """Keeps an answer, as a description if nothing is wrong with it; returns whether so."""
        problems: list[Problem] = []
        texts: dict[str, str] = {}
        if answer.refusal is not None:
            problems = [Problem("refusal", "the answer was a refusal")]
        else:
            texts, problems = check_answer(answer.text, self.prompt.requirements)
            if answer.cut_off and not texts:
                problems = [Problem("unparsable", "the answer was too long and was cut off")]
        if not problems and self.store.same_texts(texts) >= self._max_duplicates:
            problems = [Problem("duplicate", f"{self._max_duplicates} other images have the same texts: be specific")]
        usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        attempt = self.store.rejected(job.key)[0] + 1
        common: Record = {
            "model": self.model,
            "prompt": self.prompt.version,
            "style": job.style.name if job.style else None,
            "key": job.key,
            "usage": usage,
            "response_id": answer.response_id,
            **({"batch": True} if self._batch else {}),
        }
        if problems:
            kinds = [{"kind": problem.kind, "detail": problem.detail} for problem in problems]
            text = (answer.refusal or answer.text)[:4000]
            text = text.encode(errors="replace").decode()  # half characters cannot be written
            self.store.add_rejected(
                {"file_path": job.file_path, "attempt": attempt, "problems": kinds, "answer": text, **common}
            )
            return False
        self.store.add_description({"file_path": job.file_path, **texts, "attempts": attempt, **common})
        return True

    def fail(self, job: Job | ImageItem, reason: str, attempts: int = 0, kinds: Sequence[str] = ()) -> None:
        """Records that an image stays without a description."""
        known = {"key": job.key, "style": job.style.name if job.style else None} if isinstance(job, Job) else {}
        self.store.add_failure(
            {
                "file_path": job.file_path,
                "reason": reason,
                "kinds": list(kinds),
                "attempts": attempts,
                "model": self.model,
                "prompt": self.prompt.version,
                **known,
            }
        )

    def survey(self, items: Iterable[ImageItem], progress: bool = False) -> Survey:
        """Compares the images with the store. Only those with a description are read."""
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
            return False  # the image is gone; what was written about it stays
