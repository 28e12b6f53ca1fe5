"""A backend that answers in this process."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.descriptions.backend import Answer
from data_pipeline.descriptions.prompts import Message

from .openai_server import describe


def image_of(messages: list[Message]) -> str:
    return messages[1]["content"][1]["image_url"]["url"]


def valid_answer(messages: list[Message], count: int = 0) -> str:
    """A valid description of the image, with a caption if the prompt requests one."""
    texts = describe(image_of(messages))
    wanted = "caption" in messages[0]["content"]
    return json.dumps({key: text for key, text in texts.items() if wanted or key != "caption"})


@dataclass
class FakeBackend:
    """Answers with `answer(messages, count)`: a text, an `Answer`, or an exception to raise."""

    answer: Callable[[list[Message], int], str | Answer | Exception] = valid_answer
    model: str = "m"
    in_flight: int = 4
    asked: list[list[Message]] = field(default_factory=list)

    async def ask(self, messages: list[Message], response_format: dict[str, Any] | None) -> Answer:
        self.asked.append(messages)
        await asyncio.sleep(0.001)
        answer = self.answer(messages, len(self.asked))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(answer, 700, 90, f"id{len(self.asked)}")

    async def close(self) -> None:
        pass
