"""The trained tokenizer is deterministic, lower-casing, saveable, and never outgrows its bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data_pipeline.batches.tokenizer import train_tokenizer

TEXTS = [
    "A slim young woman in a red coat and blue jeans.",
    "The man is wearing a striped shirt, grey trousers and white sneakers.",
    "An elderly woman with a shoulder bag; she wears a red coat.",
    "Young man in blue jeans and a white shirt",
]


def test_training_twice_in_different_processes_gives_the_same_vocabulary() -> None:
    script = (
        "import json, sys; from data_pipeline.batches.tokenizer import train_tokenizer;"
        "print(json.dumps(train_tokenizer(json.loads(sys.argv[1]), vocab_size=150).get_vocab()))"
    )
    root = Path(__file__).parents[3]
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(TEXTS)], cwd=root, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    first, second = (json.loads(run.stdout.splitlines()[-1]) for run in runs)
    assert first == second == train_tokenizer(TEXTS, vocab_size=150).get_vocab()


def test_a_text_is_framed_lower_cased_and_read_back() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    ids = tokenizer("A RED coat")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red coat"
    assert tokenizer.tokenize("red coat") == ["red", "coat"]


def test_special_tokens_come_first_and_ids_are_dense() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


@pytest.mark.parametrize("vocab_size", [20, 100, 5000])
def test_vocabulary_never_exceeds_vocab_size(vocab_size: int) -> None:
    assert len(train_tokenizer(TEXTS, vocab_size=vocab_size)) <= vocab_size


def test_an_unseen_word_is_spelled_not_unknown() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    pieces = tokenizer.tokenize("quixotic 7")
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == "quixotic7"


def test_saved_tokenizer_loads_with_auto_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=12)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 12
    assert loaded.mask_token_id == tokenizer.mask_token_id
    assert dict(loaded(TEXTS)) == dict(tokenizer(TEXTS))


def test_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="every caption is empty"):
        train_tokenizer(["", "  "])


@pytest.mark.parametrize(("argument", "value"), [("vocab_size", 5), ("max_length", 2)])
def test_bounds_too_small_are_errors(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        train_tokenizer(TEXTS, **{argument: value})
