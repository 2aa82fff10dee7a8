"""The wheel ships what the folders hold: an editable install hides a package missing from `pyproject.toml`."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
EXTRAS_OF = {"hub_scripts": ("train", "demo", "dev"), "spaces_demo": ("demo",)}
EXTRA_OF_ROOM = {"training": "train", "labeling": "label"}
DISTRIBUTION_OF = {"PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image"}
# A page of gradio is a Starlette application that answers httpx: it brings both, in the versions that it works with.
DISTRIBUTION_OF |= dict.fromkeys(("gradio_client", "httpx", "starlette"), "gradio")


def packages_on_disk() -> set[str]:
    """The dotted name of every folder with Python files below the mapped folders that exist."""
    names = set()
    for package, folder in FOLDERS.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.parent.relative_to(ROOT / folder).parts
            names.add(".".join((package, *parts)))
    return names


def source_folder(package: str) -> Path:
    """The folder of a package, by its longest mapped prefix."""
    mapped = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return ROOT / FOLDERS[mapped] / package.removeprefix(mapped).strip(".").replace(".", "/")


def requirements(*extras: str) -> dict[str, Requirement]:
    """The declared dependencies by canonical name, with those of the named extras."""
    lines = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def constraints() -> dict[str, Version]:
    """The pinned versions that `make` installs."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").split()
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def imported_distributions(folder: Path, but: Collection[Path] = ()) -> set[str]:
    """Third-party distributions that any file below `folder`, `but` aside, imports, at its top or inside a function."""
    names = set()
    for file in folder.rglob("*.py"):
        if any(file.is_relative_to(other) for other in but):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    third_party = names - set(sys.stdlib_module_names) - {"sam_variants"}
    return {canonicalize_name(DISTRIBUTION_OF.get(name, name)) for name in third_party}


def test_packages_list_equals_the_folders() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_on_disk()
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


def test_every_folder_with_an_init_file_is_mapped() -> None:
    folders = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert folders - {"tests"} == set(FOLDERS.values())


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_every_package_has_an_init_file(package: str) -> None:
    assert (source_folder(package) / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("package", "pattern"),
    [(package, pattern) for package, patterns in SETUPTOOLS["package-data"].items() for pattern in patterns],
)
def test_every_package_data_pattern_matches_a_file(package: str, pattern: str) -> None:
    assert [path for path in source_folder(package).glob(pattern) if path.is_file()], f"{package}: {pattern}"


def test_every_data_file_is_shipped() -> None:
    shipped: set[Path] = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        shipped.update(path for pattern in patterns for path in source_folder(package).glob(pattern))
    for folder in FOLDERS.values():
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {path for path in files if path.suffix != ".py"} <= shipped


def test_the_constraints_fit_the_declared_ranges() -> None:
    pinned = constraints()
    for name, requirement in requirements(*PROJECT["project"]["optional-dependencies"]).items():
        assert name in pinned, f"{name} is declared but not pinned"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement} excludes {pinned[name]}"


def test_the_constraints_name_no_local_build() -> None:
    assert {name: version for name, version in constraints().items() if version.local} == {}
    assert constraints()["torch"] == Version("2.13.0")


def test_every_import_is_a_declared_dependency() -> None:
    rooms = {ROOT / "modeling_sam_variants" / name: extra for name, extra in EXTRA_OF_ROOM.items()}
    for folder in FOLDERS.values():
        extras = EXTRAS_OF.get(folder, ())
        assert imported_distributions(ROOT / folder, but=rooms) <= set(requirements(*extras)), folder
    for room, extra in rooms.items():
        assert imported_distributions(room) <= set(requirements(extra)), room


def test_no_dependency_brings_torchvision() -> None:
    everything = set(requirements(*PROJECT["project"]["optional-dependencies"])) | set(constraints())
    assert not {"torchvision", "timm"} & everything
    assert not [name for name in everything if name.startswith("nvidia-")]


def test_python_versions_agree() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert f"({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['project']['version'])}\b", changelog, flags=re.MULTILINE)
