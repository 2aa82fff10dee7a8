"""What can go wrong between this machine and the Hub: nothing is lost, and one line says what it was and what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from local_hub import LocalHub
from PIL import Image
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.hub.checksums import CHECKSUMS_FILE, verify_files
from sam_variants.hub.hub_errors import hub_reason
from sam_variants.hub.push_folder import push_folder
from sam_variants.hub_scripts.cli import app
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for
from tests.tiny import save_tiny, tiny_model

REPO = "me/tiny"
WEIGHTS = "model.safetensors"
LOADERS: dict[str, Callable[..., PreTrainedModel]] = {
    "AutoModel": AutoModel.from_pretrained,
    "SamVariantsModel": SamVariantsModel.from_pretrained,
    "load_checkpoint": load_checkpoint,
}
each_loader = pytest.mark.parametrize("loader", LOADERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", "vit")


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    """What the repository holds."""
    return load_checkpoint(folder)


@pytest.fixture
def repo(hub: LocalHub, folder: Path) -> LocalHub:
    """A Hub with one complete repository."""
    publish(REPO, folder)
    return hub


def publish(repo_id: str, folder: Path) -> None:
    """As `hf upload` does it, so that the weights are stored as large files."""
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    other_state = other.state_dict()
    return all(torch.equal(tensor, other_state[name]) for name, tensor in one.state_dict().items())


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "no login": ({"status": 401}, "it does not exist, or it is private and needs `hf auth login`"),
    "bad token": ({"status": 401, "error_code": ""}, "it does not exist|log in with `hf auth login`"),
    "gated": ({"status": 403, "error_code": "GatedRepo"}, "it is gated; ask for access on its page"),
    "forbidden": ({"status": 403, "error_code": ""}, "the Hub does not let you do that"),
    "missing": ({"status": 404}, "it does not exist, or it is private"),
    "no revision": ({"status": 404, "error_code": "RevisionNotFound"}, "it has no such revision"),
    "too many": ({"status": 429}, "the Hub asks to slow down; try again in some minutes"),
    "fault": ({"status": 500}, r"fault of its own \(status 500\); try again later"),
    "overload": ({"status": 503}, r"fault of its own \(status 503\); try again later"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_hub_answers_to_a_load(answer: str, repo: LocalHub, model: PreTrainedModel) -> None:
    options, reason = ANSWERS[answer]
    repo.fail("*", "*", **options)
    with pytest.raises(
        OSError, match=f"'{REPO}' is no local path, and the Hub repository cannot be read: .*{reason}"
    ) as e:
        load_checkpoint(REPO)
    one_line(e)
    with pytest.raises(OSError, match=REPO):
        SamVariantsModel.from_pretrained(REPO)
    with pytest.raises(OSError, match=f"{REPO}|{repo.url}"):  # the configuration is read by transformers alone
        AutoModel.from_pretrained(REPO)
    repo.heal()
    assert same_weights(load_checkpoint(REPO, verify=True), model)


def test_a_missing_file_and_a_missing_revision(repo: LocalHub, folder: Path, model: PreTrainedModel) -> None:
    with pytest.raises(OSError, match="it has no such file"):
        load_checkpoint(f"{REPO}/gone.safetensors")
    with pytest.raises(OSError, match="at revision 'v7' cannot be read: it has no such revision"):
        load_checkpoint(REPO, revision="v7")
    with pytest.raises(ValueError, match=r"revision='v7' is for Hub repositories, and '.*' is on this machine"):
        load_checkpoint(folder, revision="v7")
    HfApi().create_tag(REPO, tag="v1")
    other = tiny_model("vit", seed=1)
    other.save_pretrained(folder.parent / "other")
    repo.put(REPO, {name: (folder.parent / "other" / name).read_bytes() for name in (WEIGHTS, CHECKSUMS_FILE)})
    assert same_weights(load_checkpoint(REPO, revision="v1", verify=True), model)
    assert same_weights(load_checkpoint(REPO, verify=True), other)
    alone = load_checkpoint(f"{REPO}/{WEIGHTS}", revision="v1", preset=other.config, verify=True)
    assert same_weights(alone, model)


@each_loader
def test_without_the_hub_what_was_downloaded_loads(
    loader: str, repo: LocalHub, folder: Path, model: PreTrainedModel
) -> None:
    LOADERS[loader](REPO)
    AutoProcessor.from_pretrained(REPO)
    repo.stop()
    assert same_weights(LOADERS[loader](REPO), model)
    assert isinstance(AutoProcessor.from_pretrained(REPO), SamVariantsProcessor)
    with pytest.raises(OSError, match=f"me/other|{repo.url}") as error:
        LOADERS[loader]("me/other")
    if loader == "load_checkpoint":
        assert "can't be reached; check the network" in one_line(error)
        assert same_weights(load_checkpoint(REPO, verify=True), model)


def test_a_repository_with_one_torch_file_loads_without_the_hub_too(
    hub: LocalHub, tmp_path: Path, model: PreTrainedModel
) -> None:
    (tmp_path / "official").mkdir()
    torch.save(model.state_dict(), tmp_path / "official" / "weights.pth")
    publish("me/official", tmp_path / "official")
    load_checkpoint("me/official", preset=model.config, verify=True)
    hub.stop()
    assert same_weights(load_checkpoint("me/official", preset=model.config, verify=True), model)


DAMAGES: dict[str, dict[str, Any]] = {
    "cut": {"truncate": 5000},
    "cut in its header": {"truncate": 40},
    "empty": {"truncate": 0},
    "garbage": {"content": bytes(range(255, 0, -1)) * 40},
    "a web page": {"content": b"<!doctype html><html><body>Log in</body></html>"},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_named_and_downloaded_again(damage: str, repo: LocalHub, model: PreTrainedModel) -> None:
    repo.corrupt(REPO, WEIGHTS, **DAMAGES[damage])
    for loader in (AutoModel, SamVariantsModel):
        with pytest.raises(OSError, match=r"model\.safetensors' is (empty|a truncated).*force_download=True") as error:
            loader.from_pretrained(REPO)
        one_line(error)
    with pytest.raises(
        ValueError, match=r"model\.safetensors' is (empty|a truncated|not a checkpoint|a web page)"
    ) as error:
        load_checkpoint(REPO)
    one_line(error)
    repo.repair(REPO, WEIGHTS)
    assert same_weights(AutoModel.from_pretrained(REPO, force_download=True), model)


def test_the_command_says_it_in_one_line(repo: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    repo.corrupt(REPO, WEIGHTS, truncate=5000)
    call = ["segment", str(tmp_path / "photo.png"), "--point", "10,10", "--out", str(tmp_path / "out"), "--model"]
    for name, reason in ((REPO, "truncated or corrupt safetensors file"), ("me/gone", "it does not exist")):
        with pytest.raises(SystemExit) as stopped:
            app([*call, name])
        assert stopped.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("sam-variants: ")
        assert reason in lines[0]


@pytest.mark.parametrize("store", ["lfs", "xet"])
def test_a_flipped_byte_is_found_by_whoever_asks(
    store: str, repo: LocalHub, folder: Path, model: PreTrainedModel
) -> None:
    """It loads silently; the sha256 that the Hub names does not change with the bytes that arrive."""
    if store == "xet":
        repo.use_xet()
        publish("me/xet", folder)
        assert same_weights(load_checkpoint("me/xet", verify=True), model)
    repo.corrupt(REPO, WEIGHTS, flip=-1)
    assert not same_weights(AutoModel.from_pretrained(REPO), model)
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged or was changed: its sha256 is .* states"):
        load_checkpoint(REPO, verify=True)
    snapshot = Path(HfApi().snapshot_download(REPO, local_files_only=True, allow_patterns=["config.json", "model*"]))
    (snapshot / CHECKSUMS_FILE).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="but the Hub states"):
        verify_files(snapshot)
    copy = folder.parent / f"copy {store}"
    copy.mkdir()
    for path in snapshot.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / CHECKSUMS_FILE).write_bytes((folder / CHECKSUMS_FILE).read_bytes())
    titles = repo.titles(REPO)
    with pytest.raises(ValueError, match="is damaged or was changed"):
        push_folder(copy, REPO)
    assert repo.titles(REPO) == titles


def test_a_flipped_byte_is_not_converted(repo: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo.corrupt(REPO, WEIGHTS, flip=-1)
    with pytest.raises(SystemExit) as stopped:
        app(["convert", REPO, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "model.safetensors' is damaged or was changed: its sha256 is " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_download_that_breaks_off_is_taken_up_again(repo: LocalHub, model: PreTrainedModel) -> None:
    fault = repo.fail("GET", f"*/{WEIGHTS}", cut=1000, times=2)
    assert same_weights(AutoModel.from_pretrained(REPO), model)
    assert fault.hits == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a valid JSON|not valid JSON"),
        (b"[1]", "must hold a JSON object|Unrecognized model"),
        (b'{"model_type": "sam_variants", "image_sise": 64}', "has no 'image_sise'; did you mean image_size"),
        (
            b'{"model_type": "sam_variants", "new_switch": 1, "sam_variants_version": "99.0"}',
            r"no 'new_switch'; .* written by version 99\.0 .* pip install --upgrade sam-variants",
        ),
    ],
)
def test_a_broken_configuration(content: bytes, message: str, repo: LocalHub) -> None:
    repo.put(REPO, {"config.json": content})
    for loader in LOADERS.values():
        with pytest.raises((OSError, ValueError), match=message):
            loader(REPO)


def test_the_configuration_of_another_model(repo: LocalHub) -> None:
    repo.put(REPO, {"config.json": b'{"model_type": "bert", "hidden_size": 8}'})
    with pytest.raises(
        ValueError, match=f"config.json of '{REPO}' has model_type='bert', which is not of this package"
    ):
        SamVariantsModel.from_pretrained(REPO)
    with pytest.raises(ValueError, match="has model_type='bert'; those that can be read: sam_variants"):
        load_checkpoint(REPO)


@pytest.mark.parametrize("name", ["vit", "hiera"])
def test_a_repository_without_a_processor(
    name: str, hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save_tiny(tmp_path / name, name)
    files = {path.name: path.read_bytes() for path in saved.iterdir() if path.name != "processor_config.json"}
    hub.put("me/bare", files)
    expected = processor_for(tiny_model(name)).image_processor.to_dict()
    logging.getLogger("transformers").propagate = True
    for loader in (AutoProcessor, SamVariantsProcessor):
        processor = loader.from_pretrained("me/bare")
        assert type(processor) is SamVariantsProcessor
        assert processor.image_processor.to_dict() == expected
        assert loader.from_pretrained("me/bare", image_size=128).image_processor.image_size == 128
    assert "'me/bare' has no processor_config.json; the processor follows from its config.json" in caplog.text
    hub.put("me/bare", {"processor_config.json": b"{"})
    with pytest.raises(OSError, match=r"processor_config\.json"):
        AutoProcessor.from_pretrained("me/bare")
    hub.put("me/bare", {"processor_config.json": (saved / "processor_config.json").read_bytes()})
    hub.fail("*", "*/processor_config.json", status=503)
    hub.fail("*", "*/preprocessor_config.json", status=503)
    with pytest.raises(OSError, match=r"ailed|connect"):  # not there and not reached are two things
        SamVariantsProcessor.from_pretrained("me/bare", force_download=True)


PUSH_FAULTS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "who are you": ("POST", "*/commit/*", {"status": 401, "error_code": ""}, "401|log in|token"),
    "forbidden": ("POST", "*/commit/*", {"status": 403, "error_code": ""}, "does not let|may write|403|token"),
    "gone meanwhile": ("POST", "*/commit/*", {"status": 404}, "not exist|404"),
    "changed meanwhile": ("POST", "*/commit/*", {"status": 412}, "changed"),
    "slow down": ("POST", "*/commit/*", {"status": 429}, "slow down|429"),
    "overload": ("POST", "*/commit/*", {"status": 503}, "503|fault"),
    "overload before": ("POST", "*/preupload/*", {"status": 503}, "503|fault"),
    "upload cut": ("PUT", "/_lfs/*", {"cut": 1000}, "."),
    "upload refused": ("PUT", "/_lfs/*", {"status": 503}, "."),
}


@pytest.mark.parametrize("kind", PUSH_FAULTS)
def test_a_push_that_fails_changes_nothing_and_can_be_repeated(kind: str, repo: LocalHub, tmp_path: Path) -> None:
    method, path, how, message = PUSH_FAULTS[kind]
    newer = save_tiny(tmp_path / "newer", "vit", seed=1)
    before, titles = repo.files(REPO), repo.titles(REPO)
    fault = repo.fail(method, path, **how)
    with pytest.raises((OSError, ValueError), match=message) as error:
        push_folder(newer, REPO)
    one_line(error)
    assert fault.hits
    assert (repo.files(REPO), repo.titles(REPO)) == (before, titles)
    repo.heal()
    report = push_folder(newer, REPO)
    assert len(repo.titles(REPO)) == len(titles) + 1
    assert repo.files(REPO)[WEIGHTS] == (newer / WEIGHTS).read_bytes()
    assert report.commit_url
    assert push_folder(newer, REPO).commit_url is None
    assert len(repo.titles(REPO)) == len(titles) + 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(repo: LocalHub, tmp_path: Path) -> None:
    newer = save_tiny(tmp_path / "newer", "vit", seed=1)
    titles = repo.titles(REPO)
    repo.fail("POST", "*/commit/*", lose_answer=True, times=1)
    with suppress(OSError):
        push_folder(newer, REPO)
    push_folder(newer, REPO)
    assert len(repo.titles(REPO)) == len(titles) + 1
    assert repo.files(REPO)[WEIGHTS] == (newer / WEIGHTS).read_bytes()


def test_a_server_that_is_down(hub: LocalHub, folder: Path) -> None:
    hub.stop()
    with pytest.raises(OSError, match=r"can't be reached|connection") as error:
        push_folder(folder, REPO)
    one_line(error)


DOWNLOAD = """
import sys
import torch
torch.set_num_threads(1)
from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
print("ready", flush=True)
sys.stdin.readline()
model = load_checkpoint(sys.argv[1], verify=True)
print(float(sum(tensor.double().sum() for tensor in model.state_dict().values())))
"""


def test_two_processes_download_at_once(repo: LocalHub, model: PreTrainedModel) -> None:
    fault = repo.fail("GET", f"*/{WEIGHTS}", slow=0.3)
    command = [sys.executable, "-c", DOWNLOAD, REPO]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=repo.environment(), text=True, **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        assert same_weights(load_checkpoint(REPO, verify=True), model)
        out, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert float(out) == pytest.approx(float(sum(tensor.double().sum() for tensor in model.state_dict().values())))
    assert fault.hits
    repo.stop()
    assert same_weights(load_checkpoint(REPO, verify=True), model)
    assert not [path for path in (repo.home / "hub").rglob("*") if path.name.endswith(".incomplete")]


def test_an_unknown_error_keeps_its_own_words() -> None:
    assert hub_reason(RuntimeError("first\nsecond")) == "first"
    assert hub_reason(KeyError()) == "KeyError"
