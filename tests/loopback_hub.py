"""A Hub of Hugging Face on this machine, in memory, for the real client: `with LoopbackHub() as hub: ...`.

It speaks what uploading and downloading need, one commit after another, and can break an upload off. The client reads
its settings when it is imported, so it has to run in a process of its own, with `hub.environment(folder)`.
"""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_FILES = (".safetensors", ".bin", ".pt", ".png", ".parquet")
REPOSITORY = r"(?P<id>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>model|dataset)s/{REPOSITORY}"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Repository:
    """The commits of one repository, oldest first, and what its branches and tags point to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # what was uploaded beside the commits, by sha256

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        number = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[number] = files
        self.messages.append(message)
        self.refs[branch] = number
        return number

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        """What `main` holds."""
        return self.commits[self.refs["main"]]


class LoopbackHub:
    """Serves on a free port of 127.0.0.1 until the `with` block ends.

    Attributes:
        repositories: by (kind, id), kind being "model" or "dataset".
        log: method and path of each request.
        uploads_left: how many large files it still takes; then it drops the connection. None: any number.
        dropped: set once it has dropped one.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.log: list[str] = []
        self.uploads_left: int | None = None
        self.dropped = threading.Event()
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a client process that knows no other Hub and keeps its cache under `home`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "hf_loopback",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    """One request; the methods below it are the Hub's endpoints, by method and path."""

    hub: ClassVar[LoopbackHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is `LoopbackHub.log`."""

    def do_POST(self) -> None:
        self._route()

    do_GET = do_HEAD = do_PUT = do_POST

    def _route(self) -> None:
        path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        with self.hub.lock:
            self.hub.log.append(f"{self.command} {path}")
            for method, pattern, endpoint in ENDPOINTS:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    parts = {name: unquote(value or "") for name, value in found.groupdict().items()}
                    return endpoint(self, **parts)
        self._answer(404, {"error": f"the loopback Hub has no endpoint {self.command} {path}"})

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = headers or {}
        if "Content-Length" not in headers:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, what: str) -> None:
        self._answer(404, {"error": f"{what} not found"}, {"X-Error-Code": f"{what}NotFound"})

    def _at(self, kind: str, id: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit that a revision means; answers 404 where there is none."""
        repository = self.hub.repositories.get((kind, id))
        commit = None if repository is None else repository.resolve(revision)
        if repository is None or commit is None:
            self._missing("Repo" if repository is None else "Revision")
            return None
        return repository, commit

    # Endpoints

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind, id = wanted.get("type") or "model", f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = (kind, id) in self.hub.repositories
        if not exists:
            self.hub.repositories[kind, id] = Repository()
            self.hub.repositories[kind, id].commit("main", {}, "initial commit")
        prefix = "" if kind == "model" else f"{kind}s/"
        self._answer(409 if exists else 200, {"url": f"{self.hub.url}/{prefix}{id}", "name": id, "id": id})

    def who(self) -> None:
        self._answer(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def validate(self) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def information(self, kind: str, id: str, revision: str = "main") -> None:
        if found := self._at(kind, id, revision or "main"):
            repository, commit = found
            files = [{"rfilename": path} for path in sorted(repository.commits[commit])]
            self._answer(200, {"_id": id, "id": id, "sha": commit, "siblings": files, "tags": [], "private": False})

    def references(self, kind: str, id: str) -> None:
        branches = self.hub.repositories[kind, id].refs.items()
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in branches]
        self._answer(200, {"branches": listed, "converts": [], "tags": []})

    def new_branch(self, kind: str, id: str, branch: str) -> None:
        repository = self.hub.repositories[kind, id]
        repository.refs[branch] = repository.refs["main"]
        self._answer(200, {})

    def tree(self, kind: str, id: str, revision: str, folder: str) -> None:
        if not (found := self._at(kind, id, revision)):
            return
        repository, commit = found
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        recursive = "true" in parse_qs(urlsplit(self.path).query.lower()).get("recursive", [])
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(repository.commits[commit].items()):
            if not path.startswith(prefix):
                continue
            *folders, _ = path.removeprefix(prefix).split("/")
            for depth in range(len(folders) if recursive else min(len(folders), 1)):
                above = prefix + "/".join(folders[: depth + 1])
                entries[above] = {"type": "directory", "path": above, "oid": _git_id(above.encode()), "size": 0}
            if recursive or not folders:
                entries[path] = _entry(path, content)
        if prefix and not entries:
            return self._missing("Entry")
        self._answer(200, list(entries.values()))

    def paths_information(self, kind: str, id: str, revision: str) -> None:
        if not (found := self._at(kind, id, revision)):
            return
        repository, commit = found
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        files = repository.commits[commit]
        self._answer(200, [_entry(path, files[path]) for path in wanted if path in files])

    def preupload(self, kind: str, id: str, revision: str) -> None:
        if not (found := self._at(kind, id, revision)):
            return
        repository, commit = found
        there = repository.commits[commit]
        files = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            mode = "lfs" if path.endswith(LARGE_FILES) else "regular"
            oid = _entry(path, there[path])["oid"] if path in there else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": files})

    def large_batch(self, kind: str, id: str) -> None:
        repository = self.hub.repositories["dataset" if kind else "model", id]
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            url = f"{self.hub.url}/upload/{kind or 'models/'}{id}/{wanted['oid']}"
            needed = {} if wanted["oid"] in repository.large else {"actions": {"upload": {"href": url}}}
            objects.append(wanted | needed)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, kind: str, id: str, oid: str) -> None:
        if self.hub.uploads_left is not None:
            if self.hub.uploads_left == 0:
                self.close_connection = True  # without an answer
                self.hub.dropped.set()
                return
            self.hub.uploads_left -= 1
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._answer(422, {"error": "the content does not have the promised sha256"})
        self.hub.repositories[kind, id].large[oid] = self.body
        self._answer(200, {})

    def commit(self, kind: str, id: str, revision: str) -> None:
        if not (found := self._at(kind, id, revision)):
            return
        repository, parent = found
        files, message = dict(repository.commits[parent]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    return self._answer(412, {"error": "a commit has come between"})
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in repository.large:
                    return self._answer(400, {"error": f"{value['path']} was never uploaded"})
                files[value["path"]] = repository.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self._answer(400, {"error": f"the loopback Hub knows no {entry['key']}"})
        number = repository.commit(revision, files, message)
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.hub.url}/{prefix}{id}/commit/{number}"
        self._answer(200, {"success": True, "commitOid": number, "commitUrl": url, "hookOutput": ""})

    def resolve(self, kind: str, id: str, revision: str, path: str) -> None:
        if not (found := self._at("dataset" if kind else "model", id, revision)):
            return
        repository, commit = found
        content = repository.commits[commit].get(path)
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self._answer(404, {"error": "Entry not found"}, headers)
        headers = {"ETag": f'"{_etag(path, content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._answer(200, content, headers | {"Content-Length": str(len(content))})
        first, last = int(span[1]), int(span[2] or len(content) - 1)
        part = content[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._answer(206, part, headers)


ENDPOINTS: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", "/api/whoami-v2", _Handler.who),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", API, _Handler.information),
    ("GET", rf"{API}/revision/{REVISION}", _Handler.information),
    ("GET", rf"{API}/refs", _Handler.references),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", _Handler.new_branch),
    ("GET", rf"{API}/tree/{REVISION}(?P<folder>/.*)?", _Handler.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", _Handler.paths_information),
    ("POST", rf"{API}/preupload/{REVISION}", _Handler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", _Handler.commit),
    ("POST", rf"/(?P<kind>datasets/)?{REPOSITORY}\.git/info/lfs/objects/batch", _Handler.large_batch),
    ("PUT", rf"/upload/(?P<kind>model|dataset)s/{REPOSITORY}/(?P<oid>\w+)", _Handler.upload),
    ("GET HEAD", rf"/(?P<kind>datasets/)?{REPOSITORY}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
]


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE_FILES) else _git_id(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
    if path.endswith(LARGE_FILES):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 134}
    return entry
