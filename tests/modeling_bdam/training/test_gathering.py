"""Two gloo processes, started by torchrun, against one process with all rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import modeling_bdam
from modeling_bdam.outputs_bdam import BDAMOutput
from modeling_bdam.training.gathering import gather_outputs, whole_batch_norms

PROGRAM = """
import json, sys
import torch
from accelerate import Accelerator
from modeling_bdam.training.gathering import (
    end_process_group,
    gather_labels,
    gather_outputs,
    gather_with_gradient,
    whole_batch_norms,
)
from modeling_bdam.outputs_bdam import BDAMOutput

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
everything = torch.arange(12.0).reshape(4, 3).sin()
rows = everything[2 * rank : 2 * rank + 2].clone().requires_grad_()
gathered = gather_with_gradient(rows)
(rows @ gathered.T).square().mean().backward()

outputs = gather_outputs(BDAMOutput(image_identity_embeds=rows, logit_scale=torch.tensor(3.0)), accelerator)
length = 2 + rank  # texts of the second process are longer
inputs = {}
for kind in ("identity", "clothing"):
    inputs[f"{kind}_input_ids"] = torch.tensor([[5, 6, 9][:length], [7, 8, 9][:length]])
    inputs[f"{kind}_attention_mask"] = torch.tensor([[1, 1, 0][:length], [1, 1, 1][:length]])
labels = gather_labels(torch.tensor([rank, 8]), inputs, accelerator)
result = {
    "processes": accelerator.num_processes,
    "gathered": gathered.tolist(),
    "gradient": rows.grad.tolist(),
    "fields": sorted(outputs.keys()),
    "people": labels.all_person_ids.tolist(),
    "offset": labels.offset,
    "same_identity": labels.same_identity.tolist(),
    "same_clothing": labels.same_clothing.tolist(),
    "norms": whole_batch_norms(torch.tensor([3.0 + rank, 0.0]), accelerator).tolist(),
}
with open(sys.argv[1] + str(rank), "w") as file:
    json.dump(result, file)
end_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results of each of the two processes."""
    folder = tmp_path_factory.mktemp("gathering")
    program = folder / "program.py"
    program.write_text(PROGRAM)
    source = str(Path(modeling_bdam.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", program, folder / "rank"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source},
        check=True,
        timeout=120,
    )
    return [json.loads((folder / f"rank{rank}").read_text()) for rank in range(2)]


def test_gather_with_gradient_equals_one_process(results: list[dict[str, Any]]) -> None:
    rows = torch.arange(12.0).reshape(4, 3).sin().requires_grad_()
    (rows @ rows.T).square().mean().backward()  # the mean of the losses of both processes
    for result in results:
        assert result["processes"] == 2
        torch.testing.assert_close(torch.tensor(result["gathered"]), rows.detach())
    gradient = torch.cat([torch.tensor(result["gradient"]) for result in results])
    torch.testing.assert_close(gradient / 2, rows.grad)  # DDP divides by the number of processes


def test_gather_outputs_gathers_compared_fields_only(results: list[dict[str, Any]]) -> None:
    assert all(result["fields"] == ["image_identity_embeds"] for result in results)


def test_gather_labels_compares_texts_of_any_length(results: list[dict[str, Any]]) -> None:
    # Texts without padding: process 0 has [5 6] and [7 8], process 1 has [5 6] and [7 8 9]; person 8 is on both
    yes, no = True, False
    assert [result["people"] for result in results] == [[0, 8, 1, 8]] * 2
    assert [result["offset"] for result in results] == [0, 2]
    assert [result["same_identity"] for result in results] == [[[yes, no, yes, no], [no, yes, no, yes]]] * 2
    assert results[0]["same_clothing"] == [[yes, no, yes, no], [no, yes, no, no]]
    assert results[1]["same_clothing"] == [[yes, no, yes, no], [no, no, no, yes]]


def test_whole_batch_norms_joins_norms_of_processes(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["norms"] == pytest.approx([5 / 2, 0.0])  # sqrt(3² + 4²) / 2


def test_single_process_gathers_nothing() -> None:
    accelerator, output = Accelerator(cpu=True), BDAMOutput(gate=torch.ones(2))
    assert gather_outputs(output, accelerator) is output
    norms = torch.tensor([1.0, 2.0])
    assert whole_batch_norms(norms, accelerator) is norms
