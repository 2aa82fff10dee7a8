"""The rooms of the house and the doors between them: who may import whom, and how (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER_OF = {
    "sam_variants": "modeling_sam_variants",
    "sam_variants.configuration": "configuration",
    "sam_variants.hub_scripts": "hub_scripts",
    "sam_variants.spaces_demo": "spaces_demo",
}
ARRAYS = {"torch", "numpy", "cv2", "pycocotools", "PIL"}
ANY_LIBRARY = None
MAX_LINES = 400


@dataclass(frozen=True)
class Room:
    """What the modules of one room may import.

    Args:
        libraries: third-party packages; `ANY_LIBRARY` leaves them to the packaging test.
        doors: rooms of ours, the own one aside.
    """

    libraries: set[str] | None
    doors: set[str]


# A folder is a room; so is each module that lies directly in modeling_sam_variants/. A module that is not named here
# belongs to "top": it may import everything that is not a script.
BELOW_PARTS = {"configuration", "layers", "outputs", "pretrained_part"}
ROOMS = {
    "configuration": Room({"transformers", "huggingface_hub"}, set()),
    "hub": Room({"torch", "transformers", "huggingface_hub", "safetensors"}, {"configuration", "processing"}),
    "layers": Room({"torch"}, set()),
    "outputs": Room({"torch", "transformers"}, set()),
    "losses": Room({"torch"}, set()),
    "attention_interface": Room({"torch", "transformers"}, {"layers"}),
    "pretrained_part": Room({"torch", "transformers", "safetensors"}, {"attention_interface", "hub", "layers"}),
    "encoders": Room({"torch", "transformers"}, BELOW_PARTS),
    "decoders": Room({"torch", "transformers"}, BELOW_PARTS),
    "memory": Room({"torch", "transformers"}, BELOW_PARTS),
    "prompt_checks": Room({"torch"}, {"decoders"}),
    "mask_codecs": Room(ARRAYS, set()),
    "mask_drawing": Room(ARRAYS, set()),
    "mask_runs": Room(ARRAYS, {"mask_codecs"}),
    "mask_storage": Room(ARRAYS, {"mask_codecs", "mask_runs"}),
    "mask_fields": Room(ARRAYS, set()),
    "mask_regions": Room(ARRAYS, set()),
    "result_keys": Room(ARRAYS, {"mask_codecs"}),
    "results": Room(ARRAYS, {"mask_codecs", "mask_drawing", "mask_fields", "mask_storage", "result_keys"}),
    "mask_generation": Room(ARRAYS, {"mask_codecs", "mask_runs", "results"}),
    "processing": Room(
        ARRAYS | {"transformers", "huggingface_hub", "av"},
        {"configuration", "mask_codecs", "mask_generation", "mask_regions", "mask_runs", "results"},
    ),
    "tracked_objects": Room({"torch"}, {"mask_regions", "memory"}),
    "video_session": Room(
        ARRAYS, {"layers", "mask_storage", "memory", "pretrained_part", "processing", "results", "tracked_objects"}
    ),
    "transformers_video": Room(
        ARRAYS | {"transformers"}, {"outputs", "pretrained_part", "processing", "tracked_objects", "video_session"}
    ),
    "modeling": Room(
        ARRAYS | {"transformers"},
        BELOW_PARTS
        | {"hub", "losses", "encoders", "decoders", "memory", "prompt_checks", "transformers_video", "video_session"},
    ),
}
ROOMS["session_state"] = Room({"torch", "safetensors"}, {"memory", "video_session"})
BELOW_SCRIPTS = {*ROOMS, "checkpoint_layouts", "top"}
ROOMS |= {
    "checkpoint_layouts": Room(ANY_LIBRARY, BELOW_SCRIPTS),
    "top": Room(ANY_LIBRARY, BELOW_SCRIPTS),
    "training": Room(ANY_LIBRARY, BELOW_SCRIPTS),
    "labeling": Room(ANY_LIBRARY, BELOW_SCRIPTS | {"training"}),
    "hub_scripts": Room(ANY_LIBRARY, BELOW_SCRIPTS | {"spaces_demo", "browse", "training", "labeling"}),
    "spaces_demo": Room(ANY_LIBRARY, {"public", "processing", "hub", "mask_drawing", "mask_codecs", "session_state"}),
    # The page of the command: a pushed Space doesn't carry it.
    "browse": Room(ANY_LIBRARY, {"public", "processing", "mask_drawing", "mask_codecs", "spaces_demo", "labeling"}),
}


@dataclass(frozen=True)
class Import:
    """One import: `names` is empty for `import module`."""

    line: int
    module: str
    names: tuple[str, ...]


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by dotted name; a package stands for its `__init__`."""
    found = {}
    for package, folder in FOLDER_OF.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(file: Path) -> list[Import]:
    """All imports of a file, those inside functions and under `TYPE_CHECKING` too."""
    found = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.append(Import(node.lineno, module, tuple(alias.name for alias in node.names)))
    return found


def room_name(module: str) -> str:
    """The room a dotted name of ours lies in; the package itself is "public"."""
    parts = module.split(".")[1:]
    if not parts:
        return "public"
    if parts[0].startswith("modeling_sam_variants"):
        return "modeling"
    if len(parts) > 1 and parts[0] == "spaces_demo" and parts[1].startswith("browse"):
        return "browse"
    return parts[0] if parts[0] in ROOMS else "top"


