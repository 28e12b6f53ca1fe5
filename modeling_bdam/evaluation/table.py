"""The results table: metrics of a test split by model and protocol, in per cent."""

from collections.abc import Sequence

# Prefix of the metric names to the name of the protocol.
PROTOCOLS = {
    "": "standard",
    "reranked_": "re-ranked",
    "described_": "described gallery",
    "clothes_changing_": "clothes-changing",
    "composed_": "composed",
    "composed_picture_": "picture only",
    "composed_words_": "words only",
}
IDENTITY_ONLY = ("clothes-changing", "picture only")  # protocols with β = 0
METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}


def results_table(rows: Sequence[tuple[str, dict[str, float], float | None]], key: str, size: str) -> str:
    """Formats the metrics of one test split.

    Args:
        rows: for each model its name, its metrics as fractions, and its β; None where the model has no β.
        key: prefix of the metric names, such as `eval`.
        size: size of the split, for the heading.
    """
    lines = [
        f"{key.replace('eval', 'test', 1)} split: {size}; per cent",
        f"{'model':20} {'protocol':18} {'β':>4} " + " ".join(f"{name:>7}" for name in METRICS),
    ]
    for model, metrics, clothing_weight in rows:
        for prefix, protocol in PROTOCOLS.items():
            if f"{key}_{prefix}rank1" not in metrics:
                continue
            beta = 0.0 if protocol in IDENTITY_ONLY else clothing_weight
            shown = "" if clothing_weight is None else f"{beta:g}"
            values = " ".join(f"{100 * metrics[f'{key}_{prefix}{name}']:7.2f}" for name in METRICS)
            lines.append(f"{model:20} {protocol:18} {shown:>4} {values}")
    for model, metrics, _ in rows:
        if f"{key}_described_image_weight" in metrics:
            weight = metrics[f"{key}_described_image_weight"]
            lines.append(f"{model}: weight of the image in the described gallery {weight:.2f}. Descriptions of the")
            lines[-1] += " synthetic set are an oracle: the true traits of the drawing"
    for model, metrics, _ in rows:
        if f"{key}_absent_found" in metrics:
            found, false = (f"{100 * metrics[f'{key}_absent_{name}']:.2f} %" for name in ("found", "false"))
            lines.append(
                f'{model}: "probably not in this gallery" for {found} of the captions whose person is not in it'
            )
            lines[-1] += f" and for {false} of the others"
    return "\n".join(lines)


__all__ = ["IDENTITY_ONLY", "METRICS", "PROTOCOLS", "results_table"]
