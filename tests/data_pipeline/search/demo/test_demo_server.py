"""`bdam demo` over HTTP: file access, uploads, Host header, login, concurrent users."""

import io
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from data_pipeline.commands.main import app
from data_pipeline.search import PersonGallery
from data_pipeline.search.embedder import Embedder

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

import httpx  # comes with gradio

from data_pipeline.search.demo.filters import MENUS, RANGES

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture
def client(demo: Any) -> Any:
    with httpx.Client(base_url=demo.address, timeout=60) as client:
        yield client


def ask(client: httpx.Client, name: str, values: list[Any], session: str) -> dict[str, Any]:
    """Calls the event handler `name` by gradio's queue protocol; `values` are its inputs after the state."""
    config = client.get("/config").json()
    function = next(entry for entry in config["dependencies"] if entry["api_name"] == name)
    given = {"data": [None, *values], "fn_index": function["id"], "session_hash": session}
    joined = client.post("/gradio_api/queue/join", json=given)
    if joined.status_code != 200:
        return {"success": False, "refused": joined.text}
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return {"success": message["success"], **message["output"]}
    raise AssertionError("no answer")


def controls(**given: Any) -> list[Any]:
    values = {"changed": 0, "count": 24, "grouped": False, "in_detail": False, "typed": "", "first": "", "last": ""}
    return [*(values | given).values(), *[""] * RANGES, *[[]] * MENUS]


def ask_by_upload(client: httpx.Client, name: str, content: bytes) -> tuple[Path, dict[str, Any]]:
    """Uploads a picture and searches by it; returns its path on the server and the answer."""
    path = client.post("/gradio_api/upload", files={"files": (name, content)}).json()[0]
    file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    return Path(path), ask(client, "ask_picture", [file, *controls()], uuid.uuid4().hex)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "README.md",
        "{index}/manifest.json",
        "{index}/generation-000001/metadata.parquet",
        "{photos}/metadata.csv",
        "{folder}/demo.log",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize(
    "route", ["/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/gradio_api/proxy="]
)
def test_routes_serve_no_other_file(client: httpx.Client, demo: Any, route: str, path: str) -> None:
    named = path.format(index=demo.index, photos=demo.photos, folder=demo.folder)
    answer = client.get(route + named)
    assert answer.status_code in (400, 403, 404)
    assert "root:" not in answer.text


def test_ask_picture_refuses_files_that_were_not_uploaded(client: httpx.Client, demo: Any) -> None:
    image = next(demo.photos.rglob("*.jpg"))
    for path, url in ((str(image), None), ("/etc/passwd", None), ("", "http://127.0.0.1:1/a.jpg"), ("x", str(image))):
        sent = {"path": path, "url": url, "orig_name": "a.jpg", "meta": {"_type": "gradio.FileData"}}
        assert not ask(client, "ask_picture", [sent, *controls()], uuid.uuid4().hex)["success"]


def test_ask_picture_searches_by_an_upload(client: httpx.Client, demo: Any) -> None:
    path, answer = ask_by_upload(client, "../../a.jpg", next(demo.photos.rglob("*.jpg")).read_bytes())
    assert path.is_relative_to(demo.folder) and path.name == "a.jpg"
    assert "like this picture" in answer["data"][1]
    assert not path.exists()


def test_upload_above_the_limit_is_refused(client: httpx.Client, demo: Any) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(50_000_000))})
    assert answer.status_code == 413
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    chunks = (part for part in [head, *[bytes(1_000_000)] * 50, b"\r\n--x--\r\n"])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        refused = client.post("/gradio_api/upload", content=chunks, headers=kind).status_code
    except httpx.TransportError:  # disconnected
        refused = 413
    assert refused >= 400
    assert client.post("/gradio_api/queue/join", json={"data": ["x" * 20_000_000]}).status_code == 413
    assert sum(file.stat().st_size for file in demo.folder.rglob("bdam-demo-*/**/*") if file.is_file()) < 11_000_000


