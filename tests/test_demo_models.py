"""The demo's models: embedded, the operator's, and from a Hub; loaded once, bounded, and refused with advice."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from huggingface_hub import HfApi
from local_hub import LocalHub

from sam_variants import default_checkpoint, load_checkpoint
from sam_variants.spaces_demo import limits, model_downloads, models
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, Loaded, ModelStore, configure, store
from sam_variants.spaces_demo.photos import open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.segmenting import segment_objects
from tests.tiny import save_tiny, save_tiny_video, tiny_model

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
REPO = "me/tiny"
Told = list[tuple[float, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "my-model", "vit")


@pytest.fixture
def repo(hub: LocalHub, folder: Path) -> LocalHub:
    """A Hub with one complete repository."""
    hub.put(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    return hub


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of the process stays as it was."""
    monkeypatch.setattr(models, "_store", models._store)


def weights(loaded: Loaded) -> dict[str, torch.Tensor]:
    return loaded.model.state_dict()


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def refused(models: ModelStore, choice: Any) -> str:
    with pytest.raises(gr.Error) as caught:
        models.get(choice)
    assert "/tmp" not in caught.value.message
    assert "Traceback" not in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value.message


def test_the_embedded_models_need_nothing() -> None:
    here = ModelStore(allow_hub=False)
    assert here.choices() == [EMBEDDED, EMBEDDED_VIDEO]
    image, video = here.get("embedded"), here.get("embedded-video")
    assert (image.name, image.can_track, video.can_track) == ("embedded", False, True)
    assert image.source == str(default_checkpoint())
    assert same_weights(weights(image), load_checkpoint(image.source).fuse().state_dict())
    assert image.processor.image_processor.image_size == image.model.config.image_size
    assert image.generator is image.generator
    assert image.generator.model is image.model
    assert here.get("embedded") is image
    assert image.serial != video.serial


