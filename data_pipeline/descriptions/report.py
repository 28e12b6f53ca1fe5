"""Statistics of a descriptions file: coverage, leaks, lengths, duplicates, styles, failures, tokens, cost."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from ..schema import PERSON_FEATURES
from ..sheets.contact_sheet import contact_sheet
from .costs import read_prices
from .images import ImageItems
from .jsonl import read_json_lines
from .lexicon import CLOTHING_ATTRIBUTES
from .store import side_file
from .validation import TEXTS, Problem, Requirements, check_description, coverage, doubts


def read_descriptions(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`file_path`, record) for each line of a descriptions file; a run may be appending to it meanwhile.

    Raises:
        ValueError: `file_path` or a description is missing or not a string; the message has the entry and the key.
        OSError: the file cannot be read.
    """
    for number, (_, record) in enumerate(read_json_lines(file), start=1):
        for key in ("file_path", *TEXTS):
            if not isinstance(record.get(key), str):
                raise ValueError(f"{file}, entry {number}: {key} must be a string, got {record.get(key)!r}")
        yield record["file_path"], record


def check_file(file: Path, requirements: Requirements) -> Iterator[tuple[str, list[Problem]]]:
    """Yields (`file_path`, problems) for each image that a run would have rejected; errors as `read_descriptions`."""
    seen: set[str] = set()
    for file_path, record in read_descriptions(file):
        problems = [Problem("duplicate", "the file has another line for this image")] if file_path in seen else []
        seen.add(file_path)
        problems += check_description(record, requirements)
        if problems:
            yield file_path, problems


def describe_report(file: Path, requirements: Requirements, prices: Path | None = None) -> dict[str, Any]:
    """Computes the statistics of a descriptions file and its files of failures and rejected answers, for JSON.

    Shares are in [0, 1]. `leak_rate` is over all answers, rejected ones included; `leak_rate_kept` is over the kept
    ones. `doubts` counts the findings of the word lists, which reject nothing. `cost` is included if a price table is
    given. Errors as `read_descriptions`.
    """
    table = read_prices(prices) if prices is not None else {}
    total: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    cost = 0.0

    def add_answer(record: dict[str, Any]) -> None:
        nonlocal cost
        usage = dict(record.get("usage") or {})
        total.update(answers=1, paid=bool(usage), estimated=bool(usage.pop("estimated", False)))
        tokens.update(usage)
        if usage and (price := table.get(record.get("model", ""))):
            cost += price.cost(usage, bool(record.get("batch")))

    # Kept descriptions.
    lengths: dict[str, list[int]] = {key: [] for key in TEXTS}
    texts: dict[str, Counter[int]] = {key: Counter() for key in (*TEXTS, "both")}
    counted: dict[str, Counter[str]] = {key: Counter() for key in ("style", "model", "prompt", "attempts")}
    named, kept_problems, repaired, doubted = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for _, record in read_descriptions(file):
        total.update(images=1, captions=bool(record.get("caption")), repaired=bool(record.get("repaired")))
        for key in TEXTS:
            lengths[key].append(len(record[key].split()))
            texts[key][hash(record[key].lower())] += 1
        texts["both"][hash(tuple(record[key].lower() for key in TEXTS))] += 1
        for attributes in coverage(record, requirements).values():
            named.update(name for name, is_named in attributes.items() if is_named)
        kept_problems.update({problem.kind for problem in check_description(record, requirements)})
        repaired.update(record.get("repaired") or ())
        doubted.update(doubts(record, requirements))
        for key, counter in counted.items():
            counter[str(record.get(key) or "none")] += 1
        if "copied_from" not in record:
            add_answer(record)
    # Rejected answers and failures.
    rejected: Counter[str] = Counter()
    for record in _beside(file, "rejected"):
        if "problems" in record:
            add_answer(record)
            total["rejected"] += 1
            rejected.update({problem["kind"] for problem in record["problems"]})
    failed = list(_beside(file, "failed"))
    images, answers = total["images"], total["answers"]
    return {
        "file": str(file),
        "images": images,
        "captions": total["captions"],
        "failed": len(failed),
        "failed_by_kind": dict(Counter(kind for record in failed for kind in record.get("kinds") or ["image"])),
        "answers": answers,
        "paid": total["paid"],
        "repaired": total["repaired"],
        "repaired_by_kind": dict(repaired),
        "doubts": dict(doubted),
        "rejected": total["rejected"],
        "rejected_by_kind": dict(rejected),
        "refusal_rate": _share(rejected["refusal"], answers),
        "leak_rate": _share(rejected["leak"] + kept_problems["leak"], answers),
        "leak_rate_kept": _share(kept_problems["leak"], images),
        "kept_with_problems": dict(kept_problems),
        "coverage": {
            "identity": {name: _share(named[name], images) for name in requirements.identity_attributes},
            "clothing": {name: _share(named[name], images) for name in CLOTHING_ATTRIBUTES},
        },
        "words": {
            key: {"min": min(values), "median": statistics.median(values), "max": max(values)} if values else None
            for key, values in lengths.items()
        },
        "repeated": {key: sum(count for count in counter.values() if count > 1) for key, counter in texts.items()},
        "styles": dict(counted["style"].most_common()),
        "attempts": dict(sorted(counted["attempts"].items())),
        "models": dict(counted["model"]),
        "prompts": dict(counted["prompt"]),
        "tokens": dict(tokens),
        "estimated_answers": total["estimated"],
        **({"cost": cost} if prices is not None else {}),
    }


