"""`bdam demo` over HTTP, without a browser: what it gives out, what it refuses, and many people at once."""

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

pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'bdam-reid[demo]'")

import httpx  # comes with gradio

SENTENCE = "a young woman in a red coat and blue jeans"


@pytest.fixture
def client(demo: Any) -> Any:
    with httpx.Client(base_url=demo.address, timeout=60) as client:
        yield client


def ask(client: httpx.Client, name: str, values: list[Any], session: str) -> dict[str, Any]:
    """What the page's function `name` answers to the values of its inputs after the state; gradio's own protocol."""
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
    raise AssertionError("the answer never came")


def controls(**given: Any) -> list[Any]:
    values = {"changed": 0, "count": 24, "grouped": False, "typed": "", "first": "", "last": "", **given}
    return [*values.values(), [], []]


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
def test_no_path_leads_to_a_file(client: httpx.Client, demo: Any, route: str, path: str) -> None:
    named = path.format(index=demo.index, photos=demo.photos, folder=demo.folder)
    answer = client.get(route + named)
    assert answer.status_code in (400, 403, 404)
    assert "root:" not in answer.text


def test_no_file_of_the_server_is_taken_for_a_picture_that_was_sent(client: httpx.Client, demo: Any) -> None:
    image = next(demo.photos.rglob("*.jpg"))
    for path, url in ((str(image), None), ("/etc/passwd", None), ("", "http://127.0.0.1:1/a.jpg"), ("x", str(image))):
        sent = {"path": path, "url": url, "orig_name": "a.jpg", "meta": {"_type": "gradio.FileData"}}
        assert not ask(client, "ask_picture", [sent, *controls()], uuid.uuid4().hex)["success"]


def test_a_picture_that_was_sent_is_searched(client: httpx.Client, demo: Any) -> None:
    session = uuid.uuid4().hex
    sent = client.post(
        "/gradio_api/upload", files={"files": ("../../a.jpg", next(demo.photos.rglob("*.jpg")).read_bytes())}
    )
    path = Path(sent.json()[0])
    assert path.is_relative_to(demo.folder) and path.name == "a.jpg"
    file = {"path": str(path), "orig_name": "a.jpg", "meta": {"_type": "gradio.FileData"}}
    answer = ask(client, "ask_picture", [file, *controls()], session)
    assert "like this picture" in answer["data"][0]


def test_an_upload_of_50_mb_is_refused_whether_it_says_so_or_not(client: httpx.Client, demo: Any) -> None:
    answer = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(50_000_000))})
    assert answer.status_code == 413
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    chunks = (part for part in [head, *[bytes(1_000_000)] * 50, b"\r\n--x--\r\n"])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        refused = client.post("/gradio_api/upload", content=chunks, headers=kind).status_code
    except httpx.TransportError:  # it hung up
        refused = 413
    assert refused >= 400
    assert client.post("/gradio_api/queue/join", json={"data": ["x" * 20_000_000]}).status_code == 413
    assert sum(file.stat().st_size for file in demo.folder.rglob("bdam-demo-*/**/*") if file.is_file()) < 11_000_000


def test_a_picture_of_400_megapixels_is_refused(client: httpx.Client) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, format="PNG")
    sent = client.post("/gradio_api/upload", files={"files": ("a.png", bomb.getvalue())}).json()[0]
    file = {"path": sent, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    answer = ask(client, "ask_picture", [file, *controls()], uuid.uuid4().hex)
    assert "more than" in answer["data"][0] and "megapixels" in answer["data"][0]


def test_a_page_of_another_name_gets_nothing(client: httpx.Client) -> None:
    """A name of a stranger's that points to loopback would make this page one of its own."""
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:1234"}).status_code == 200


def test_values_of_the_wrong_kind_are_answered_and_the_page_goes_on(client: httpx.Client) -> None:
    session = uuid.uuid4().hex
    odd: list[Any] = [None, 7, "x" * 1_000_000, {"a": 1}, [1, 2]]
    for sentence in odd:
        ask(client, "ask", [sentence, *controls()], session)
    for values in (controls(count="many"), controls(changed=None), controls(typed=7), controls(first={}), []):
        ask(client, "ask", [SENTENCE, *values], session)
    assert ask(client, "ask", [SENTENCE, *controls()], session)["success"]


def test_twenty_people_at_once_get_their_own_answers(client: httpx.Client, demo: Any, embedder: Embedder) -> None:
    sentences = [f"a {age} {who} in a {color} coat" for age in ("young", "old") for who in ("man", "woman")
                 for color in ("red", "blue", "black", "green", "yellow")]  # fmt: skip
    with ThreadPoolExecutor(len(sentences)) as pool:
        answers = list(
            pool.map(lambda sentence: ask(client, "ask", [sentence, *controls()], uuid.uuid4().hex), sentences)
        )
    with PersonGallery.open(demo.index, embedder) as gallery:
        for sentence, answer in zip(sentences, answers, strict=True):
            assert sentence in answer["data"][0]
            expected = "".join(f"data-row='{hit.row}'" for hit in gallery.search_text(sentence, 24))
            found = answer["data"][1].split("data-row='")[1:]
            assert "".join(f"data-row='{part.split(chr(39))[0]}'" for part in found) == expected


def test_with_a_password_nothing_is_given_out_before_it(demo: Any, serve_demo: Any, tmp_path: Path) -> None:
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
        assert ask(client, "ask", [SENTENCE, *controls()], uuid.uuid4().hex)["success"]


def test_it_listens_on_loopback_alone_unless_told_otherwise(demo: Any) -> None:
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
        (["--auth", "ann"], "--auth wants USER:PASSWORD"),
        (["--port", "{port}"], "port"),
        (["--model", "nowhere"], "model nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(demo: Any, options: list[str], message: str) -> None:
    given = [option.format(port=demo.address.rpartition(":")[2]) for option in options]
    result = CliRunner().invoke(app, ["demo", "--index", str(demo.index), "--device", "cpu", *given])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_missing_index_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--index", str(tmp_path / "nowhere")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no index is here" in result.stderr
