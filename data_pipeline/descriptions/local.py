"""A local image-text-to-text model that answers without a server."""

import asyncio
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from .client import Answer, RequestFailed, Sampling
from .prompts import Message


class TransformersBackend:
    """Answers in batches by a model of transformers in this process; see `Backend`.

    A schema is not enforced: the answers are only as good as the model, and validation sorts them.

    Args:
        model: a folder or Hub id that `AutoModelForImageTextToText` reads, with a chat template.
        sampling: how texts are drawn; `structured` and `extra` mean nothing here.
        batch_size: images at once.
        device: where to compute; a CUDA device if there is one by default.

    Raises:
        OSError, ValueError: the model cannot be loaded, or has no chat template.
    """

    def __init__(
        self, model: str, *, sampling: Sampling | None = None, batch_size: int = 8, device: str | None = None
    ) -> None:
        self.model = model
        self.in_flight = 2 * batch_size  # while one batch is computed the next one is read
        self._sampling = sampling or Sampling()
        self._batch_size = batch_size
        self._processor: Any = AutoProcessor.from_pretrained(model)
        if getattr(self._processor, "chat_template", None) is None:
            raise ValueError(f"{model}: has no chat template; take a model that was tuned to follow instructions")
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
        self._model = loaded.to(place).eval()
        self._waiting: list[tuple[list[Message], asyncio.Future[Answer]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """One answer; see `Backend`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Waits for the batch that is computed."""
        if self._serving is not None:
            await self._serving

    async def _serve(self) -> None:
        await asyncio.sleep(0.02)  # the first batch should be a full one
        while self._waiting:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            try:
                answers = await asyncio.to_thread(self._generate, [messages for messages, _ in batch])
            except Exception as error:  # whatever a model raises is the fault of this batch alone
                reason = f"the model failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                for _, future in batch:
                    if not future.done():
                        future.set_exception(RequestFailed(reason))
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    @torch.inference_mode()
    def _generate(self, conversations: list[list[Message]]) -> list[Answer]:
        inputs = self._processor.apply_chat_template(
            [[_in_parts(message) for message in messages] for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(self._model.device, self._model.dtype)
        temperature = self._sampling.temperature
        sampled = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        limit = self._sampling.max_tokens or 600
        output = self._model.generate(**inputs, max_new_tokens=limit, **sampled)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(new, skip_special_tokens=True)
        pad = self._processor.tokenizer.pad_token_id
        return [
            Answer(
                text=text,
                prompt_tokens=int(mask.sum()),
                completion_tokens=(used := int((tokens != pad).sum())),
                cut_off=used >= limit,
            )
            for text, tokens, mask in zip(texts, new, inputs["attention_mask"], strict=True)
        ]


def _in_parts(message: Message) -> Message:
    """A message of the OpenAI API in the form of transformers' chat templates."""
    content = message["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "role": message["role"],
        "content": [
            {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else part
            for part in parts
        ],
    }
