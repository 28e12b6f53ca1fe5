"""Tests of pushing to and pulling from a Hub with the real client, against the server of tests/loopback_hub.py."""

import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modeling_bdam.evaluation.table import PROTOCOLS

from ..command import tiny_settings

ROOT = Path(__file__).parents[2]
SETTINGS = tiny_settings(training={"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True})
# Blocks this package: importing it raises ImportError.
WITHOUT_PACKAGE = 'import sys; sys.modules["modeling_bdam"] = sys.modules["run_t2i_reid"] = None\n'
EMBED = """
import json
import sys
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

torch.set_num_threads(1)  # sums depend on it
image = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
for result, (source, where) in json.loads(sys.argv[1]).items():
    where["trust_remote_code"] = True
    assert AutoConfig.from_pretrained(source, **where).model_type == "bdam"
    model, processor = AutoModel.from_pretrained(source, **where), AutoProcessor.from_pretrained(source, **where)
    with torch.no_grad():
        images = model.get_image_features(**processor(images=[image, image.rotate(90)], return_tensors="pt"))
        texts = model.get_text_features(**processor(text=["a man in a red coat", "a woman"], return_tensors="pt"))
    save_file({"images": images.pooler_output, "texts": texts.pooler_output}, result)
    print(type(model).__module__)
"""
Source = tuple[str, dict[str, str]]  # a folder or repository, and revision or subfolder


@dataclass
class Client:
    """Starts processes that use the loopback Hub, each `home` with its own cache."""

    hub: Any
    folder: Path

    def start(self, program: list[str], home: str) -> subprocess.Popen[str]:
        folder = self.folder / home
        folder.mkdir(exist_ok=True)
        environment = self.hub.environment(folder / "home") | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, *program], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, program: list[str], home: str = "client") -> str:
        process = self.start(program, home)
        printed, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        return printed

    def train(self, output: Path, *flags: str) -> str:
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps(SETTINGS))
        arguments = [f"--config={settings}", f"--output_dir={output}", f"--cache_dir={self.folder / 'data'}", *flags]
        return self.run([str(ROOT / "run_t2i_reid.py"), *arguments])

    def embed(self, home: str, before: str, **sources: Source) -> dict[str, dict[str, Any]]:
        """Computes vectors of two images and two texts by the model of each source, in a new process."""
        results = {name: str(self.folder / f"{home}-{name}.safetensors") for name in sources}
        wanted = json.dumps({results[name]: source for name, source in sources.items()})
        # -I: neither the working directory nor PYTHONPATH is searched for modules.
        printed = self.run(["-I", "-c", before + EMBED, wanted], home)
        assert printed.count("transformers_modules") == (len(sources) if before == WITHOUT_PACKAGE else 0)
        return {name: load_file(result) for name, result in results.items()}


