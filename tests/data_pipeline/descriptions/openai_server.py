"""Loopback server with the parts of the OpenAI API that descriptions use, and with configurable faults.

Run it as `python openai_server.py`; it prints its port. `--log` gets one JSON line per event: requests and answers.
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
    *("429", "429 retry-after", "500", "reset", "timeout", "half body"),
    *("half json", "prose", "refusal", "foreign", "empty", "schema", "stall"),
)
"""`timeout` and `stall` answer late: after `--late` and `--stall` seconds.

Further kinds are only drawn on request: `status N` (an error response), `filtered`, `repeated` (the same texts for each
image), and in batches `garbage` (a line that is no JSON).
"""

FLAGS: dict[str, tuple[Any, str]] = {
    "port": (0, "0 for any free port"),
    "delay": (0.0, "seconds until a good answer"),
    "faults": (0.0, "share of faulty requests"),
    "first_faults": (0, "number of faulty requests before all others"),
    "fault_kinds": (",".join(FAULTS), "faults to draw from"),
    "late": (5.0, "see FAULTS"),
    "stall": (30.0, "see FAULTS"),
    "retry_after": ("1", "value of the Retry-After header"),
    "batch_seconds": (0.2, "run time of a batch"),
    "batch_queue": (50_000, "maximum number of requests in unfinished batches"),
    "first_batch_reply": ("", "`reset`: breaks the connection after creating the first batch; `drop`: never replies"),
    "key": ("", "the only accepted API key"),
    "first_good": (0, "number of good requests before all others"),
    "unsupported": ("", "parameters that a request must not have"),
    "usage": (1, "0: counts no tokens"),
    "cut_downloads": (0, "number of downloads that end in the middle"),
    "echo_key": (0, "1: repeats the received key in errors and answers"),
    "seed": (0, "random seed of the faults"),
    "log": ("", "file to append events to"),
}


class Server:
    """Answers with delay; a share of the requests gets a fault instead."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.faults: list[str] = [name for name in options.fault_kinds.split(",") if name]
        self.rng = random.Random(options.seed)
        self.count = 0
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
        if self.options.log:
            with Path(self.options.log).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"time": time.time(), **event}) + "\n")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.options.key and key != self.options.key:
            error = {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401)
        faulty = self.count < self.options.first_faults or self.rng.random() < self.options.faults
        fault = self.rng.choice(self.faults) if faulty and self.count >= self.options.first_good else None
        if unsupported := self.unsupported(json.loads(data)):
            self.note(event="asked", fault="unsupported")
            return web.json_response({"error": unsupported}, status=400)
        self.count += 1
        response_id = f"chatcmpl-{self.count}-{self.options.port}-{time.time_ns()}"
        request_hash = hashlib.sha256(data).hexdigest()[:16]
        self.note(event="asked", request=request_hash, id=response_id, fault=fault)
        waits = {"timeout": self.options.late, "stall": self.options.stall}
        await asyncio.sleep(waits.get(fault or "", self.options.delay))
        broken = ("429", "429 retry-after", "500", "reset", "half body")
        if fault is not None and (fault in broken or fault.startswith("status ")):
            return await self.broken(fault, request, key)
        completion = complete(json.loads(data), response_id, fault, echo=key if self.options.echo_key else "")
        if not self.options.usage:
            del completion["usage"]
        self.note(event="answered", request=request_hash, id=response_id)
        return web.json_response(completion)

    def unsupported(self, body: dict[str, Any]) -> dict[str, str] | None:
        """The error for a request with a parameter that the server does not support."""
        named = [name for name in self.options.unsupported.split(",") if name in body]
        return {"message": f"Unsupported parameter: '{named[0]}'", "code": "unsupported_parameter"} if named else None

    async def broken(self, fault: str, request: web.Request, key: str) -> web.StreamResponse:
        if fault == "reset":
            return reset(request)
        if fault == "half body":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"id": "x", "choices": [{"index": 0, "mess')
            await response.write_eof()
            return response
        headers = {"Retry-After": self.options.retry_after} if fault == "429 retry-after" else {}
        message = f"fault {fault} for key {key}" if self.options.echo_key else f"fault {fault}"
        status = int(fault.removeprefix("status ")) if fault.startswith("status ") else 500 if fault == "500" else 429
        return web.json_response({"error": {"message": message}}, status=status, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        field: Any = form["file"]
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = field.file.read()
        self.note(event="uploaded", id=file_id)
        return web.json_response({"id": file_id, "object": "file", "bytes": len(self.files[file_id]), "created_at": 1,
                                  "filename": "x.jsonl", "purpose": "batch", "status": "processed"})  # fmt: skip

    async def download(self, request: web.Request) -> web.Response:
        data = self.files[request.match_info["id"]]
        if self.options.cut_downloads > 0:
            self.options.cut_downloads -= 1
            data = data[: len(data) // 2]
        return web.Response(body=data)

    async def create_batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        batch_id = f"batch_{len(self.batches)}"
        queued = sum(batch["request_counts"]["total"] for batch in self.batches.values() if "ready_at" in batch)
        self.batches[batch_id] = {
            **body,
            "id": batch_id,
            "object": "batch",
            "created_at": int(time.time()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        if queued + len(lines) > self.options.batch_queue:
            error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m."}
            self.batches[batch_id] |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            self.note(event="no room", id=batch_id)
            return web.json_response(self.shown(batch_id))
        self.batches[batch_id] |= {"status": "in_progress", "ready_at": time.time() + self.options.batch_seconds}
        for line in lines:
            self.note(event="batched", request=line["custom_id"], id=batch_id)
        if self.options.first_batch_reply and len(self.batches) == 1:
            if self.options.first_batch_reply == "reset":
                return reset(request)
            self.note(event="dropped reply")
            await asyncio.sleep(60)  # the test kills the client meanwhile
        return web.json_response(self.shown(batch_id))

    async def list_batches(self, request: web.Request) -> web.Response:
        newest = [self.shown(batch_id) for batch_id in reversed(self.batches)]
        return web.json_response({"object": "list", "data": newest, "has_more": False})

    async def get_batch(self, request: web.Request) -> web.Response:
        return web.json_response(self.shown(request.match_info["id"]))

    def shown(self, batch_id: str) -> dict[str, Any]:
        """The batch as clients see it; finishes it when its time is over."""
        batch = self.batches[batch_id]
        if batch["status"] == "in_progress" and time.time() >= batch["ready_at"]:
            batch.pop("ready_at")
            self.finish(batch)
        return {key: value for key, value in batch.items() if key != "ready_at"}

    def finish(self, batch: dict[str, Any]) -> None:
        answers: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for number, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
            request = json.loads(line)
            fault = self.rng.choice(self.faults) if self.rng.random() < self.options.faults else None
            status, body = 200, {}
            if error := self.unsupported(request["body"]):
                status, body = 400, {"error": error}
            elif fault == "500" or str(fault).startswith("status "):
                status, body = int(str(fault).removeprefix("status ")), {"error": {"message": f"fault {fault}"}}
            else:
                body = complete(request["body"], f"{batch['id']}-{number}", fault)
            response = {"status_code": status, "request_id": "q", "body": body}
            answer = {"id": f"r{number}", "custom_id": request["custom_id"], "response": response, "error": None}
            (answers if status == 200 else errors).append({"garbage": 1} if fault == "garbage" else answer)
        batch["status"] = "completed"
        batch["request_counts"] = {"total": number + 1, "completed": len(answers), "failed": len(errors)}
        for name, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = b"\n".join(
                    b"{garb" if "garbage" in line else json.dumps(line).encode() for line in lines
                )


def reset(request: web.Request) -> web.Response:
    """Breaks the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def complete(body: dict[str, Any], response_id: str, fault: str | None, echo: str = "") -> dict[str, Any]:
    """A chat completion: a good description of the image, or a faulty one."""
    user = body["messages"][1]["content"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    if isinstance(user, str):
        content = json.dumps({"text": rewritten(body["messages"][0]["content"], json.loads(user))})
    else:
        image = next(part["image_url"]["url"] for part in user if part["type"] == "image_url")
        texts = describe("" if fault == "repeated" else hashlib.sha256(image.encode()).hexdigest())
        keys = schema.get("required") or ("identity_description", "clothing_description")
        content = json.dumps({key: texts[key] + echo if isinstance(texts[key], str) else texts[key] for key in keys})
    message: dict[str, Any] = {"role": "assistant", "content": spoilt(content, fault)}
    if fault == "refusal" and response_id.endswith("3"):
        message = {"role": "assistant", "content": None, "refusal": "I'm sorry, I can't assist with that."}
    finish = {"half json": "length", "filtered": "content_filter"}.get(fault or "", "stop")
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 700, "completion_tokens": 90, "total_tokens": 790},
    }


def rewritten(instruction: str, text: str) -> str:
    """The answer to a text task: the name of a style, a neutral caption, or the text itself."""
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
        "filtered": "",
        "schema": json.dumps({"description": "a man in a red coat", "confidence": 0.9}),
    }
    return changed.get(fault or "", content)


COLORS = ("red", "blue", "green", "black", "white", "grey", "brown", "yellow", "pink", "purple", "orange", "beige")


def describe(image_hash: str) -> dict[str, Any]:
    """Valid fields, two texts and a caption, deterministic per image and rarely equal for two images."""
    draw = random.Random(image_hash).choice
    person = draw(("man", "woman"))
    pronoun = {"man": "He", "woman": "She"}[person]
    age, build = draw(("young", "middle-aged")), draw(("slim", "average", "heavy-set", "athletic"))
    height, skin = draw(("short", "average", "tall")), draw(("pale", "light", "tanned", "brown", "dark"))
    hair = f"{draw(('short', 'long'))} {draw(('straight', 'curly', 'wavy'))} {draw(('black', 'brown', 'grey'))} hair"
    pattern, material = draw(("plain", "striped", "checked", "dotted")), draw(("cotton", "wool", "denim", "leather"))
    colors = draw(COLORS), draw(COLORS)
    types = draw(("jacket", "shirt", "coat", "sweater")), draw(("jeans", "shorts"))
    upper, lower = f"{colors[0]} {pattern} {material} {types[0]}", f"{colors[1]} {types[1]}"
    shoes = f"{draw(COLORS)} {draw(('sneakers', 'boots'))}"
    carried = f"{draw(COLORS)} {draw(('backpack', 'handbag', 'hat', 'scarf'))}"
    body = f"A {age} {person} of {build} build and {height} height. {pronoun} has {hair} and {skin} skin."
    garments = [
        {"type": types[0], "color": colors[0], "pattern": pattern, "material": material},
        {"type": types[1], "color": colors[1], "pattern": "not visible", "material": "not visible"},
    ]
    identity = (person, age, f"{build} build", f"{height} height", hair, f"{skin} skin")
    return {
        "identity_attributes": dict(zip(("gender", "age", "build", "height", "hair", "skin"), identity, strict=True)),
        "clothing_attributes": {"garments": garments, "shoes": shoes, "accessories": [carried]},
        "identity_description": body,
        "clothing_description": f"The outfit consists of a {upper}, {lower} and {shoes}, together with a {carried}.",
        "caption": f"The {age} {person} wears a {upper}, {lower} and {shoes}. {pronoun} has {hair}.",
    }


async def serve(options: argparse.Namespace) -> None:
    runner = web.AppRunner(Server(options).app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    server: Any = site._server
    options.port = server.sockets[0].getsockname()[1]
    print(options.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, (default, text) in FLAGS.items():
        parser.add_argument(f"--{name}", default=default, type=type(default), help=text)
    asyncio.run(serve(parser.parse_args()))
