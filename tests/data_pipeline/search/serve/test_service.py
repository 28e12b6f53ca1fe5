"""The HTTP service: its answers compared with direct searches, updates of the index, and malicious requests."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from data_pipeline.commands.main import app as bdam
from data_pipeline.search import PersonGallery, PersonHit, filter_process
from data_pipeline.search.embedder import Embedder
from data_pipeline.search.serve import service
from data_pipeline.search.serve.addresses import accepted_hosts
from data_pipeline.search.serve.app import create_app
from data_pipeline.search.serve.server import serve_gallery

SENTENCE = "a young woman in a red coat and blue jeans"
MALICIOUS = "<img src=x onerror=alert(1)>.jpg"
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def gallery(
    drawn_photos: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PersonGallery]:
    """An index of the photos, and of one with HTML in its name and caption."""
    folder = tmp_path_factory.mktemp("served")
    photos = Path(shutil.copytree(drawn_photos, folder / "photos"))
    Image.effect_noise((40, 80), 90).save(photos / MALICIOUS, format="JPEG")
    lines = (photos / "metadata.csv").read_text().splitlines()
    lines = [f"{line},{'caption' if number == 0 else ''}" for number, line in enumerate(lines)]
    (photos / "metadata.csv").write_text(
        "\n".join([*lines, f"{MALICIOUS},9,9,2026-05-01T00:00:00,<script>1</script>\n"])
    )
    with PersonGallery.build(folder / "index", photos, embedder, show_progress=False) as built:
        yield built


def client_of(gallery: PersonGallery, token: str | None = None, host: str = "127.0.0.1") -> TestClient:
    app = create_app(gallery, token, accepted_hosts(host))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(gallery: PersonGallery) -> TestClient:
    return client_of(gallery)


def assert_equal_hits(answer: Any, hits: list[PersonHit], first_rank: int = 1) -> None:
    assert answer.status_code == 200, answer.text
    found = answer.json()["hits"]
    assert [hit["rank"] for hit in found] == list(range(first_rank, first_rank + len(hits)))
    assert [(hit["row"], hit["name"]) for hit in found] == [(hit.row, hit.name) for hit in hits]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 3, "offset": 2}, {"clothing_weight": 0.3, "where": ["camera > 1", "person_id < 3"]}, {"offset": 99}],
)
def test_search_text_equals_direct_search(gallery: PersonGallery, client: TestClient, settings: dict[str, Any]) -> None:
    options = {"top_k": 20, "offset": 0, **settings}
    offset = options.pop("offset")
    hits = gallery.search_text(SENTENCE, **{**options, "top_k": options["top_k"] + offset})[offset:]
    answer = client.post("/search/text", json={"sentence": SENTENCE, **settings})
    assert_equal_hits(answer, hits, offset + 1)
    assert answer.json()["has_more"] == (settings.get("where") is None and offset < 25)


@pytest.mark.parametrize(
    ("route", "options"),
    [
        ("image", {}),
        ("image", {"include_self": True, "without": "a red coat"}),
        ("compose", {"sentence": SENTENCE}),
        ("compose", {"sentence": SENTENCE, "identity_from": "text", "without": "blue jeans"}),
    ],
)
def test_search_with_picture_equals_direct_search(
    gallery: PersonGallery, client: TestClient, route: str, options: dict[str, Any]
) -> None:
    picture = gallery.path(5)
    form = {"top_k": 4, "where": ["camera > 0", "person_id >= 0"], **options}
    answer = client.post(f"/search/{route}", files={"image": ("a.jpg", picture.read_bytes())}, data=form)
    assert_equal_hits(answer, gallery.search_composed(picture, top_k=4, where=form["where"], **options))
    assert (answer.json()["hits"][0]["row"] == 5) == bool(options.get("include_self"))


@pytest.fixture(scope="module")
def matching_client(
    drawn_photos: Path, matching_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PersonGallery, TestClient]]:
    """A service of a calibrated model with a matching head."""
    curve = {"slopes": [9.0], "intercepts": [0.0], "thresholds": [0.9], "growths": [0.0]}
    embedder = Embedder.load(matching_folder, device="cpu")
    embedder.in_bfloat16 = False  # so that the tokens do not depend on the batch
    calibration = {"images": 24, "clothing_weights": [1.0], "text": curve, "composed": curve}
    embedder.model.config.score_calibration = calibration
    folder = tmp_path_factory.mktemp("matching_index")
    photos = Path(shutil.copytree(drawn_photos, folder / "photos"))
    with PersonGallery.build(folder / "index", photos, embedder, show_progress=False) as gallery:
        yield gallery, client_of(gallery)


@pytest.mark.parametrize("settings", [{"rerank": 10}, {"rerank": 24, "offset": 2}, {"where": ["camera > 2"]}])
def test_search_reranks_and_keeps_likely_hits(
    matching_client: tuple[PersonGallery, TestClient], settings: dict[str, Any]
) -> None:
    gallery, client = matching_client
    picture = gallery.path(5)
    options = {"where": settings.get("where", []), "rerank": settings.get("rerank", 0)}
    for image in (None, picture):
        hits = gallery.search_composed(image, SENTENCE, 24, **options)
        middle = sorted(hit.likelihood or 0 for hit in hits)[len(hits) // 2]
        asked = {"sentence": SENTENCE, "top_k": 4, "min_likelihood": middle, **settings}
        if image is None:
            answer = client.post("/search/text", json=asked)
        else:
            answer = client.post("/search/compose", files={"image": ("a.jpg", image.read_bytes())}, data=asked)
        offset = settings.get("offset", 0)
        likely = [hit for hit in hits if (hit.likelihood or 0) >= middle]
        assert_equal_hits(answer, likely[offset : offset + 4], offset + 1)
        found = answer.json()
        scores = [hit.match_score for hit in likely[offset : offset + 4]]
        assert [hit["match_score"] for hit in found["hits"]] == pytest.approx(scores, abs=1e-4)
        assert any(scores) == bool(options["rerank"])
        assert (found["has_more"], found["is_probably_absent"]) == (len(likely) > offset + 4, True)


def test_search_refuses_reranking_without_a_sentence(
    matching_client: tuple[PersonGallery, TestClient], client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, matching = matching_client
    image = {"image": ("a.jpg", gallery.path(5).read_bytes())}
    answer = matching.post("/search/image", files=image, data={"rerank": 5})
    assert answer.status_code == 400 and "rerank needs a sentence for the clothes" in answer.json()["detail"]
    form = {"sentence": SENTENCE, "identity_from": "text", "rerank": 5}
    assert matching.post("/search/compose", files=image, data=form).status_code == 400
    answer = matching.post("/search/image", files=image, data={"min_likelihood": 0.5})
    assert answer.status_code == 400 and "no calibration for this kind of query" in answer.json()["detail"]
    answer = client.post("/search/text", json={"sentence": SENTENCE, "rerank": 5})
    assert answer.status_code == 400 and answer.json()["detail"].startswith("the model has no matching head")
    monkeypatch.setattr(service, "_RERANKINGS", 0)
    asked = {"sentence": SENTENCE, "rerank": 5}
    assert client_of(gallery).post("/search/text", json=asked).status_code == 503
    shutil.move(gallery.index.parent / "photos", gallery.index.parent / "moved")
    answer = matching.post("/search/text", json=asked)
    shutil.move(gallery.index.parent / "moved", gallery.index.parent / "photos")
    assert answer.status_code == 503 and str(gallery.index.parent) not in answer.text


def test_items_are_the_rows_of_the_index(gallery: PersonGallery, client: TestClient) -> None:
    hit = client.post("/search/text", json={"sentence": SENTENCE, "top_k": 1}).json()["hits"][0]
    item = client.get(f"/items/{hit['row']}").json()
    assert item == {name: hit[name] for name in ("row", "name", "image", "metadata")}
    picture = client.get(item["image"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == gallery.image(hit["row"]).size
    assert client.get(f"/items/{hit['row']}?generation=generation-000099").status_code == 404


def test_service_sees_a_new_generation(drawn_photos: Path, embedder: Embedder, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(drawn_photos, tmp_path / "photos"))
    with PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False) as gallery:
        client = client_of(gallery)
        before = client.post("/search/text", json={"sentence": SENTENCE, "top_k": 1}).json()
        Image.effect_noise((40, 80), 90).save(photos / "0.jpg")
        PersonGallery.build(tmp_path / "index", photos, embedder, show_progress=False).close()
        after = client.post("/search/text", json={"sentence": SENTENCE, "top_k": 1}).json()
        assert (before["images"], after["images"]) == (24, 25)
        assert client.get(before["hits"][0]["image"]).status_code == 404
        assert client.get(after["hits"][0]["image"]).status_code == 200
        gallery.path(after["hits"][0]["row"]).write_text("no image")
        assert "cannot be read" in client.get(after["hits"][0]["image"]).json()["detail"]
        manifest = json.loads((tmp_path / "index/manifest.json").read_text())
        (tmp_path / "index/manifest.json").write_text(json.dumps({**manifest, "weights": "of another model"}))
        assert client.get("/health").status_code == 503
        assert client.post("/search/text", json={"sentence": SENTENCE}).headers["retry-after"] == "1"


def test_server_loses_no_answer_of_concurrent_clients(gallery: PersonGallery) -> None:
    sentences = [
        f"a {person} in a {color} coat" for color in ("red", "blue", "black", "grey") for person in ("man", "girl")
    ]
    direct = {sentence: gallery.search_text(sentence, 5) for sentence in sentences}
    with serve_gallery(gallery, token=TOKEN) as address, ThreadPoolExecutor(8) as pool:
        with httpx.Client(base_url=address, timeout=60, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            asked = sentences * 4
            answers = pool.map(lambda text: client.post("/search/text", json={"sentence": text, "top_k": 5}), asked)
            for sentence, answer in zip(asked, answers, strict=True):
                assert_equal_hits(answer, direct[sentence])
            chunks = (bytes(1_000_000) for _ in range(40))  # no Content-Length
            try:
                refused = client.post("/search/image", content=chunks).status_code
            except httpx.TransportError:  # disconnected
                refused = 413
            assert refused >= 400
        assert httpx.get(f"{address}/items/0").status_code == 401
        assert httpx.get(f"{address}/health", headers={"Host": "evil.example"}).status_code == 403


def test_embedder_guards_its_tokenizer_by_a_lock(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast tokenizer is changed by padding and truncation, so that threads would mix them."""
    kind, locked = type(embedder.processor.tokenizer), []
    tokenize = kind.__call__

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        locked.append(embedder._tokenizing.locked())
        return tokenize(self, *arguments, **options)

    monkeypatch.setattr(kind, "__call__", watched)
    for use in (embedder.check_sentence, embedder.remarks, embedder.embed_sentence):
        locked.clear()
        use(SENTENCE)
        assert locked and all(locked)