def test_ask_picture_refuses_a_decompression_bomb(client: httpx.Client) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, format="PNG")
    _, answer = ask_by_upload(client, "a.png", bomb.getvalue())
    assert "more than" in answer["data"][0] and "megapixels" in answer["data"][0]


def test_host_header_of_another_name_is_refused(client: httpx.Client) -> None:
    """DNS rebinding: the domain of another site resolves to loopback."""
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:1234"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_request_of_another_origin_is_refused(client: httpx.Client, demo: Any, origin: str) -> None:
    """A page of another site sends requests, although it cannot read the answers (cross-site request forgery)."""
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/login"):
        assert client.post(path, json={}, headers={"Origin": origin}).status_code == 403
    own = {"Origin": demo.address}
    assert client.post("/gradio_api/upload", files={"files": ("a.jpg", b"x")}, headers=own).status_code == 200


def test_ask_survives_values_of_wrong_types(client: httpx.Client) -> None:
    session = uuid.uuid4().hex
    odd: list[Any] = [None, 7, "x" * 1_000_000, {"a": 1}, [1, 2]]
    for sentence in odd:
        ask(client, "submit", [sentence, False, *controls()], session)
    for values in (controls(count="many"), controls(changed=None), controls(typed=7), controls(first={}), []):
        ask(client, "submit", [SENTENCE, False, *values], session)
    assert ask(client, "submit", [SENTENCE, False, *controls()], session)["success"]


def test_ask_keeps_concurrent_sessions_apart(client: httpx.Client, demo: Any, embedder: Embedder) -> None:
    colors = ("red", "blue", "black", "green", "yellow", "white", "brown", "pink", "grey", "orange")
    sentences = [f"a {person} in a {color} coat" for person in ("man", "woman") for color in colors]
    with ThreadPoolExecutor(len(sentences)) as pool:
        answers = list(
            pool.map(lambda text: ask(client, "submit", [text, False, *controls()], uuid.uuid4().hex), sentences)
        )
    with PersonGallery.open(demo.index, embedder) as gallery:
        for sentence, answer in zip(sentences, answers, strict=True):
            assert sentence in answer["data"][1]
            expected = [str(hit.row) for hit in gallery.search_text(sentence, 24)]
            found = answer["data"][2].split("class='card' data-row='")[1:]
            assert [part.split("'")[0] for part in found] == expected


def test_auth_protects_all_routes(demo: Any, serve_demo: Any, tmp_path: Path) -> None:
    with (
        serve_demo(demo.index, demo.photos, tmp_path, "--auth", "ann:secret") as served,
        httpx.Client(base_url=served.address) as client,
    ):
        assert "ready to be searched" not in client.get("/").text
        for path in ("/config", "/gradio_api/info", "/gradio_api/file=x"):
            assert client.get(path).status_code == 401
        assert client.post("/gradio_api/queue/join", json={}).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("a.jpg", b"x")}).status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
        assert ask(client, "submit", [SENTENCE, False, *controls()], uuid.uuid4().hex)["success"]


def test_demo_listens_on_loopback_by_default(demo: Any) -> None:
    assert demo.address.startswith("http://127.0.0.1:")
    port = int(demo.address.rpartition(":")[2])
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow-remote"], "give --auth USER:PASSWORD as well"),
        (["--auth", "ann"], "--auth must be USER:PASSWORD"),
        (["--port", "{port}"], "is in use: choose another with --port, or 0 for a free one"),
        (["--model", "nowhere"], "model nowhere: no such folder"),
        (["--index", "nowhere"], "there is no index"),
    ],
)
def test_demo_prints_errors_in_one_line(demo: Any, options: list[str], message: str) -> None:
    given = [option.format(port=demo.address.rpartition(":")[2]) for option in options]
    result = CliRunner().invoke(app, ["demo", "--index", str(demo.index), "--device", "cpu", *given])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
