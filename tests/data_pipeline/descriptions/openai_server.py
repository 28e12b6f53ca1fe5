"""A server on loopback that speaks as much of the OpenAI API as the descriptions need, with faults to order.

Run it as `python openai_server.py`; it prints its port. It writes what it was asked and how it answered, one JSON line
an event, to `--log`.
"""

import argparse
import asyncio
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

from aiohttp import web

FAULTS = (
    "429",
    "429 retry-after",
    "500",
    "reset",
    "timeout",
    "half body",
    "half json",
    "prose",
    "refusal",
    "foreign",
    "empty",
    "schema",
    "stall",
)
"""`timeout` and `stall` answer late: after `--late` and `--stall` seconds."""


class Server:
    """Answers after a while; a share of the requests gets a fault instead."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.faults: list[str] = [name for name in options.fault_kinds.split(",") if name]
        self.rng = random.Random(options.seed)
        self.log = Path(options.log) if options.log else None
        self.count = 0
        self.in_flight = self.most_in_flight = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.download)
        app.router.add_post("/v1/batches", self.create_batch)
        app.router.add_get("/v1/batches", self.list_batches)
        app.router.add_get("/v1/batches/{id}", self.get_batch)
        return app

    def note(self, **event: Any) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"time": time.time(), **event}) + "\n")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.answer(request)
        finally:
            self.in_flight -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.options.key and key != self.options.key:
            return web.json_response(
                {"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}}, status=401
            )
        body = json.loads(data)
        faulty = self.count < self.options.first_faults or self.rng.random() < self.options.faults
        fault = self.rng.choice(self.faults) if faulty else None
        self.count += 1
        response_id = f"chatcmpl-{self.count}-{self.options.port}-{time.time_ns()}"
        request_hash = hashlib.sha256(data).hexdigest()[:16]
        self.note(event="asked", request=request_hash, id=response_id, fault=fault, in_flight=self.in_flight)
        waits = {"timeout": self.options.late, "stall": self.options.stall}
        await asyncio.sleep(waits.get(fault or "", self.options.delay))
        if fault in ("429", "429 retry-after", "500", "reset", "half body"):
            return await self.broken(fault, request, key)
        completion = complete(body, response_id, fault, echo=key if self.options.echo_key else "")
        self.note(event="answered", request=request_hash, id=response_id)
        return web.json_response(completion)

    async def broken(self, fault: str, request: web.Request, key: str) -> web.StreamResponse:
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()  # to nobody
        if fault == "half body":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"id": "x", "choices": [{"index": 0, "mess')
            await response.write_eof()
            return response
        headers = {"Retry-After": str(self.options.retry_after)} if fault == "429 retry-after" else {}
        said = f"fault {fault} for key {key}" if self.options.echo_key else f"fault {fault}"
        return web.json_response({"error": {"message": said}}, status=500 if fault == "500" else 429, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        field: Any = form["file"]
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = field.file.read()
        self.note(event="uploaded", id=file_id)
        return web.json_response({"id": file_id, "object": "file", "bytes": len(self.files[file_id]), "created_at": 1,
                                  "filename": "x.jsonl", "purpose": "batch", "status": "processed"})  # fmt: skip

    async def download(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["id"]])

    async def create_batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        batch_id = f"batch_{len(self.batches)}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "completion_window": "24h",
            "created_at": int(time.time()),
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "ready_at": time.time() + self.options.batch_seconds,
        }
        queued = sum(batch["request_counts"]["total"] for batch in self.batches.values() if "ready_at" in batch)
        if queued > self.options.batch_queue:
            self.batches[batch_id].pop("ready_at")
            error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m."}
            self.batches[batch_id] |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            self.note(event="no room", id=batch_id)
            return web.json_response(self.shown(batch_id))
        for line in lines:
            self.note(event="batched", request=_hash(line["body"]), id=batch_id)
        if self.options.reset_batch_reply and len(self.batches) == 1:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()  # to nobody
        if self.options.drop_batch_reply and len(self.batches) == 1:
            assert request.transport is not None
            self.note(event="dropped reply")
            await asyncio.sleep(60)  # the client is killed meanwhile
        return web.json_response(self.shown(batch_id))

    async def list_batches(self, request: web.Request) -> web.Response:
        newest = [self.shown(batch_id) for batch_id in reversed(self.batches)]
        return web.json_response({"object": "list", "data": newest, "has_more": False})

    async def get_batch(self, request: web.Request) -> web.Response:
        return web.json_response(self.shown(request.match_info["id"]))

    def shown(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        if batch["status"] == "in_progress" and time.time() >= batch["ready_at"]:
            batch.pop("ready_at")
            self.finish(batch)
        return {key: value for key, value in batch.items() if key != "ready_at"}

    def finish(self, batch: dict[str, Any]) -> None:
        answers, errors = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
            request = json.loads(line)
            fault = self.rng.choice(self.faults) if self.rng.random() < self.options.faults else None
            answer = {"id": f"r{number}", "custom_id": request["custom_id"], "response": None, "error": None}
            if fault == "500":
                errors.append({**answer, "response": {"status_code": 500, "request_id": "q", "body": {"error": {}}}})
                continue
            completion = complete(request["body"], f"{batch['id']}-{number}", fault)
            answers.append({**answer, "response": {"status_code": 200, "request_id": "q", "body": completion}})
        batch["status"] = "completed"
        batch["request_counts"] = {"total": number + 1, "completed": len(answers), "failed": len(errors)}
        for name, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = b"\n".join(json.dumps(line).encode() for line in lines)


def complete(body: dict[str, Any], response_id: str, fault: str | None, echo: str = "") -> dict[str, Any]:
    """A chat completion: a good description of the image, or what the fault makes of it."""
    user = body["messages"][1]["content"]
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("required", [])
    if isinstance(user, str):
        content = json.dumps({"text": rewritten(body["messages"][0]["content"], json.loads(user))})
    else:
        image = next(part["image_url"]["url"] for part in user if part["type"] == "image_url")
        texts = describe(hashlib.sha256(image.encode()).hexdigest())
        content = json.dumps(
            {key: texts[key] + echo for key in wanted or ("identity_description", "clothing_description")}
        )
    message: dict[str, Any] = {"role": "assistant", "content": spoilt(content, fault)}
    if fault == "refusal" and response_id.endswith("3"):
        message = {"role": "assistant", "content": None, "refusal": "I'm sorry, I can't assist with that."}
    usage = {"prompt_tokens": 700, "completion_tokens": 90, "total_tokens": 790}
    finish = "length" if fault == "half json" else "stop"
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": usage,
    }


def rewritten(instruction: str, text: str) -> str:
    """What is made of a text: a name of a style, a neutral caption, or nothing."""
    if "Name the style" in instruction:
        return "keyword list" if "," in text else "flowing sentences"
    if "rewrite a caption" in instruction:
        from data_pipeline.styles.neutralize import neutralize

        return neutralize(text)
    return text


def spoilt(content: str, fault: str | None) -> str:
    foreign = {
        "identity_description": "Ein junger Mann mit kurzen schwarzen Haaren und heller Haut, von mittlerer Größe.",
        "clothing_description": "Eine rote Jacke und eine blaue Hose aus Baumwolle mit weißen Schuhen.",
    }
    changed = {
        "half json": content[: len(content) // 2],
        "prose": f"Sure! Here is the description:\n```json\n{content}\n```\nAnything else?",
        "refusal": "I'm sorry, but I can't help with describing people.",
        "foreign": json.dumps(foreign, ensure_ascii=False),
        "empty": "",
        "schema": json.dumps({"description": "a man in a red coat", "confidence": 0.9}),
    }
    return changed.get(fault or "", content)


COLORS = ("red", "blue", "green", "black", "white", "grey", "brown", "yellow", "pink", "purple", "orange", "beige")
PATTERNS = ("plain", "striped", "checked", "dotted")
MATERIALS = ("cotton", "wool", "denim", "leather")


def describe(image_hash: str) -> dict[str, str]:
    """Two clean texts and a caption, the same for the same image, rarely the same for two."""
    draw = random.Random(image_hash).choice
    person = draw(("man", "woman"))
    pronoun = {"man": "He", "woman": "She"}[person]
    age, build = draw(("young", "middle-aged")), draw(("slim", "average", "heavy-set", "athletic"))
    height, skin = draw(("short", "average", "tall")), draw(("pale", "light", "tanned", "brown", "dark"))
    hair = f"{draw(('short', 'long'))} {draw(('straight', 'curly', 'wavy'))} {draw(('black', 'brown', 'grey'))} hair"
    upper = f"{draw(COLORS)} {draw(PATTERNS)} {draw(MATERIALS)} {draw(('jacket', 'shirt', 'coat', 'sweater'))}"
    lower, shoes = f"{draw(COLORS)} {draw(('jeans', 'shorts'))}", f"{draw(COLORS)} {draw(('sneakers', 'boots'))}"
    carried = f"{draw(COLORS)} {draw(('backpack', 'handbag', 'hat', 'scarf'))}"
    body = f"A {age} {person} of {build} build and {height} height. {pronoun} has {hair} and {skin} skin."
    return {
        "identity_description": body,
        "clothing_description": f"The outfit consists of a {upper}, {lower} and {shoes}, together with a {carried}.",
        "caption": f"The {age} {person} wears a {upper}, {lower} and {shoes}. {pronoun} has {hair}.",
    }


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until a good answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of the requests that get a fault")
    parser.add_argument("--first_faults", type=int, default=0, help="so many requests get a fault, before all others")
    parser.add_argument("--fault_kinds", default=",".join(FAULTS))
    parser.add_argument("--late", type=float, default=5.0)
    parser.add_argument("--stall", type=float, default=30.0)
    parser.add_argument("--retry_after", default="1")
    parser.add_argument("--batch_seconds", type=float, default=0.2)
    parser.add_argument("--batch_queue", type=int, default=50_000, help="requests that wait in batches at once")
    parser.add_argument("--reset_batch_reply", action="store_true", help="the connection breaks after the first batch")
    parser.add_argument("--drop_batch_reply", action="store_true", help="the first batch is created but not confirmed")
    parser.add_argument("--key", default="", help="the only key that is let in")
    parser.add_argument("--echo_key", action="store_true", help="puts the key it is sent into errors and answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", default="")
    options = parser.parse_args()

    async def serve() -> None:
        runner = web.AppRunner(Server(options).app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", options.port)
        await site.start()
        server: Any = site._server
        options.port = server.sockets[0].getsockname()[1]
        print(options.port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
