"""The trained tokenizer: deterministic, lower-casing, serializable, within its bounds."""

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


def test_train_tokenizer_is_equal_in_every_process() -> None:
    script = (
        "import json, sys; from data_pipeline.batches.tokenizer import train_tokenizer;"
        "print(json.dumps(train_tokenizer(json.loads(sys.argv[1]), vocab_size=150).get_vocab()))"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", script, json.dumps(TEXTS)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == train_tokenizer(TEXTS, vocab_size=150).get_vocab()


def test_tokenizer_adds_cls_and_sep_and_lower_cases() -> None:
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
def test_train_tokenizer_respects_vocab_size(vocab_size: int) -> None:
    assert len(train_tokenizer(TEXTS, vocab_size=vocab_size)) <= vocab_size


def test_tokenizer_spells_an_unseen_word() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    pieces = tokenizer.tokenize("quixotic 7")
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == "quixotic7"


def test_tokenizer_reloads_with_auto_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=12)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 12
    assert loaded.mask_token_id == tokenizer.mask_token_id
    assert dict(loaded(TEXTS)) == dict(tokenizer(TEXTS))


@pytest.mark.parametrize(
    ("texts", "bounds", "message"),
    [
        (["", "  "], {}, "every caption is empty"),
        (TEXTS, {"vocab_size": 5}, "vocab_size=5"),
        (TEXTS, {"max_length": 2}, "max_length=2"),
    ],
)
def test_train_tokenizer_refuses_bad_input(texts: list[str], bounds: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, **bounds)