@pytest.fixture(scope="module")
def client(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(hub, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def pushed(client: Client) -> Path:
    """Output folder of a run that pushed its checkpoints, model and card to me/tiny."""
    folder = client.folder / "run"
    logged = ("--report_to=tensorboard", "--logging_steps=1")
    client.train(folder, "--push_to_hub", "--hub_model_id=me/tiny", "--hub_strategy=all_checkpoints", *logged)
    return folder


@pytest.fixture(scope="module")
def middle(client: Client, pushed: Path) -> tuple[str, dict[str, bytes]]:
    """The commit that was pushed during training, and its files."""
    repository = client.hub.repositories["model", "me/tiny"]
    return list(repository.commits.items())[repository.messages.index("Training in progress, step 2")]


@pytest.fixture(scope="module")
def pulled(client: Client, pushed: Path, middle: tuple[str, dict[str, bytes]]) -> dict[str, dict[str, Any]]:
    """Vectors by the models on the Hub, in a process without the package."""
    return client.embed(
        "clean",
        WITHOUT_PACKAGE,
        end=("me/tiny", {}),
        middle=("me/tiny", {"revision": middle[0]}),
        folder=("me/tiny", {"subfolder": "checkpoint-2"}),
        checkpoint=(str(pushed / "checkpoint-2"), {}),
    )


@pytest.fixture(scope="module")
def trained(client: Client, pushed: Path) -> dict[str, dict[str, Any]]:
    """Vectors by the models in the output folder, in a process with the package."""
    here = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import modeling_bdam\n"
    folders = {"end": pushed, "middle": pushed / "checkpoint-2", "later": pushed / "checkpoint-4"}
    return client.embed("here", here, **{name: (str(folder), {}) for name, folder in folders.items()})


def assert_same_tensors(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(value.equal(other[name]) for name, value in one.items())


def test_pulled_model_equals_the_trained_model(pulled: dict[str, Any], trained: dict[str, Any]) -> None:
    assert_same_tensors(pulled["end"], trained["end"])


def test_push_during_training_contains_the_code(
    middle: tuple[str, dict[str, bytes]], pulled: dict[str, Any], trained: dict[str, Any]
) -> None:
    files = middle[1]
    assert {"modeling_bdam.py", "processing_bdam.py", "README.md"} <= files.keys()
    assert "eval_results.json" not in files  # the run had not finished
    assert_same_tensors(pulled["middle"], trained["middle"])
    assert not pulled["middle"]["images"].equal(trained["later"]["images"])


def test_checkpoint_loads_from_disk_and_from_the_hub(pulled: dict[str, Any], trained: dict[str, Any]) -> None:
    assert_same_tensors(pulled["folder"], trained["middle"])
    assert_same_tensors(pulled["checkpoint"], trained["middle"])


def test_model_index_of_the_card_equals_the_results(client: Client, pushed: Path) -> None:
    files = client.hub.repositories["model", "me/tiny"].files
    assert files["README.md"] == (pushed / "README.md").read_bytes()
    data: Any = ModelCard(files["README.md"].decode()).data
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert {"text-to-image-retrieval", "person-re-identification"} <= set(data.tags)
    assert data.license == "apache-2.0"
    short = {protocol: prefix for prefix, protocol in PROTOCOLS.items()}
    assert {result.dataset_name for result in data.eval_results} == {"synthetic"}
    indexed = {f"eval_{short[r.dataset_config]}{r.metric_type}": r.metric_value for r in data.eval_results}
    results = json.loads((pushed / "eval_results.json").read_text())
    assert indexed == {
        name: results[name] for name in results if not name.startswith(("eval_absent", "eval_described_i"))
    }
    assert len(indexed) == len(data.eval_results)
    assert all(result.metric_args["seed"] == 42 for result in data.eval_results)


def test_card_contains_the_results_of_the_run(pushed: Path) -> None:
    text = (pushed / "README.md").read_text()
    results = json.loads((pushed / "eval_results.json").read_text())
    row = next(line for line in text.splitlines() if line.startswith("| synthetic | standard |"))
    figures = [f"{100 * results[f'eval_{name}']:.2f}" for name in ("rank1", "rank5", "rank10", "mAP", "mINP")]
    beta = json.loads((pushed / "config.json").read_text())["clothing_weight"]  # chosen on the validation split
    assert row == f"| synthetic | standard | {beta:g} | 42 | " + " | ".join(figures) + " |"
    groups = json.loads((pushed / "group_results.json").read_text())["synthetic"]
    for values in groups.values():
        assert sum(value["queries"] for value in values.values()) == 5 * 6 * 2  # people, images, captions
        mean = sum(value["rank1"] * value["queries"] for value in values.values()) / 60
        assert mean == pytest.approx(results["eval_rank1"])
    assert "| steps | 4 |" in text
    assert "72 images of 12 people with 144 captions" in text
    assert not re.search(r"\{\{|\{%|None|undefined|\n\n\n", text)


def test_tensorboard_receives_losses_metrics_and_picture(pushed: Path) -> None:
    events = EventAccumulator(str(next((pushed / "runs").iterdir()))).Reload()
    results = json.loads((pushed / "eval_results.json").read_text())
    for task in ("info", "triplet", "adversarial", "decouple", "match"):
        for kind in ("loss", "weight", "gradient_norm"):
            assert [event.step for event in events.Scalars(f"train/{kind}_{task}")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("eval/rank1")] == [2, 4, 4]  # the last of the test split
    assert events.Scalars("eval/rank1")[-1].value == pytest.approx(results["eval_rank1"])
    (picture,) = events.Images("retrieval")
    with Image.open(pushed / "retrieval.png") as expected, Image.open(io.BytesIO(picture.encoded_image_string)) as seen:
        assert seen.size == expected.size


def test_example_of_the_card_runs(client: Client, pushed: Path) -> None:
    text = client.hub.repositories["model", "me/tiny"].files["README.md"].decode()
    snippet = text.partition("```python\n")[2].partition("```")[0]
    folder = client.folder / "snippet"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 90), "red").save(folder / name)
    assert client.run(["-I", "-c", WITHOUT_PACKAGE + snippet], "snippet").count("tensor([[") == 2


PUSH = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import modeling_bdam
from huggingface_hub import create_branch, create_repo
from transformers import AutoModel
repository, *sources = sys.argv[1:]
for source in sources:
    folder, _, branch = source.partition("@")
    create_repo(repository, exist_ok=True)
    if branch != "main":
        create_branch(repository, branch=branch)
    AutoModel.from_pretrained(folder).push_to_hub(repository, max_shard_size="20KB", revision=branch)
"""
PULL = """
import sys
from transformers import AutoModel
for revision in ("old", "main"):
    model = AutoModel.from_pretrained("me/shards", trust_remote_code=True, revision=revision)
    model.save_pretrained(revision)
"""


@pytest.mark.slow
def test_shards_and_revisions_can_be_pushed_and_pulled(client: Client, pushed: Path) -> None:
    sources = {"old": pushed / "checkpoint-2", "main": pushed}
    client.run(["-c", PUSH, "me/shards", *(f"{folder}@{branch}" for branch, folder in sources.items())])
    files = client.hub.repositories["model", "me/shards"].files
    assert sum(path.endswith(".safetensors") for path in files) > 2
    assert "model.safetensors.index.json" in files
    client.run(["-I", "-c", WITHOUT_PACKAGE + PULL], "shards")
    for branch, folder in sources.items():
        back = load_file(client.folder / "shards" / branch / "model.safetensors")
        assert_same_tensors(back, load_file(folder / "model.safetensors"))


def test_interrupted_upload_is_atomic_and_resumes(client: Client, pushed: Path) -> None:
    arguments = ["-c", PUSH, "me/interrupted", f"{pushed}@main"]
    client.hub.uploads_left = 1
    process = client.start(arguments, "broken")
    assert client.hub.dropped.wait(300)
    process.kill()
    process.communicate()
    client.hub.uploads_left = None
    repository = client.hub.repositories["model", "me/interrupted"]
    assert repository.files == {}
    (arrived,) = repository.large

    client.hub.log.clear()
    client.run(arguments, "again")
    sent = [line.rpartition("/")[2] for line in client.hub.log if line.startswith("PUT /upload/")]
    assert len(sent) == sum(path.endswith(".safetensors") for path in repository.files) - 1
    assert arrived not in sent


def test_command_evaluates_a_model_of_the_hub(client: Client, pushed: Path) -> None:
    folder = client.folder / "evaluated"
    client.train(folder, "--do_eval", "--model_name_or_path=me/tiny")
    found, expected = (json.loads((path / "eval_results.json").read_text()) for path in (folder, pushed))
    assert found == expected
    assert "Not part of the run that wrote this card" in (folder / "README.md").read_text()


def test_no_push_contains_the_pickled_arguments(client: Client, pushed: Path) -> None:
    pushes = client.hub.repositories["model", "me/tiny"].commits.values()
    files = {name for files in pushes for name in files}
    assert "training_args.json" in files
    assert not [name for name in files if "training_args.bin" in name]
    assert not (pushed / "_training_args.bin").exists()
