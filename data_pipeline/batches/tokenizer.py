"""Trains a small WordPiece tokenizer on the captions of a data set, for text towers trained from scratch."""

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORD_START = "\u2581"  # the character that Metaspace puts before a word


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096, max_length: int = 64) -> PreTrainedTokenizerFast:
    """Trains a lower-casing WordPiece tokenizer like BERT's; deterministic for the same texts.

    `vocab_size` is an upper bound (few texts give fewer pieces) that includes the special tokens [PAD] = 0, [UNK] = 1,
    [CLS] = 2, [SEP] = 3, [MASK] = 4. `max_length` becomes `model_max_length`, in tokens, with [CLS] and [SEP].
    Raises `ValueError` if `texts` has no text, or if `vocab_size` leaves no room beside the special tokens.
    """
    if vocab_size <= len(_SPECIAL_TOKENS):
        raise ValueError(f"vocab_size={vocab_size} must be larger than the {len(_SPECIAL_TOKENS)} special tokens.")
    if max_length < 3:
        raise ValueError(f"max_length={max_length} must leave room for [CLS], [SEP] and at least one token.")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("No text to train the tokenizer on: every caption is empty.")

    vocabulary = {piece: index for index, piece in enumerate(_learn_pieces(texts, vocab_size))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{token.strip('[]').lower()}_token": token for token in _SPECIAL_TOKENS},
    )


def _learn_pieces(texts: list[str], vocab_size: int) -> list[str]:
    """Returns at most `vocab_size` WordPiece pieces: special tokens, letters, then longer pieces by frequency.

    The pieces are byte-pair merges (BPE) of words with a marked start. The WordPiece trainer of `tokenizers` is not
    deterministic: it numbers its `##` letters in hash-table order, which differs between processes.
    """
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=list(string.ascii_lowercase + string.digits),  # so that an unseen word can still be spelled
    )
    learner.train_from_iterator(texts, trainer=trainer)
    vocabulary = learner.get_vocab()
    merged = sorted(vocabulary, key=vocabulary.__getitem__)
    letters = [piece for piece in merged if len(piece) == 1 and piece != _WORD_START]
    pieces = [piece[1:] if piece.startswith(_WORD_START) else f"##{piece}" for piece in merged if len(piece) > 1]
    ordered = [*_SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *pieces]
    return list(dict.fromkeys(ordered))[:vocab_size]