def test_html_in_names_and_captions_is_only_data(gallery: PersonGallery, client: TestClient) -> None:
    row = gallery.row_of(MALICIOUS)
    for answer in (
        client.get(f"/items/{row}"),
        client.post("/search/text", json={"sentence": SENTENCE, "where": ["person_id == 9"]}),
        client.post("/search/image", files={"image": (MALICIOUS, b"<script>1</script>")}),
    ):
        assert "<img src=x" in answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get(f"/items/{row}").json()["metadata"]["caption"] == "<script>1</script>"


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "-1", "9" * 30, "0/../manifest.json"]
)
def test_items_serve_no_other_file(client: TestClient, path: str) -> None:
    for route in (f"/items/{path}", f"/items/{path}/image", f"/items/0/image/{path}"):
        answer = client.get(route)
        assert answer.status_code in (404, 422) and "root:" not in answer.text


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"sentence": " "}, 400, "the sentence is empty"),
        ({"sentence": "穿红色外套的女人"}, 400, "the model's vocabulary has no word of"),
        ({"sentence": "a man", "without": ""}, 400, "the sentence is empty"),
        ({"sentence": "a man", "where": ["camra = 1"]}, 400, "did you mean camera"),
        ({"sentence": "a man", "where": ["1=1); DROP TABLE gallery; --"]}, 400, "the filter"),
        ({"sentence": "a man", "where": ["path in (select content from read_text('/etc/passwd'))"]}, 400, "the filter"),
        ({"sentence": "a man", "where": ["sleep_ms(60000) is null"]}, 400, "it took longer than"),
        ({"sentence": "a man", "where": ["x" * 10_001]}, 422, "at most 10000 characters"),
        ({"sentence": "a" * 20_001}, 422, "at most 20000 characters"),
        ({"sentence": "a man", "top_k": 10**9}, 422, "less than or equal to 1000"),
        ({"sentence": "a man", "rerank": 1001}, 422, "less than or equal to 1000"),
        ({"sentence": "a man", "min_likelihood": 1.1}, 422, "less than or equal to 1"),
        ({"sentence": "a man", "min_likelihood": 0.5}, 400, "these hits have no likelihood"),
        ({"sentence": "a man", "clothing_weight": -1}, 422, "greater than or equal to 0"),
        ({"sentence": "a man", "clothing_weight": "nan"}, 422, "finite number"),
        ({"sentence": "a" * 12_000_000}, 413, "more than 10 MB"),
        ({}, 422, "Field required"),
        ("a man", 422, "valid dictionary"),
    ],
)
def test_search_text_refuses_bad_queries(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, query: Any, status: int, message: str
) -> None:
    if "sleep_ms" in str(query):
        monkeypatch.setattr(filter_process, "TIME_LIMIT", 0.5)
    answer = client.post("/search/text", json=query)
    assert answer.status_code == status
    assert message in answer.text and len(answer.text) < 1000 and "root:" not in answer.text