def test_the_operators_models(folder: Path, tmp_path: Path) -> None:
    video = save_tiny_video(tmp_path / "tracker")
    here = ModelStore([folder, str(video), folder / "model.safetensors"])
    assert here.choices()[2:] == ["my-model", "tracker", "model.safetensors"]
    assert same_weights(weights(here.get("my-model")), load_checkpoint(folder).fuse().state_dict())
    assert not here.get("my-model").can_track
    assert here.get("tracker").can_track
    with pytest.raises(ValueError, match="no checkpoint"):
        ModelStore([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="two checkpoints are called 'my-model'"):
        ModelStore([folder, folder])
    with pytest.raises(ValueError, match="no repository"):
        ModelStore(hub_ids=["nothing"])


@pytest.mark.parametrize(
    "choice",
    ["/etc", "..", "../my-model", "./me/tiny", "me/..", "me/../x", "me/tiny/x", "", "my model", None, 5, ["a"]],
)
def test_nobody_names_a_path(choice: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert "Choose one of embedded, embedded-video, or name a model on the Hub" in refused(ModelStore(), choice)
    assert refused(ModelStore(allow_hub=False), choice).endswith("Choose one of embedded, embedded-video.")


def test_a_hub_can_be_closed(repo: LocalHub) -> None:
    assert "isn't offered" in refused(ModelStore(allow_hub=False), REPO)
    offered = ModelStore(allow_hub=False, hub_ids=[REPO])
    assert REPO in offered.choices()
    assert offered.get(REPO).source == REPO


def test_a_model_from_the_hub_with_progress(repo: LocalHub, folder: Path) -> None:
    here, told = ModelStore(), Told()
    loaded = here.get(f" {REPO} ", lambda fraction, text: told.append((fraction, text)))
    assert same_weights(weights(loaded), load_checkpoint(folder).fuse().state_dict())
    assert (loaded.name, loaded.source) == (REPO, REPO)
    assert loaded.revision == HfApi().model_info(REPO).sha
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[0] == (0.0, "Looking for me/tiny")
    assert told[-1] == (1.0, "Loading me/tiny")
    size = (folder / "model.safetensors").stat().st_size + (folder / "config.json").stat().st_size
    assert told[-2] == (1.0, f"Downloading me/tiny: {size / 1e6:.1f} of {size / 1e6:.1f} MB")
    assert not [text for _, text in told if "/tmp" in text]
    before = len(repo.requests())
    assert here.get(REPO) is loaded
    assert len(repo.requests()) == before


def test_a_folder_of_the_same_name_is_not_looked_at(
    repo: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "me" / "tiny", "tiny_vit", seed=7)
    monkeypatch.chdir(tmp_path)
    assert same_weights(weights(ModelStore().get(REPO)), load_checkpoint(folder).fuse().state_dict())


def test_one_weights_file_of_any_name(hub: LocalHub, tmp_path: Path) -> None:
    model = tiny_model("vit")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    config = save_tiny(tmp_path / "model", "vit") / "config.json"
    hub.put("me/pth", {"model.pth": (tmp_path / "weights.pth").read_bytes(), "config.json": config.read_bytes()})
    assert same_weights(weights(ModelStore().get("me/pth")), model.fuse().state_dict())
    hub.put("me/none", {"README.md": b"nothing"})
    assert "me/none must hold safetensors or one weights file, and has no weights" in refused(ModelStore(), "me/none")
    hub.put("me/two", {"a.pth": b"a", "b/b.pt": b"b"})
    assert "has a.pth, b/b.pt" in refused(ModelStore(), "me/two")


def test_a_name_that_is_a_pattern_brings_no_other_file(hub: LocalHub, folder: Path) -> None:
    hub.put("me/trick", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.put("me/trick", {"*.safetensors": b"", "large/other.safetensors": b"x" * 100})
    ModelStore().get("me/trick")
    assert not hub.requests("GET", "*/other.safetensors")


@pytest.mark.parametrize("is_xet", [False, True], ids=["lfs", "xet"])
def test_progress_counts_the_bytes_of_large_files(is_xet: bool, hub: LocalHub, folder: Path) -> None:
    if is_xet:
        hub.use_xet()
    HfApi().create_repo("me/large")
    HfApi().upload_folder(repo_id="me/large", folder_path=folder)
    told = Told()
    ModelStore().get("me/large", lambda fraction, text: told.append((fraction, text)))
    downloading = [fraction for fraction, text in told if text.startswith("Downloading")]
    assert downloading == sorted(downloading)
    assert downloading[-1] == 1.0


def test_a_visitor_gets_no_more_than_everybody(repo: LocalHub) -> None:
    repo.require_tokens({"hf_w": "write"})
    repo.log_in("hf_w")
    repo.repo(REPO).private = True
    assert "it does not exist, or it is private" in refused(ModelStore(), REPO)
    assert ModelStore(hub_ids=[REPO]).get(REPO).name == REPO
    assert "it does not exist, or it is private" in refused(ModelStore(), REPO)  # though it was downloaded now


def test_too_large_for_visitors(repo: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MODEL_BYTES", 10_000)
    assert "at most 0.0 GB are taken. Choose a smaller model" in refused(ModelStore(), REPO)
    assert not repo.requests("GET", "*/resolve/*")
    assert ModelStore(hub_ids=[REPO]).get(REPO).name == REPO


def test_a_full_disk(repo: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_downloads.shutil, "disk_usage", lambda path: SimpleNamespace(free=limits.MIN_FREE_BYTES))
    assert "no room left for me/tiny" in refused(ModelStore(), REPO)
    assert not repo.requests("GET", "*/resolve/*")


def test_a_model_for_huge_images(repo: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MODEL_SIDE", 63)
    assert "works on images of 64 pixels; at most 63" in refused(ModelStore(), REPO)
    assert ModelStore(hub_ids=[REPO]).get(REPO).name == REPO


def test_what_goes_wrong_says_what_to_do(repo: LocalHub) -> None:
    here = ModelStore()
    assert "it does not exist" in refused(here, "me/nothing")
    repo.fail("GET", "*", status=503)
    assert "try again later" in refused(here, REPO)
    repo.heal()
    repo.gate(REPO)
    assert "gated" in refused(here, REPO)
    repo.repo(REPO).gated = False
    repo.corrupt(REPO, "model.safetensors", truncate=100)
    assert refused(here, REPO).startswith("me/tiny can't be")


def test_no_hub_at_all(repo: LocalHub, folder: Path) -> None:
    offered = ModelStore(hub_ids=[REPO])
    repo.stop()
    assert "can't be reached" in refused(ModelStore(), REPO)
    assert "can't be reached" in refused(offered, REPO)
    repo.start()
    offered.get(REPO)
    repo.stop()
    again = ModelStore(hub_ids=[REPO])
    assert same_weights(weights(again.get(REPO)), load_checkpoint(folder).fuse().state_dict())
    assert "can't be reached" in refused(ModelStore(), REPO)


def test_what_is_no_model_of_the_family(hub: LocalHub, folder: Path) -> None:
    hub.put("me/other", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"12345678"})
    assert refused(ModelStore(), "me/other").startswith("me/other can't be loaded: ")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.put("me/broken", files | {"config.json": files["config.json"].replace(b'"depth": 3', b'"depth": 2')})
    assert refused(ModelStore(), "me/broken").startswith("me/broken can't be loaded: ")


def test_asked_for_at_once_it_is_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, together, loads = ModelStore([folder]), threading.Barrier(8), []
    load = models.load_checkpoint
    monkeypatch.setattr(models, "load_checkpoint", lambda path: loads.append(path) or load(path))

    def get() -> Loaded:
        together.wait(10)
        return here.get("my-model")

    with ThreadPoolExecutor(8) as threads:
        found = [future.result() for future in [threads.submit(get) for _ in range(8)]]
    assert len(loads) == 1
    assert len({id(loaded) for loaded in found}) == 1


def test_loading_leaves_the_default_dtype_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers sets it while it loads, for all threads: the second must not read what the first has set."""
    for name in ("a", "b"):
        model = tiny_model("vit").to(torch.bfloat16)
        model.save_pretrained(tmp_path / name)
    here, load, overlapping = ModelStore([tmp_path / "a", tmp_path / "b"]), models.load_checkpoint, threading.Barrier(2)

    def load_together(path: Path) -> Any:
        with suppress(threading.BrokenBarrierError):
            overlapping.wait(0.2)
            raise AssertionError("two models were loaded at once")
        return load(path)

    monkeypatch.setattr(models, "load_checkpoint", load_together)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(here.get, "ab"))
    assert {loaded.model.dtype for loaded in found} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    click = ObjectPrompts(1, "", ((155, 50),), (1,))
    assert len(segment_objects(found[0], open_photo(COINS), [click]).areas) == 1  # half precision is answered too


def test_the_oldest_models_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MODELS", 2)
    here = ModelStore([save_tiny(tmp_path / name, "vit") for name in "abc"])
    embedded, a, b = (here.get(name) for name in ("embedded", "a", "b"))
    assert here.get("a") is a
    here.get("c")
    assert here.get("a") is a
    assert here.get("b") is not b
    assert here.get("embedded") is embedded


def test_the_store_of_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "_store", None)
    assert store() is store()
    assert (store().choices(), store().allow_hub) == ([EMBEDDED, EMBEDDED_VIDEO], True)
    monkeypatch.setattr(models, "_store", None)
    monkeypatch.setenv("SAM_VARIANTS_DEMO_MODELS", f"{folder}:{save_tiny(tmp_path / 'second', 'vit')}")
    monkeypatch.setenv("SAM_VARIANTS_DEMO_HUB", "0")
    assert (store().choices()[2:], store().allow_hub) == (["my-model", "second"], False)
    assert configure([folder]) is store()
    assert store().choices()[2:] == ["my-model"]


def test_a_copy_stands_for_the_same_model(folder: Path) -> None:
    loaded = configure([folder]).get("my-model")
    assert copy.deepcopy(loaded) is loaded
    assert len(pickle.dumps(loaded)) < 200
    assert pickle.loads(pickle.dumps(loaded)) is loaded
