"""Backend that runs an image-text-to-text model of transformers in this process."""

import asyncio
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_bdam.files import default_device

from ..offline import go_offline_if_unreachable
from .backend import Answer, RequestFailed, Sampling
from .prompts import Message


class TransformersBackend:
    """A `Backend` that answers in batches with a local transformers model.

    The JSON schema is not enforced during decoding; validation rejects malformed answers.

    Args:
        model: folder or Hub id for `AutoModelForImageTextToText`, with a chat template.
        sampling: `structured` and `extra` are ignored.
        batch_size: images per batch.
        device: a CUDA device if available, by default.

    Raises:
        OSError, ValueError: the model cannot be loaded, or has no chat template.
    """

    def __init__(
        self, model: str, *, sampling: Sampling | None = None, batch_size: int = 8, device: str | None = None
    ) -> None:
        self.model = model
        self.in_flight = 2 * batch_size  # the next batch is prepared while one is computed
        self._sampling = sampling or Sampling()
        self._batch_size = batch_size
        go_offline_if_unreachable(model)
        self._processor: Any = AutoProcessor.from_pretrained(model)
        if getattr(self._processor, "chat_template", None) is None:
            raise ValueError(f"{model}: has no chat template; choose an instruction-tuned model")
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
        self._model = loaded.to(device or default_device()).eval()
        self._waiting: list[tuple[list[Message], asyncio.Future[Answer]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        """Requests one answer; see `Backend`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Waits for the running batch."""
        if self._serving is not None:
            await self._serving

    async def _serve(self) -> None:
        await asyncio.sleep(0.02)  # lets the first batch fill up
        while self._waiting:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            results: list[Answer | RequestFailed]
            try:
                results = [*await asyncio.to_thread(self._generate, [messages for messages, _ in batch])]
            except Exception as error:  # an error of the model fails only this batch
                reason = f"the model failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                results = [RequestFailed(reason) for _ in batch]
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():  # canceled
                    continue
                if isinstance(result, Answer):
                    future.set_result(result)
                else:
                    future.set_exception(result)

    @torch.inference_mode()
    def _generate(self, conversations: list[list[Message]]) -> list[Answer]:
        inputs = self._processor.apply_chat_template(
            [[_with_parts(message) for message in messages] for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(self._model.device, self._model.dtype)
        temperature = self._sampling.temperature
        sampled = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        limit = self._sampling.max_tokens or 600
        output = self._model.generate(**inputs, max_new_tokens=limit, **sampled)  # [B, L_prompt + L_new]
        new = output[:, inputs["input_ids"].shape[1] :]  # [B, L_new]
        texts = self._processor.batch_decode(new, skip_special_tokens=True)
        used = (new != self._processor.tokenizer.pad_token_id).sum(dim=1).tolist()  # [B]
        prompt = inputs["attention_mask"].sum(dim=1).tolist()  # [B]
        return [
            Answer(text, prompt_tokens, tokens, cut_off=tokens >= limit)
            for text, prompt_tokens, tokens in zip(texts, prompt, used, strict=True)
        ]


def _with_parts(message: Message) -> Message:
    """Converts a message of the OpenAI API to the format of transformers' chat templates."""
    content = message["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "role": message["role"],
        "content": [
            {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else part
            for part in parts
        ],
    }
