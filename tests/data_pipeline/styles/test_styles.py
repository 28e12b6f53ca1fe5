"""Style books: exemplars near the center, unique names, an editable file."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.descriptions.prompts import Style
from data_pipeline.styles.clustering import Clustering
from data_pipeline.styles.style_names import names_by_model, names_by_rules
from data_pipeline.styles.style_plot import style_plot
from data_pipeline.styles.styles import StyleBook, exemplar_rows, make_style_book

BOOK = StyleBook(
    (Style("short list", ("man, red coat", "woman, “blue” hat")), Style("long", ("穿红色外套的男人",))),
    (7, 3),
    {"method": "dbscan"},
)


def _found() -> tuple[list[str], list[str], np.ndarray, Clustering]:
    captions = ["man, coat", "woman, hat", "girl, bag"]
    captions += ["The man wears a coat. He runs.", "The boy wears a hat. He sits."]
    neutral = ["person, something"] * 3
    neutral += ["The person wears something. They run.", "The person wears something. They sit."]
    embeddings = np.array([[0, 0], [0, 0], [0, 0], [5, 0], [5, 1]], dtype=np.float32)
    return captions, neutral, embeddings, Clustering(np.array([0, 0, 0, 1, 1]))


def test_load_reads_back_a_saved_book(tmp_path: Path) -> None:
    BOOK.save(tmp_path / "folder" / "styles.json")

    assert StyleBook.load(tmp_path / "folder" / "styles.json") == BOOK
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["styles.json"]
    assert "穿红色外套的男人" in (tmp_path / "folder" / "styles.json").read_text(encoding="utf-8")


def test_draw_is_uniform_and_seeded() -> None:
    rng = random.Random(0)
    drawn = [BOOK.draw(rng).name for _ in range(200)]

    assert 70 < drawn.count("long") < 130
    assert drawn[:20] == [BOOK.draw(again).name for again in [random.Random(0)] for _ in range(20)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda book: book.pop("format"), "with `bdam describe styles`"),
        (lambda book: book["styles"].clear(), "at least one style"),
        (lambda book: book["styles"][1].pop("name"), "style 2: no key `name`"),
        (lambda book: book["styles"][0].update(exemplars="man"), "style 1: `exemplars` must be a list"),
        (lambda book: book["styles"][0].update(exemplars=[4]), "style 1: an exemplar is 4, not a string"),
        (lambda book: book["styles"][0].update(name="long"), "two styles have the name 'long'"),
        (lambda book: book["styles"].append("x"), "style 3: no key `name`"),
    ],
)
def test_load_names_the_invalid_entry(change, message: str, tmp_path: Path) -> None:
    file = tmp_path / "styles.json"
    BOOK.save(file)
    book = json.loads(file.read_text(encoding="utf-8"))
    change(book)
    file.write_text(json.dumps(book), encoding="utf-8")

    with pytest.raises(ValueError, match=message):
        StyleBook.load(file)


def test_make_style_book_uses_original_captions() -> None:
    captions, neutral, embeddings, clustering = _found()

    book = make_style_book(captions, neutral, embeddings, clustering, names_by_rules, num_exemplars=2)

    assert book.sizes == (3, 2)
    assert [style.name for style in book.styles] == [
        "short list, “person, something”",
        "short sentences, “The person wears something”",
    ]
    assert set(book.styles[0].exemplars) < set(captions[:3]) and len(book.styles[0].exemplars) == 2
    assert set(book.styles[1].exemplars) == set(captions[3:])


def test_exemplar_rows_differ_and_vary_in_wording() -> None:
    captions = [*(f"a{number}" for number in range(10)), "b", "a0", *(f"c{number}" for number in range(12))]
    neutral = [*("a" for _ in range(10)), "b", "a", *("c" for _ in range(12))]
    embeddings = np.array([[0.0]] * 10 + [[0.1]] + [[0.0]] + [[3.0]] * 6 + [[-3.0]] * 6)

    chosen = exemplar_rows(captions, neutral, embeddings, np.arange(24), 4, seed=0)

    assert len({captions[row] for row in chosen}) == 4
    assert 10 in chosen[:2]
    assert not {neutral[row] for row in chosen} - {"a", "b"}


def test_names_by_model_are_unique_with_fallback_to_rules() -> None:
    asked = []

    def ask(texts: list[str]) -> list[str]:
        asked.extend(texts)
        return [' "Keyword list." ', "keyword\nlist", "", "Keyword list", "I'm sorry, I cannot help."]

    exemplars, neutral = [["man, coat"]] * 5, [["person, something"]] * 5

    names = names_by_model(ask)(exemplars, neutral)

    rules = "short list, “person, something”"
    assert names == ["Keyword list", rules, f"{rules} (2)", "Keyword list (2)", f"{rules} (3)"]
    assert json.loads(asked[0]) == ["man, coat"]


@pytest.mark.parametrize("repeats", [1, 3])  # projected by PCA, by t-SNE
def test_style_plot_draws_few_and_many_wordings(repeats: int, tmp_path: Path) -> None:
    captions, neutral, embeddings, clustering = _found()
    captions, neutral = [f"{text} ${number}$" for number in range(repeats) for text in captions], neutral * repeats
    embeddings = np.concatenate([embeddings + 0.01 * number for number in range(repeats)])
    clustering = Clustering(np.tile(clustering.labels, repeats))
    book = make_style_book(captions, neutral, embeddings, clustering, names_by_rules)

    png = style_plot(tmp_path / "styles.png", book, clustering, captions, embeddings)

    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["styles.png"]
