"""Time and memory of matching heads by sequence length, and the rate of re-ranking from stored tokens.

`python tests/benchmarks/matching_cost.py [--device cuda]`: forward and backward of one pair per head, medians of rounds
in turns; then 1,000 candidates of one caption with the sizes of the preset `tiny`.
"""

import argparse
import resource
from typing import Any

import torch
from timing import medians, time_in_turns

from modeling_bdam import BDAMConfig
from modeling_bdam.matching_bdam import MatchingHead

HEADS: dict[str, dict[str, Any]] = {
    "mamba": {"matching_bidirectional": False},
    "bidirectional mamba": {},
    "transformer, 4 layers": {"matching_block": "transformer", "num_matching_layers": 4},
    "attention": {"matching_block": "attention"},
    "mlp": {"matching_block": "mlp"},
}
SIZES: dict[str, Any] = {"hidden_size": 192, "num_bdam_heads": 6, "mamba_state_size": 4, "use_matching": True}
TEXT = 32  # text tokens of each sequence; the other tokens are those of the image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.0, help="above 0, no fused kernel of attention may run")
    options = parser.parse_args()
    torch.manual_seed(0)
    sizes = SIZES | {"dropout": options.dropout}
    heads = {name: MatchingHead(BDAMConfig(**sizes, **fields)).to(options.device) for name, fields in HEADS.items()}
    print(f"{options.pairs} pairs, forward and backward, milliseconds on {options.device}")
    print(f"{'tokens':>6} " + " ".join(f"{name:>22}" for name in heads) + "  transformer / bidirectional mamba")
    for length in options.lengths:
        image = torch.randn(options.pairs, 1, length - TEXT, 192, device=options.device)
        text = torch.randn(options.pairs, TEXT, 192, device=options.device)
        mask = torch.ones(options.pairs, TEXT, device=options.device)

        def run(head: MatchingHead, image: Any = image, text: Any = text, mask: Any = mask) -> float:
            head(image, text, mask)[0].sum().backward()
            return float(next(head.parameters()).detach().sum())  # waits for the device

        seconds = time_in_turns({name: lambda head=head: run(head) for name, head in heads.items()}, options.rounds)
        times = {name: 1000 * medians(each)[0] for name, each in seconds.items()}
        ratio = times["transformer, 4 layers"] / times["bidirectional mamba"]
        print(f"{length:6d} " + " ".join(f"{times[name]:22.1f}" for name in heads) + f"  {ratio:.2f}", flush=True)

    head = heads["bidirectional mamba"].eval()
    image = torch.randn(1, 1000, 16, 192, device=options.device)
    text, mask = torch.randn(1, 25, 192, device=options.device), torch.ones(1, 25, device=options.device)

    def rerank() -> float:
        with torch.no_grad():
            return float(head(image, text, mask)[0].sum())

    clock, _ = medians(time_in_turns({"rerank": rerank}, options.rounds)["rerank"])
    print(f"1,000 candidates of one caption from stored tokens: {clock:.2f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