def room_of(module: str) -> Room:
    return ROOMS["top"] if room_name(module) == "public" else ROOMS[room_name(module)]


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "sam_variants"


def defined_names(module: str) -> set[str]:
    """Names that a module binds itself: classes, functions and assignments, not what it imports."""
    names: set[str] = set()
    for node in ast.walk(tree(modules()[module])):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def project_files() -> list[Path]:
    """Every text file that belongs to the project."""
    folders = [*FOLDER_OF.values(), "tests", ".ci"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    binary = {".pyc", ".jpg", ".png", ".npz", ".npy", ".safetensors", ".pt", ".gz", ".zip", ".mp4"}
    return sorted(path for path in files if path.suffix not in binary)


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def closed_doors(module: str, statements: list[Import]) -> list[str]:
    """Imports of ours and of libraries that the module's room does not allow."""
    room, own, found = room_of(module), room_name(module), []
    for statement in statements:
        library, target = statement.module.split(".")[0], room_name(statement.module)
        if is_ours(statement.module):
            closed = target != own and target not in room.doors
        else:
            closed = room.libraries is not ANY_LIBRARY and library not in {*room.libraries, *sys.stdlib_module_names}
        if closed:
            found.append(f"line {statement.line}: {own} may not import {statement.module}")
    return found


def indirect_imports(module: str, statements: list[Import]) -> list[str]:
    """Imports of ours that name anything but the file that defines the name."""
    if room_name(module) in ("spaces_demo", "browse"):
        return []
    found = []
    for statement in statements:
        where, target = f"line {statement.line}", modules().get(statement.module)
        first = statement.module.split(".")[0]
        if not first or first in FOLDER_OF.values():
            found.append(f"{where}: relative, or through a folder's name: {statement.module}")
        elif not is_ours(statement.module):
            continue
        elif target is None or target.name == "__init__.py" or not statement.names:
            found.append(f"{where}: {statement.module} is not a defining module; write from … import …")
        elif missing := set(statement.names) - defined_names(statement.module):
            found.append(f"{where}: {statement.module} does not define {sorted(missing)}")
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_through_open_doors(module: str) -> None:
    assert closed_doors(module, imports(modules()[module])) == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_name_the_defining_module(module: str) -> None:
    """The flat folder of remote code is written from these lines."""
    assert indirect_imports(module, imports(modules()[module])) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("sam_variants.layers.mlp", "transformers"),
        ("sam_variants.layers.mlp", "sam_variants.configuration.presets"),
        ("sam_variants.configuration.presets", "torch"),
        ("sam_variants.encoders.encoder_vit", "sam_variants.decoders.mask_decoder"),
        ("sam_variants.decoders.mask_decoder", "sam_variants.encoders.encoder_vit"),
        ("sam_variants.results", "sam_variants.modeling_sam_variants"),
        ("sam_variants.processing.coordinates", "sam_variants.modeling_sam_variants"),
        ("sam_variants.modeling_sam_variants", "sam_variants.processing.coordinates"),
        ("sam_variants.modeling_sam_variants", "sam_variants.pipelines"),
        ("sam_variants.pipelines", "sam_variants.hub_scripts.cli"),
        ("sam_variants", "sam_variants.hub_scripts.cli"),
        ("sam_variants.pipelines", "sam_variants.spaces_demo.page"),
        ("sam_variants.spaces_demo.page", "sam_variants.layers.mlp"),
        ("sam_variants.spaces_demo.page", "sam_variants.hub_scripts.cli"),
    ],
)
def test_a_closed_door_is_noticed(module: str, imported: str) -> None:
    assert closed_doors(module, [Import(1, imported, ("name",))])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("modeling_sam_variants.layers.mlp", ("MLP",)),
        (".mlp", ("MLP",)),
        ("sam_variants.layers.mlp", ()),
        ("sam_variants.layers.mlp", ("nn",)),
        ("sam_variants.layers", ("mlp",)),
        ("sam_variants", ("SamVariantsModel",)),
    ],
)
def test_an_indirect_import_is_noticed(module: str, names: tuple[str, ...]) -> None:
    assert indirect_imports("sam_variants.layers.two_way_transformer", [Import(1, module, names)])


def test_only_the_public_package_init_imports() -> None:
    for module, file in modules().items():
        if file.name == "__init__.py" and module != "sam_variants":
            assert imports(file) == [], file


def test_no_torchvision_and_no_timm() -> None:
    for file in [*modules().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / ".ci").rglob("*.py")]:
        for statement in imports(file):
            assert statement.module.split(".")[0] not in {"torchvision", "timm"}, place(file, statement.line)


def test_tests_import_no_folder_name() -> None:
    for file in (ROOT / "tests").rglob("*.py"):
        for statement in imports(file):
            assert statement.module.split(".")[0] not in FOLDER_OF.values(), place(file, statement.line)


def test_module_base_names_are_unique() -> None:
    """Remote code on the Hub is one flat folder."""
    files = [file for folder in ("configuration", "modeling_sam_variants") for file in (ROOT / folder).rglob("*.py")]
    counts = Counter(file.name for file in files if file.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


def test_files_stay_short() -> None:
    python = [file for file in project_files() if file.suffix == ".py"]
    lengths = {place(file, 1): len(file.read_text(encoding="utf-8").splitlines()) for file in python}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.~$}])/(?:" + "|".join(["work", "root", "tmp", "home", "opt", "Users"]) + r")/")
    for file in project_files():
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            assert not pattern.search(line), f"{place(file, number)}: {line.strip()[:120]}"
