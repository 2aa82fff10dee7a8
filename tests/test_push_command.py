"""`sam-variants push`: any checkpoint in, a repository on the Hub out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import tiny_model as official_model
from huggingface_hub import ModelCard, snapshot_download
from local_hub import LocalHub
from safetensors.torch import load_file, save_file
from test_push_folder import ON_HUB, writes
from tiny import save_tiny, tiny_model
from transformers import AutoModel
from typer.testing import CliRunner

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.checksums import sha256_of
from sam_variants.hub.repo_folder import write_repo_folder
from sam_variants.hub.saved_weights import checkpoint_checksums
from sam_variants.hub_scripts import cli, push_staging
from sam_variants.hub_scripts.export_remote_code import DOOR, code_files, export_remote_code
from sam_variants.processing.processor_for import processor_for

REPORTS = Path(__file__).parent / "evaluation_reports"


def run(*arguments: Any, fails: bool = False) -> str:
    """What `sam-variants push` printed; of a failure, the error."""
    done = CliRunner().invoke(cli.app, ["push", *map(str, arguments)], prog_name="sam-variants")
    assert (done.exit_code != 0) is fails, done.output
    return done.stderr if fails else done.stdout


def run_json(*arguments: Any) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json"))


def save_theirs(folder: Path) -> Path:
    """A checkpoint in transformers' layout, without a card."""
    model, layout = official_model("sam2"), "transformers-sam2-video"
    LAYOUTS[layout].config_to(model.config).save_pretrained(folder)
    tensors = {name: tensor.clone() for name, tensor in export_state_dict(model, layout).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def test_ours_is_pushed_as_it_is_and_stays_as_it_is(hub: LocalHub, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = run(folder, "me/tiny", "--license", "MIT", "--message", "First")
    assert f"one commit: {hub.url}/me/tiny/commit/" in told
    assert hub.titles("me/tiny") == ["First", "initial commit"]
    assert sorted(hub.files("me/tiny")) == ON_HUB
    assert {name: hub.files("me/tiny")[name] for name in before} == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert ModelCard.load("me/tiny").data.license == "mit"
    assert "nothing has changed" in run(folder, "me/tiny")
    assert len(hub.titles("me/tiny")) == 2


def test_a_dry_run_shows_exactly_the_files(hub: LocalHub, folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"secret")
    told = run_json(folder, "me/tiny", "--license", "mit", "--dry-run", "--private", "--revision", "trial")
    assert writes(hub) == []
    assert not hub.hub.repos
    assert told["left_out"] == ["optimizer.pt"]
    run(folder, "me/tiny", "--license", "mit")
    pushed = {path: len(content) for path, content in hub.files("me/tiny").items() if path != ".gitattributes"}
    assert {file["path"]: file["size"] for file in told["files"]} == pushed
    assert {file["change"] for file in told["files"]} == {"new"}
    since = len(hub.hub.log)
    assert "has nothing to change" in run(folder, "me/tiny", "--dry-run")
    assert "would push" in run(folder, "me/tiny", "--dry-run", "--max-shard-size", "150KB")
    assert writes(hub, since) == []
    hub.stop()
    assert "not compared with the Hub" in run(folder, "me/tiny", "--license", "mit", "--dry-run")


def test_shards_then_none(hub: LocalHub, folder: Path) -> None:
    run(folder, "me/tiny", "--license", "mit", "--max-shard-size", "150KB")
    sharded = {name: load for name, load in hub.files("me/tiny").items() if name.endswith(".safetensors")}
    assert len(sharded) > 1
    assert "model.safetensors.index.json" in hub.files("me/tiny")
    AutoModel.from_pretrained("me/tiny")
    told = run_json(folder, "me/tiny")
    assert {file["path"] for file in told["files"] if file["change"] == "deleted"} == {
        *sharded,
        "model.safetensors.index.json",
    }
    assert sorted(hub.files("me/tiny")) == ON_HUB


def test_a_pull_request_to_a_private_repository(hub: LocalHub, folder: Path) -> None:
    run(folder, "me/tiny", "--license", "mit", "--private")
    told = run(folder, "me/tiny", "--license", "apache-2.0", "--create-pr")
    assert f"pull request: {hub.url}/me/tiny/discussions/1" in told
    assert b"license: mit" in hub.files("me/tiny")["README.md"]
    assert b"license: apache-2.0" in hub.files("me/tiny", revision="refs/pr/1")["README.md"]
    assert "its settings on the Hub make it public" in run(folder, "me/tiny", "--public", fails=True)


def test_the_embedded_checkpoint_keeps_its_card_and_its_precision(hub: LocalHub) -> None:
    embedded = default_checkpoint()
    run(embedded, "me/embedded")
    assert hub.files("me/embedded")["README.md"] == (embedded / "README.md").read_bytes()
    assert hub.files("me/embedded")["model.safetensors"] == (embedded / "model.safetensors").read_bytes()
    told = run_json(embedded, "me/embedded", "--evaluation", REPORTS / "embedded.json", "--max-shard-size", "3MB")
    card = ModelCard.load("me/embedded")
    assert card.text == ModelCard.load(embedded / "README.md").text
    expected = json.loads((REPORTS / "embedded.json").read_text())["results"]["coins"]["model"]["all"]["box"]
    assert expected in [result.metric_value for result in card.data.eval_results]
    # Cut again, value by value: transformers would have written float32.
    original = load_file(embedded / "model.safetensors")
    shards = [file["path"] for file in told["files"] if file["path"].startswith("model-")]
    found: dict[str, torch.Tensor] = {}
    for name in shards:
        (embedded_shard := hub.home / name).write_bytes(hub.files("me/embedded")[name])
        found |= load_file(embedded_shard)
    assert {name: tensor.dtype for name, tensor in found.items()} == {k: v.dtype for k, v in original.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in original.items())


def test_a_card_written_on_the_hub_is_kept_until_another_is_wanted(hub: LocalHub, folder: Path) -> None:
    run(folder, "me/tiny", "--license", "mit")
    hub.put("me/tiny", {"README.md": b"---\nlicense: mit\n---\nMine.\n"})
    run(folder, "me/tiny", "--dataset", "me/scenes")
    card = ModelCard.load("me/tiny")
    assert card.text == "Mine.\n"
    assert card.data.datasets == ["me/scenes"]
    run(folder, "me/tiny", "--card", "new", "--license", "mit")
    assert "Mine." not in hub.files("me/tiny")["README.md"].decode()


def report_of(path: Path, to: Path) -> Path:
    """A report of an evaluation of a tiny model's checkpoint."""
    report = json.loads((REPORTS / "evaluate.json").read_text())
    parameters = sum(parameter.numel() for parameter in load_checkpoint(path).parameters())
    report["model"] |= {"checkpoint": str(path), "parameters": parameters, "sha256": checkpoint_checksums(path)}
    to.write_text(json.dumps(report))
    return to


def test_numbers_go_with_the_weights_they_were_measured_on(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    report = report_of(folder, tmp_path / "evaluate.json")
    run(folder, "me/tiny", "--license", "mit", "--evaluation", report)
    measured = ModelCard.load("me/tiny").data.eval_results
    assert len(measured) == 8
    assert "nothing has changed" in run(folder, "me/tiny")
    run(folder, "me/tiny", "--max-shard-size", "150KB")
    assert len(ModelCard.load("me/tiny").data.eval_results) == 8
    other = save_tiny(tmp_path / "same size", seed=1)
    error = run(other, "me/tiny", "--evaluation", report, fails=True)
    assert sha256_of(folder / "model.safetensors") in error
    assert sha256_of(other / "model.safetensors") in error
    run(save_tiny(tmp_path / "other", seed=1), "me/tiny")
    card = ModelCard.load("me/tiny")
    assert card.data.eval_results is None
    assert "Nothing: no evaluation" in card.text
    assert card.data.license == "mit"


def test_weights_that_were_trained_further_lose_their_numbers(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    run(folder, "me/tiny", "--license", "mit", "--evaluation", report_of(folder, tmp_path / "evaluate.json"))
    clone = Path(snapshot_download("me/tiny", local_dir=tmp_path / "clone"))
    run(clone, "me/copy")
    assert len(ModelCard.load("me/copy").data.eval_results) == 8
    tiny_model("tiny_vit", seed=1).save_pretrained(clone)
    for repo_id in ("me/again", "me/tiny"):
        run(clone, repo_id)
        assert ModelCard.load(repo_id).data.eval_results is None
        assert "Nothing: no evaluation" in ModelCard.load(repo_id).text


def test_an_evaluation_may_be_of_what_was_converted(hub: LocalHub, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs")
    report = report_of(theirs, tmp_path / "evaluate.json")
    run(theirs, "me/tracker", "--license", "mit", "--evaluation", report)
    assert len(ModelCard.load("me/tracker").data.eval_results) == 8
    # They stay with the weights in their new layout.
    assert "nothing has changed" in run("me/tracker", "me/tracker")
    old = json.loads(report.read_text())
    del old["model"]["sha256"]
    report.write_text(json.dumps(old))
    told = run(theirs, "me/tracker", "--evaluation", report, fails=True)
    assert "does not say which weights it measured: run `sam-variants evaluate --json` again" in told


def test_pictures_of_the_card_are_pushed(hub: LocalHub, folder: Path) -> None:
    pictures = ["img/a b.png", "img/c.png", "img/d e.png", "img/unused.png"]
    (folder / "img").mkdir()
    for name in pictures:
        (folder / name).write_bytes(b"x")
    links = "![x](<img/a b.png>) ![y](img/c.png) ![z](./img/d%20e.png) ![o](../img/unused.png) ![p](/img/unused.png)"
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{links}\n")
    assert run_json(folder, "me/tiny")["left_out"] == ["img/unused.png"]
    assert [name for name in hub.files("me/tiny") if name.startswith("img/")] == pictures[:3]
    run("me/tiny", "me/copy")
    assert [name for name in hub.files("me/copy") if name.startswith("img/")] == pictures[:3]


def test_names_of_other_code_are_left_out(hub: LocalHub, folder: Path) -> None:
    add_code(folder, "them/code--mod")
    told = run_json(folder, "me/tiny", "--license", "mit")
    assert told["dropped"] == [
        "auto_map of config.json",
        "custom_pipelines of config.json",
        "auto_map of processor_config.json",
    ]
    files = hub.files("me/tiny")
    for name in ("config.json", "processor_config.json"):
        assert b"them/code" not in files[name]
    assert b"trust_remote_code" not in files["README.md"]
    # The generated code's own name, without that code, is no better.
    add_code(folder, DOOR)
    assert "left out, because the code that it names is not in the folder: auto_map" in run(folder, "me/tiny")
    assert b"trust_remote_code" not in hub.files("me/tiny")["README.md"]
    export_remote_code(folder)
    assert run_json(folder, "me/tiny")["dropped"] == []
    assert "auto_map" in json.loads(hub.files("me/tiny")["config.json"])
    assert b"trust_remote_code" in hub.files("me/tiny")["README.md"]


def add_code(folder: Path, module: str) -> None:
    """Let the configurations of a folder name the classes of a module."""
    for name in ("config.json", "processor_config.json"):
        if not (folder / name).is_file():
            processor_for(tiny_model("tiny_vit")).save_pretrained(folder)
        values = json.loads((folder / name).read_text())
        values["auto_map"] = {"AutoConfig": f"{module}.C", "AutoTokenizer": [f"{module}.T", None]}
        if name == "config.json":
            values["custom_pipelines"] = {"mask-generation": {"impl": f"{module}.P", "pt": ["AutoModel"]}}
        else:
            values["image_processor"]["auto_map"] = {"AutoImageProcessor": f"{module}.I"}
        (folder / name).write_text(json.dumps(values))


def test_a_weights_file_of_a_repository_is_the_repository(hub: LocalHub, folder: Path) -> None:
    run(folder, "me/tiny", "--license", "mit")
    run("me/tiny/model.safetensors", "me/copy")
    assert sorted(hub.files("me/copy")) == ON_HUB
    assert ModelCard.load("me/copy").data.license == "mit"


def test_a_generated_card_beside_the_weights_learns_where_it_lies(hub: LocalHub, folder: Path) -> None:
    write_repo_folder(tiny_model("tiny_vit"), folder)
    assert 'from_pretrained(".")' in (folder / "README.md").read_text()
    run(folder, "me/tiny", "--license", "mit")
    assert ModelCard.load("me/tiny").text.count('from_pretrained("me/tiny")') == 2


def test_transformers_layout_is_converted(hub: LocalHub, tmp_path: Path) -> None:
    theirs = save_theirs(tmp_path / "theirs")
    (theirs / "README.md").write_text("---\nlicense: bsd-3-clause\n---\nHow to use Sam2VideoModel.\n")
    run(theirs, "me/tracker")
    assert sorted(hub.files("me/tracker")) == ON_HUB
    card = ModelCard.load("me/tracker")
    assert card.data.license == "bsd-3-clause"
    assert "Converted from `theirs`" in card.text
    assert hasattr(AutoModel.from_pretrained("me/tracker"), "start_session")


def test_another_repository_is_the_base(hub: LocalHub, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in save_theirs(tmp_path / "theirs").iterdir()}
    hub.put("them/theirs", {**files, "README.md": b"---\nlicense: mit\n---\nTheirs.\n"})
    run("them/theirs", "me/mine")
    card = ModelCard.load("me/mine")
    assert card.data.to_dict()["base_model"] == "them/theirs"
    assert card.data.license == "mit"
    assert "Theirs." not in card.text
    assert "Converted from `them/theirs` on the Hub" in card.text
    run("me/mine", "me/copy")
    assert sorted(hub.files("me/copy")) == ON_HUB
    assert ModelCard.load("me/copy").text.count('"me/copy"') == 4


def test_a_published_file_is_known_by_its_content(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save_theirs(tmp_path / "theirs") / "model.safetensors"
    assert "--license" in run(weights, "me/tiny", fails=True)
    known = CHECKPOINTS["sam2.1_hiera_tiny"]
    monkeypatch.setattr(push_staging, "PUBLISHED", {push_staging.sha256_of(weights): known})
    run(weights, "me/tiny")
    card = ModelCard.load("me/tiny")
    assert card.data.license == "apache-2.0"
    assert card.data.to_dict()["base_model"] == "facebook/sam2.1-hiera-tiny"
    assert known.url in card.text


def test_every_file_of_a_dry_run_is_named(hub: LocalHub, folder: Path) -> None:
    told = run(folder, "me/tiny", "--license", "mit", "--with-code", "--dry-run")
    assert [name for name in code_files() if name not in told] == []
    run(folder, "me/tiny", "--license", "mit")
    (folder / "LICENSE").write_text("Do as you like.\n")
    assert "would push 1 file, " in run(folder, "me/tiny", "--dry-run")
    assert "pushed 1 file, " in run(folder, "me/tiny")


def test_somebodys_own_module_is_not_written_over(hub: LocalHub, folder: Path) -> None:
    run(folder, "me/tiny", "--license", "mit")
    hub.put("me/tiny", {"mlp.py": b"# mine\n"})
    for extra in ([], ["--dry-run"]):
        told = run(folder, "me/tiny", "--with-code", *extra, fails=True)
        assert "files of its own where generated code would go: mlp.py;" in told
    run(folder, "me/tiny")
    assert hub.files("me/tiny")["mlp.py"] == b"# mine\n"


def test_with_code(hub: LocalHub, folder: Path) -> None:
    told = run(folder, "me/tiny", "--license", "mit", "--with-code")
    assert "modules, *.py" in told
    assert "modeling_sam_variants.py" in hub.files("me/tiny")
    assert "auto_map" in json.loads(hub.files("me/tiny")["config.json"])
    assert "trust_remote_code=True" in ModelCard.load("me/tiny").text
    told = run(folder, "me/tiny", "--dry-run")
    assert "would delete the code of an earlier push" in told
    assert "modeling_sam_variants.py" in told
    assert "would push 3 files" in told
    assert "deleted the code of an earlier push" in run(folder, "me/tiny")
    assert sorted(hub.files("me/tiny")) == ON_HUB
    assert "trust_remote_code" not in ModelCard.load("me/tiny").text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give their licence, for example --license apache-2.0"),
        (["--license", "mit", "--evaluation", REPORTS / "evaluate.json"], "the evaluation is of another model"),
        (["--license", "mit", "--base-model", "somewhere"], "base_model='somewhere'"),
        (["--license", "mit", "--include", "*.csv"], "include='*.csv' matches no file"),
        (["--license", "mit", "--evaluation", __file__], "is no JSON file"),
        (["--license", "mit", "--license-name", "Terms"], "license_name='Terms' is for license='other'"),
        (["--license", "other"], "give its license_name and its license_link too"),
        (["--license", "mit", "--dataset", "not a dataset"], "'not a dataset', which is no data set"),
    ],
)
def test_errors_are_one_line_and_leave_the_hub_alone(
    hub: LocalHub, folder: Path, arguments: list[Any], named: str
) -> None:
    error = run(folder, "me/tiny", *arguments, fails=True)
    assert named in error
    # Only the progress bar of transformers stands before it.
    assert error.splitlines()[-1].startswith("sam-variants: ")
    assert not hub.hub.repos


def test_damaged_weights_are_not_pushed(hub: LocalHub, folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert "damaged" in run(folder, "me/tiny", "--license", "mit", fails=True)
    (folder / "SHA256SUMS").unlink()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    assert "model.safetensors" in run(folder, "me/tiny", "--license", "mit", fails=True)
    assert not hub.hub.repos


def test_a_part_alone_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    tiny_model("tiny_vit").image_encoder.save_pretrained(tmp_path / "part")
    assert "holds a TinyViT" in run(tmp_path / "part", "me/tiny", "--license", "mit", fails=True)


def test_without_a_token(hub: LocalHub, folder: Path) -> None:
    hub.log_in(None)
    assert "hf auth login" in run(folder, "me/tiny", "--license", "mit", fails=True)
