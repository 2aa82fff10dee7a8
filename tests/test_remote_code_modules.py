"""The package's modules as one flat folder: all arrive, and what can't be flat is refused with file and line."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from sam_variants.hub_scripts.export_remote_code import DOOR, MARK, code_files
from sam_variants.hub_scripts.remote_code_modules import ALWAYS_THERE, flat_source, reached_modules

Find = Callable[[str], Path | None]
FLAT = {
    "entry.py": """
        '''from fake.parts.one import One'''
        from __future__ import annotations

        from typing import TYPE_CHECKING

        import numpy as np
        import cv2  # a comment
        from fake.parts.one import (
            One,  # the first
            Other as Another,
        )

        if TYPE_CHECKING:
            import av
            from fake.parts.two import Two


        def late() -> None:
            from fake.three import three
            from PIL import Image, ImageDraw
    """,
    "parts/__init__.py": "",
    "parts/one.py": "One = Other = 1",
    "parts/two.py": "Two = 2",
    "three.py": "def three(): ...",
    "not_reached.py": "import nowhere",
}


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[dict[str, str]], Find]:
    """Write the modules of a package "fake" and return what finds them."""

    def write(files: dict[str, str]) -> Find:
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / "fake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(re.sub(r"^ {8}", "", text, flags=re.MULTILINE).lstrip("\n"), encoding="utf-8")
        return find

    def find(name: str) -> Path | None:
        path = tmp_path.joinpath(*name.split("."))
        return next((found for found in (path / "__init__.py", path.with_suffix(".py")) if found.exists()), None)

    return write


def problems(find: Find, *entries: str) -> str:
    with pytest.raises(ValueError, match="flat folder") as caught:
        reached_modules(entries or ("fake.entry",), "fake", find)
    return str(caught.value)


def test_imports_are_followed_wherever_they_stand(fake: Callable[[dict[str, str]], Find]) -> None:
    modules = reached_modules(["fake.entry"], "fake", fake(FLAT))
    assert [module.name for module in modules] == ["fake.entry", "fake.parts.one", "fake.parts.two", "fake.three"]


def test_only_import_lines_change(fake: Callable[[dict[str, str]], Find]) -> None:
    entry = reached_modules(["fake.entry"], "fake", fake(FLAT))[0]
    flat = flat_source(entry, "fake").splitlines()
    assert flat[0] == "'''from fake.parts.one import One'''"
    added = [line for line in flat if line not in entry.text.splitlines()]
    assert [line for line in added if "raise" not in line and "try" not in line and "except" not in line] == [
        "    import cv2  # a comment",
        "from .one import (",
        "        import av",
        "    from .two import Two",
        "    from .three import three",
        "        from PIL import Image, ImageDraw",
    ]
    removed = [line for line in entry.text.splitlines() if line not in flat]
    assert [line.strip().split(" ")[0] for line in removed] == ["import", "from", "import", "from", "from", "from"]
    assert "        Another," not in flat
    assert "    Other as Another," in flat


def test_transformers_finds_every_module_and_no_library_that_may_be_missing(
    fake: Callable[[dict[str, str]], Find], tmp_path: Path
) -> None:
    entry = reached_modules(["fake.entry"], "fake", fake(FLAT))[0]
    (tmp_path / "entry.py").write_text(flat_source(entry, "fake"), encoding="utf-8")
    assert sorted(get_relative_imports(tmp_path / "entry.py")) == ["one", "three", "two"]
    assert set(get_imports(tmp_path / "entry.py")) == {"__future__", "numpy", "typing"}


@pytest.mark.parametrize(
    ("library", "pip_name"), [("cv2", "opencv-python-headless"), ("PIL", "pillow"), ("pycocotools", "pycocotools")]
)
def test_a_missing_library_says_how_to_install_it(
    fake: Callable[[dict[str, str]], Find], monkeypatch: pytest.MonkeyPatch, library: str, pip_name: str
) -> None:
    find = fake({"entry.py": f"def late():\n    import {library}\n"})
    namespace: dict[str, Callable[[], None]] = {}
    exec(flat_source(reached_modules(["fake.entry"], "fake", find)[0], "fake"), namespace)
    namespace["late"]()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library}: pip install {pip_name} \(or pip install sam-variants"):
        namespace["late"]()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("from .parts.one import One", "relative"),
        ("from . import parts", "relative"),
        ("import fake.parts.one", "write from fake"),
        ("import os, fake", "write from fake"),
        ("from fake import parts", "is a package"),
        ("from fake.parts import one", "is a package"),
        ("from fake.gone import x", "no module fake.gone"),
        ("from importlib.resources import files", "files of one"),
        ("import importlib", "files of one"),
        ("import pkgutil", "files of one"),
        ("x = __file__", "files of one"),
        ("x = __import__('fake')", "files of one"),
        ("import timm", "PIP_NAMES"),
        ("from gradio import Blocks", "PIP_NAMES"),
        ("import cv2; x = 1", "line to itself"),
        ("if True: import cv2", "line to itself"),
    ],
)
def test_what_cannot_be_flat_is_refused_with_file_and_line(
    fake: Callable[[dict[str, str]], Find], tmp_path: Path, line: str, why: str
) -> None:
    find = fake(FLAT | {"three.py": f"def three():\n    pass\n\n\n{line}\n"})
    message = problems(find)
    assert f"{tmp_path / 'fake' / 'three.py'}:5: " in message
    assert why in message


def test_clashing_base_names_are_refused(fake: Callable[[dict[str, str]], Find], tmp_path: Path) -> None:
    find = fake({**FLAT, "three.py": "from fake.more.one import x", "more/__init__.py": "", "more/one.py": "x = 1"})
    message = problems(find)
    assert f"{tmp_path / 'fake' / 'parts' / 'one.py'}:1: has the base name of " in message


def test_all_problems_are_told_at_once(fake: Callable[[dict[str, str]], Find]) -> None:
    message = problems(fake({"entry.py": "import fake\nfrom fake.two import x", "two.py": "x = __file__"}))
    assert "entry.py:1" in message
    assert "two.py:1" in message


def test_an_entry_that_is_not_there(fake: Callable[[dict[str, str]], Find]) -> None:
    with pytest.raises(ValueError, match=r"no module fake\.entry"):
        reached_modules(["fake.entry"], "fake", fake({}))


def test_the_package_is_flat_and_whole() -> None:
    """Every module that is imported from lies there, and what is imported is defined."""
    files = code_files()
    trees = {name.removesuffix(".py"): ast.parse(text) for name, text in files.items()}
    for name, text in files.items():
        assert text.startswith(MARK), name
        for node in ast.walk(trees[name.removesuffix(".py")]):
            if isinstance(node, ast.Import):
                modules = [alias.name.split(".")[0] for alias in node.names]
                assert "sam_variants" not in modules, name
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, name
                bound = {part.id for part in ast.walk(trees[str(node.module)]) if isinstance(part, ast.Name)}
                bound |= {part.name for part in trees[str(node.module)].body if hasattr(part, "name")}
                assert {alias.name for alias in node.names} <= bound | {"__name__"}, f"{name}: {ast.unparse(node)}"
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] != "sam_variants", name


def test_transformers_reaches_everything_from_the_door(tmp_path: Path) -> None:
    files = code_files()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        allowed = {*ALWAYS_THERE, *sys.stdlib_module_names}
        assert set(get_imports(tmp_path / name)) <= allowed, name
    reached = [DOOR, *get_relative_imports(tmp_path / f"{DOOR}.py")]
    assert sorted(f"{name}.py" for name in reached) == list(files)


def test_package_data_and_scripts_are_not_reached() -> None:
    assert {"default_checkpoint.py", "cli.py", "__init__.py"}.isdisjoint(code_files())