def failed_images(file: Path, items: ImageItems) -> int:
    """Counts the images with a recorded failure of a descriptions file."""
    failed = {record["file_path"] for record in _beside(file, "failed")}
    return sum(path in failed for path in items.file_paths()) if failed else 0


def contact_sheet_of(file: Path, items: ImageItems, path: Path, count: int = 24) -> None:
    """Draws evenly sampled images of a descriptions file with their texts as one PNG."""
    described = {record["file_path"]: record for _, record in _every(read_descriptions(file), count)}
    rows = []
    unknown = {"person_id": -1, "camera_id": -1, "outfit_id": -1}
    for item in items:
        record = described.get(item.file_path)
        if record is not None:
            texts = {key: record[key] for key in TEXTS}
            captions = [record["caption"]] if record.get("caption") else []
            image = {"bytes": item.read(), "path": None}
            rows.append({"file_path": item.file_path, "image": image, "captions": captions, **unknown, **texts})
    if rows:
        features = Features({"file_path": Value("string"), **PERSON_FEATURES})
        contact_sheet(Dataset.from_list(rows, features=features), path, rows=-(-len(rows) // 8))


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Formats a report of `describe_report` as (name, value) rows of a table."""

    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in values.items()) or "none"

    def by_kind(name: str) -> str:
        return f"{report[name]} ({counts(report[f'{name}_by_kind'])})" if report[name] else "0"

    def shares(kind: str) -> str:
        values = report["coverage"][kind].items() if report["images"] else ()
        return ", ".join(f"{name} {_percent(value)}" for name, value in values) or "none"

    def spread(key: str) -> str:
        values = report["words"][key]
        return "none" if values is None else "{min:g} to {max:g}, median {median:g}".format(**values)

    estimated, kept = report["estimated_answers"], report["kept_with_problems"]
    return [
        ("images described", f"{report['images']}, {report['captions']} with a caption"),
        ("images failed", by_kind("failed")),
        ("answers", f"{report['answers']}, {report['paid']} paid"),
        *([("kept with problems", counts(kept))] if kept else []),
        ("answers repaired", by_kind("repaired")),
        ("answers rejected", by_kind("rejected")),
        ("doubts of the word lists", counts(report["doubts"])),
        ("refusals", _percent(report["refusal_rate"])),
        ("leaks", f"{_percent(report['leak_rate'])} of answers, {_percent(report['leak_rate_kept'])} of those kept"),
        *((f"{kind} coverage", shares(kind)) for kind in report["coverage"]),
        *((f"words in {key.partition('_')[0]} texts", spread(key)) for key in report["words"]),
        ("images with repeated texts", counts(report["repeated"])),
        *((name, counts(report[name])) for name in ("styles", "attempts", "models")),
        ("tokens", counts(report["tokens"]) + (f" ({estimated} answers estimated)" if estimated else "")),
        *([("cost", f"{report['cost']:.4f}")] if "cost" in report else []),
    ]


def _every(values: Iterable[Any], count: int) -> list[Any]:
    """Samples about `count` values evenly from an iterable, in memory for at most twice as many."""
    kept: list[Any] = []
    step = 1
    for number, value in enumerate(values):
        if number % step == 0:
            kept.append(value)
        if len(kept) == 2 * count:
            kept, step = kept[::2], 2 * step
    return kept[:count]


def _beside(file: Path, part: str) -> Iterable[dict[str, Any]]:
    path = side_file(file, part)
    return (record for _, record in read_json_lines(path)) if path.is_file() else ()


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
