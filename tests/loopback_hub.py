"""In-memory Hugging Face Hub on 127.0.0.1 for the unmodified client: `with LoopbackHub() as hub: ...`.

It implements the endpoints for uploads and downloads, and can drop the connection during an upload. The client reads
its settings when it is imported, so it must run in a subprocess with `hub.environment(folder)`.
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
    """The commits of one repository, oldest first, and the commit of each branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # uploaded large files, by SHA-256

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
        """The files of the branch `main`."""
        return self.commits[self.refs["main"]]


class LoopbackHub:
    """Serves on a free port of 127.0.0.1 until the `with` block ends.

    Attributes:
        repositories: by (kind, id), kind being "model" or "dataset".
        log: method and path of each request.
        uploads_left: number of large files to accept before a connection is dropped; None accepts all.
        dropped: set after the first dropped connection.
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
        """Returns the environment of a client process that uses only this Hub, with its cache in `home`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "hf_loopback",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class _NotFound(Exception):
    """A repository, a revision or a path that the Hub does not have; becomes a 404 response."""


class _Handler(BaseHTTPRequestHandler):
    """Handles one request; the methods listed in `ENDPOINTS` are the endpoints of the Hub."""

    hub: ClassVar[LoopbackHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: requests are recorded in `LoopbackHub.log`."""

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
                    try:
                        return endpoint(self, **parts)
                    except _NotFound as error:
                        return self._answer(404, {"error": f"{error} not found"}, {"X-Error-Code": f"{error}NotFound"})
        self._answer(404, {"error": f"no endpoint {self.command} {path} in tests/loopback_hub.py"})

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _at(self, kind: str, id: str, revision: str) -> tuple[Repository, str]:
        """Returns the repository and the commit of a revision.

        Raises:
            _NotFound: the Hub has no such repository or revision.
        """
        repository = self.hub.repositories.get((kind, id))
        if repository is None:
            raise _NotFound("Repo")
        commit = repository.resolve(revision)
        if commit is None:
            raise _NotFound("Revision")
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

    def whoami(self) -> None:
        self._answer(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def validate(self) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def information(self, kind: str, id: str, revision: str = "main") -> None:
        repository, commit = self._at(kind, id, revision or "main")
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
        repository, commit = self._at(kind, id, revision)
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
            raise _NotFound("Entry")
        self._answer(200, list(entries.values()))

    def paths_information(self, kind: str, id: str, revision: str) -> None:
        repository, commit = self._at(kind, id, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        files = repository.commits[commit]
        self._answer(200, [_entry(path, files[path]) for path in wanted if path in files])

    def preupload(self, kind: str, id: str, revision: str) -> None:
        repository, commit = self._at(kind, id, revision)
        present = repository.commits[commit]
        files = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            mode = "lfs" if path.endswith(LARGE_FILES) else "regular"
            oid = _entry(path, present[path])["oid"] if path in present else None
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
                self.close_connection = True  # no response
                self.hub.dropped.set()
                return
            self.hub.uploads_left -= 1
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._answer(422, {"error": "the content does not match its SHA-256"})
        self.hub.repositories[kind, id].large[oid] = self.body
        self._answer(200, {})

    def commit(self, kind: str, id: str, revision: str) -> None:
        repository, parent = self._at(kind, id, revision)
        files, message = dict(repository.commits[parent]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    return self._answer(412, {"error": "the parent commit is not the head of the branch"})
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in repository.large:
                    return self._answer(400, {"error": f"{value['path']}: the file was not uploaded"})
                files[value["path"]] = repository.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self._answer(400, {"error": f"unknown operation {entry['key']}"})
        number = repository.commit(revision, files, message)
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.hub.url}/{prefix}{id}/commit/{number}"
        self._answer(200, {"success": True, "commitOid": number, "commitUrl": url, "hookOutput": ""})

    def resolve(self, kind: str, id: str, revision: str, path: str) -> None:
        repository, commit = self._at("dataset" if kind else "model", id, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self._answer(404, {"error": "Entry not found"}, headers)
        headers = {"ETag": f'"{_etag(path, content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._answer(200, content, headers)
        first, last = int(span[1]), int(span[2] or len(content) - 1)
        part = content[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._answer(206, part, headers)


ENDPOINTS: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", "/api/whoami-v2", _Handler.whoami),
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
