"""Appended lines survive a killed process, a full disk and concurrent readers."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.descriptions.jsonl import JsonLinesFile, read_json_lines
from data_pipeline.descriptions.store import DescriptionStore

USAGE = {"prompt_tokens": 700, "completion_tokens": 90}


def description(name: str, key: str, **more: Any) -> dict[str, Any]:
    texts = {"identity_description": f"body {name}", "clothing_description": f"clothes {name}"}
    return {"file_path": name, **texts, "key": key, "model": "m", "usage": USAGE, **more}


def rejected(key: str, answer: str = "") -> dict[str, Any]:
    return {"key": key, "answer": answer, "problems": [], "model": "m", "usage": USAGE}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "descriptions.jsonl"


@pytest.mark.parametrize("tail", [b'{"a": 3', b'{"a": "\xc3', b'{"a": 3}'])
def test_file_repairs_an_unfinished_last_line(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n' + tail)
    with JsonLinesFile(path) as file:
        file.append({"a": 4})
    expected = [1, 2, 3, 4] if tail.endswith(b"}") else [1, 2, 4]
    assert [json.loads(line)["a"] for line in path.read_bytes().splitlines()] == expected


def test_file_refuses_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"my diary")
    with pytest.raises(ValueError, match="not a JSON Lines file"):
        JsonLinesFile(path)
    assert path.read_bytes() == b"my diary"


def test_readers_see_complete_lines_during_appends(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with JsonLinesFile(path) as file:
        writer = threading.Thread(target=lambda: [file.append({"n": n, "text": "ä" * (n % 3000)}) for n in range(2000)])
        writer.start()
        seen = 0
        while writer.is_alive():
            numbers = [value["n"] for _, value in read_json_lines(path)]
            assert numbers == list(range(len(numbers)))
            seen = max(seen, len(numbers))
        writer.join()
    assert len(list(read_json_lines(path))) == 2000 and seen > 0


def test_append_truncates_a_partial_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    write = os.write
    with JsonLinesFile(path) as file:
        file.append({"a": 1})
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(OSError, match="only 5 of"):
            file.append({"a": 2})
        monkeypatch.undo()
        file.append({"a": 3})
    assert path.read_text() == '{"a": 1}\n{"a": 3}\n'


def test_store_names_a_malformed_line(output: Path) -> None:
    output.parent.mkdir()
    output.write_text('{"file_path": "a"}\nnot json\n')
    with pytest.raises(ValueError, match=r"descriptions.jsonl, line 2: invalid JSON"):
        DescriptionStore(output)


def test_store_reads_back_all_records(output: Path) -> None:
    with DescriptionStore(output) as store:
        store.add_rejected(rejected("k1", "first"))
        store.add_rejected(rejected("k1", "second"))
        store.add_description(description("a", "k1"))
        store.add_failure({"file_path": "b", "key": "k2", "reason": "why"})
    with DescriptionStore(output) as store:
        assert store.key_of("a") == "k1" and store.key_of("b") is None
        described = store.described_as("k1")
        assert described is not None and described["file_path"] == "a"
        count, last = store.rejected("k1")
        assert count == 2 and last is not None and last["answer"] == "second"
        assert store.failures["b"]["reason"] == "why"
        assert store.answers == 3 and store.tokens == {"prompt_tokens": 2100, "completion_tokens": 270}
        assert store.same_texts(description("a", "")) == 1


def test_reopen_failures_resets_their_attempts(output: Path) -> None:
    with DescriptionStore(output) as store:
        store.add_rejected(rejected("k"))
        store.add_failure({"file_path": "a", "key": "k", "reason": "why"})
        store.reopen_failures()
    with DescriptionStore(output) as store:
        assert not store.failures and store.rejected("k") == (0, None)
        assert store.answers == 1  # the answer still counts as paid


def test_supersede_keeps_descriptions_under_their_key(output: Path) -> None:
    with DescriptionStore(output) as store:
        for name in "abc":
            store.add_description(description(name, f"key {name}"))
        store.supersede(["b"])
        assert [record["file_path"] for record in store.descriptions()] == ["a", "c"]
        store.add_description(description("d", "key d"))
        record = store.described_as("key d")
        assert record is not None and record["file_path"] == "d"
    with DescriptionStore(output) as store:
        record = store.described_as("key b")
        assert record is not None and record["file_path"] == "b"
        assert store.key_of("b") is None and len(store) == 3
        assert store.answers == 4


def test_store_refuses_a_second_writer(output: Path) -> None:
    with DescriptionStore(output), pytest.raises(BlockingIOError, match="locked by another process"):
        DescriptionStore(output)
    DescriptionStore(output).close()