@pytest.mark.parametrize(
    ("content", "message"),
    [(_png(20_000, 20_000), "megapixels"), (b"", "zero bytes"), (b"<svg/>", "no image of a known")],
)
def test_search_image_refuses_bad_pictures(client: TestClient, content: bytes, message: str) -> None:
    answer = client.post("/search/image", files={"image": ("a.png", content)})
    assert answer.status_code == 400 and message in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_service_refuses_other_hosts_and_origins(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/items/0"),
        ("POST", "/search/text"),
        ("OPTIONS", "/search/text"),
        ("GET", "/health"),
    ):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    # A form of another page can send text/plain without a preflight request
    plain = {"Content-Type": "text/plain"}
    assert client.post("/search/text", content=json.dumps({"sentence": SENTENCE}), headers=plain).status_code == 422


def test_token_is_required_except_for_health_and_docs(gallery: PersonGallery) -> None:
    client = client_of(gallery, TOKEN, host="0.0.0.0")
    assert [client.get(path).status_code for path in ("/health", "/docs", "/openapi.json")] == [200] * 3
    for path in ("/items/0", "/items/0/image", "//health", "/health/../items/0", "/nowhere"):
        assert client.get(path).status_code == 401
    answer = client.post("/search/text", json={"sentence": SENTENCE}, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    right = {"Authorization": f"Bearer {TOKEN}", "Host": "gallery.example"}
    assert client.post("/search/text", json={"sentence": SENTENCE}, headers=right).status_code == 200


def test_filtered_searches_beyond_the_limit_get_503(gallery: PersonGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_FILTERS", 0)
    client = client_of(gallery)
    answer = client.post("/search/text", json={"sentence": SENTENCE, "where": ["camera > 1"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/search/text", json={"sentence": SENTENCE}).status_code == 200


def test_docs_describe_all_routes_without_other_hosts(client: TestClient) -> None:
    page, schema = client.get("/docs").text, client.get("/openapi.json").json()
    assert {"/search/text", "/search/image", "/search/compose", "/items/{row}", "/health"} < set(schema["paths"])
    assert all(path in page for path in schema["paths"]) and "identity_from" in page
    settings = schema["components"]["schemas"]["TextQuery"]["properties"]
    assert (settings["rerank"]["maximum"], settings["rerank"]["default"]) == (1000, 0)
    assert "min_likelihood" in schema["components"]["schemas"]["ImageQuery"]["properties"]
    assert "<script" not in page and "src=" not in page and "http" not in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--host", "0.0.0.0"],
            "access to personal images on 0.0.0.0 requires a token: give --token, or set BDAM_TOKEN",
        ),
        (["--token", "short"], "the token has less than 16 characters"),
        (["--port", "{port}"], "is in use: choose another with --port, or 0 for a free one"),
        (["--index", "nowhere"], "there is no index"),
    ],
)
def test_serve_prints_errors_in_one_line(gallery: PersonGallery, options: list[str], message: str) -> None:
    with serve_gallery(gallery) as address:
        given = [option.format(port=address.rpartition(":")[2]) for option in options]
        result = CliRunner().invoke(bdam, ["serve", "--index", str(gallery.index), "--device", "cpu", *given])
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_search_image_names_no_path_of_the_server(gallery: PersonGallery, client: TestClient) -> None:
    content = gallery.path(3).read_bytes()
    answer = client.post("/search/image", files={"image": ("a.jpg", content)}, data={"include_self": "true"})
    assert hashlib.sha256(content).hexdigest() not in answer.text
    assert str(gallery.index.parent) not in answer.text
