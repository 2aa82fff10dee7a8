"""A checkpoint with its own code (trust_remote_code) answers without the package to the last bit as with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from local_hub import LocalHub, local_hub
from remote_code_answers import answers, differing, loaded
from tiny import TINY_VISION, save_tiny, save_tiny_video
from transformers import AutoModel, AutoProcessor, pipeline

from sam_variants.configuration.configuration_sam_variants import PIPELINE_MARK, SamVariantsConfig
from sam_variants.hub_scripts.export_remote_code import DOOR, MARK, code_files, export_remote_code
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.modeling_sam_variants import SamVariantsModel

REPOS = [*TINY_VISION, "video"]
TRUST = {"trust_remote_code": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`repos`: checkpoints with their code; `expected`: what the package answers; `saved/package`: see below."""
    root = tmp_path_factory.mktemp("remote_code")
    (root / "expected").mkdir()
    for name in REPOS:
        folder = root / "repos" / name
        save_tiny_video(folder) if name == "video" else save_tiny(folder, name)
        export_remote_code(folder)
        torch.save(answers(folder), root / "expected" / f"{name}.pt")
    save_by_package(root / "repos" / "tiny_vit", root / "saved" / "package")
    export_remote_code(root / "saved" / "package")
    return root


def save_by_package(folder: Path, target: Path) -> None:
    AutoModel.from_pretrained(folder).save_pretrained(target)
    AutoProcessor.from_pretrained(folder).save_pretrained(target)


def run_section(section: str, root: Path, hub: LocalHub) -> dict[str, Any]:
    script, report = Path(__file__).with_name("remote_code_process.py"), root / f"{section}.json"
    command = [sys.executable, str(script), section, str(root), str(report)]
    done = subprocess.run(command, env=hub.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub with the checkpoints."""
    with local_hub(tmp_path_factory.mktemp("huggingface")) as hub:
        for name in REPOS:
            hub.put(f"me/{name}", {path.name: path.read_bytes() for path in (root / "repos" / name).iterdir()})
        yield hub


@pytest.fixture(scope="module")
def without_package(root: Path, served: LocalHub) -> dict[str, Any]:
    return run_section("without_package", root, served)


@pytest.fixture(scope="module")
def afresh(root: Path, served: LocalHub, without_package: dict[str, Any]) -> dict[str, Any]:
    return run_section("afresh", root, served)


def value(report: dict[str, Any], name: str) -> Any:
    assert "error" not in report[name], report[name]["error"]
    return report[name]["value"]


@pytest.mark.parametrize("name", REPOS)
def test_the_code_answers_as_the_package(without_package: dict[str, Any], name: str) -> None:
    assert value(without_package, f"answers {name}")["differing"] == []
    assert value(without_package, "package").startswith("ModuleNotFoundError")
    assert value(without_package, "package is still away") == []


@pytest.mark.parametrize("name", REPOS)
def test_a_local_folder_is_loaded_once(without_package: dict[str, Any], name: str) -> None:
    """transformers copies a folder's code once for each module that it enters by; here all enter by one."""
    (module,) = set(value(without_package, f"answers {name}")["modules"])
    assert module.startswith("transformers_modules.")
    assert module.endswith(f".{DOOR}")


@pytest.mark.parametrize("name", REPOS)
def test_the_code_works_from_a_hub(without_package: dict[str, Any], name: str) -> None:
    assert value(without_package, f"answers hub {name}")["differing"] == []


def test_what_the_code_pushes_loads_again(without_package: dict[str, Any], served: LocalHub) -> None:
    value(without_package, "push")
    assert value(without_package, "answers pushed")["differing"] == []
    assert code_files().keys() <= served.files("me/pushed").keys()


def test_a_pipeline_fuses_the_model_that_it_loads(without_package: dict[str, Any]) -> None:
    assert value(without_package, "fused") is True


@pytest.mark.parametrize("name", ["video", "hub", "pipeline"])
def test_what_the_code_saves_loads_again(
    root: Path, without_package: dict[str, Any], afresh: dict[str, Any], name: str
) -> None:
    """From a folder, from a Hub, and by a pipeline; in another process."""
    assert value(without_package, f"save {name}") is None
    assert value(afresh, f"saved {name}")["differing"] == []
    assert {path.name for path in (root / "saved" / name).glob("*.py")} == code_files().keys()


def test_what_the_code_saves_loads_again_at_once(without_package: dict[str, Any]) -> None:
    assert value(without_package, "saved video")["differing"] == []


def test_the_flag_is_asked_for(without_package: dict[str, Any], afresh: dict[str, Any]) -> None:
    for report, name in (
        (without_package, "no flag: config"),
        (without_package, "no flag: pipeline"),
        (afresh, "no flag: another repository"),
    ):
        assert value(report, name).startswith("ValueError"), name
        assert "trust_remote_code=True" in value(report, name)


@pytest.mark.parametrize(
    ("check", "library", "pip_name"),
    [
        ("without cv2", "cv2", "opencv-python-headless"),
        ("without pycocotools", "pycocotools", "pycocotools"),
        ("without av", "av", "av"),
        ("hub without pycocotools", "pycocotools", "pycocotools"),
    ],
)
def test_a_missing_library_is_named_with_its_install(
    without_package: dict[str, Any], check: str, library: str, pip_name: str
) -> None:
    message = value(without_package, check)
    assert message.startswith(f"ImportError: This model's code needs {library}: pip install {pip_name} (")
    assert "pip install sam-variants" in message


def test_the_package_wins_when_it_comes_later(afresh: dict[str, Any]) -> None:
    for flags in ({}, TRUST):
        assert all(module.startswith("sam_variants.") for module in value(afresh, f"classes {flags}"))
    assert value(afresh, "is ours") is True


def test_what_the_code_made_lives_on_beside_the_package(afresh: dict[str, Any]) -> None:
    module, shape = value(afresh, "remote")
    assert module.startswith("transformers_modules.")
    assert shape[0] == 1
    assert value(afresh, "remote saves") is None
    assert f"{DOOR}.py" in value(afresh, "remote saved")


@pytest.mark.parametrize("flags", [{}, TRUST])
def test_the_package_wins(root: Path, flags: dict[str, Any]) -> None:
    folder = root / "repos" / "tiny_vit"
    parts = loaded(folder, **flags)
    assert all(type(part).__module__.startswith("sam_variants.") for part in parts.values())
    assert type(parts["AutoModel"]) is SamVariantsModel
    assert type(pipeline("mask-generation", model=str(folder), **flags)) is SamVariantsMaskGenerationPipeline


def test_the_package_saves_without_the_code(root: Path, tmp_path: Path, afresh: dict[str, Any]) -> None:
    save_by_package(root / "repos" / "tiny_vit", tmp_path)
    for name in ("config.json", "processor_config.json"):
        assert "auto_map" not in (tmp_path / name).read_text(encoding="utf-8")
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert list(tmp_path.glob("*.py")) == []
    assert differing(answers(tmp_path), torch.load(root / "expected" / "tiny_vit.pt")) == []
    assert value(afresh, "saved package")["differing"] == []


def test_the_mark_of_a_pipelines_model_is_in_no_file(root: Path, tmp_path: Path) -> None:
    marked = SamVariantsConfig.from_pretrained(root / "repos" / "tiny_vit", _from_pipeline="mask-generation")
    assert getattr(marked, PIPELINE_MARK)
    assert PIPELINE_MARK not in marked.to_dict()
    pipeline("mask-generation", model=str(root / "repos" / "tiny_vit")).save_pretrained(tmp_path)
    assert "pipeline" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "_is_for_pipeline" not in (root / "repos" / "tiny_vit" / "config.json").read_text(encoding="utf-8")


def test_exporting_twice_changes_nothing(root: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path)
    written = export_remote_code(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert export_remote_code(tmp_path) == written
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert {path.name for path in written} == {*code_files(), "config.json", "processor_config.json"}


def test_code_that_is_no_longer_needed_goes(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "gone.py").write_text(f"{MARK}0.0.1\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text("# by hand\n", encoding="utf-8")
    export_remote_code(tmp_path)
    assert not (tmp_path / "gone.py").exists()
    assert (tmp_path / "mine.py").read_text(encoding="utf-8") == "# by hand\n"


def test_a_file_of_another_hand_is_not_overwritten(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "mlp.py").write_text("# by hand\n", encoding="utf-8")
    config = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"files of its own .*: mlp\.py"):
        export_remote_code(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == config
    assert [path.name for path in tmp_path.glob("*.py")] == ["mlp.py"]


def test_a_folder_without_a_processor_is_enough(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    assert tmp_path / "config.json" in export_remote_code(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, OSError, "has no config.json"),
        ("{", ValueError, "can't be read"),
        ("[]", ValueError, "holds a list"),
        ('{"model_type": "sam"}', ValueError, "model_type='sam'"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, content: str | None, kind: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(kind, match=message):
        export_remote_code(tmp_path)
    assert list(tmp_path.glob("*.py")) == []
