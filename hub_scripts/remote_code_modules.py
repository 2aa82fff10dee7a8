"""Modules of a package as one flat folder: follows its own imports, and rewrites nothing but them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

# What can be imported wherever transformers runs a model.
ALWAYS_THERE = frozenset({"torch", "transformers", "huggingface_hub", "safetensors", "numpy"})
# What else the code may need, and how it is called on the package index.
PIP_NAMES = {"av": "av", "cv2": "opencv-python-headless", "PIL": "pillow", "pycocotools": "pycocotools"}
# Ways to the files and modules of a package, which a flat folder isn't.
PACKAGE_ACCESS = frozenset({"importlib", "pkgutil", "pkg_resources"})
PACKAGE_NAMES = frozenset({"__file__", "__path__", "__package__", "__spec__", "__loader__", "__import__"})

ImportNode = ast.Import | ast.ImportFrom


@dataclass
class SourceModule:
    """A module of a package.

    Attributes:
        name: dotted.
        path: the file.
        text: its source.
        imports: its import statements wherever they stand, in functions and under `TYPE_CHECKING` too.
        problems: what can't be in a flat folder, as "file:line: what".
    """

    name: str
    path: Path
    text: str
    imports: list[ImportNode] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def base_name(self) -> str:
        return self.name.rsplit(".", 1)[-1]

    def refuse(self, line: int, why: str) -> None:
        self.problems.append(f"{self.path}:{line}: {why}")


def find_installed(name: str) -> Path | None:
    """The file of an importable module, which is not imported; its packages are."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def reached_modules(
    entries: Iterable[str], package: str, find: Callable[[str], Path | None] = find_installed
) -> list[SourceModule]:
    """The modules that must lie beside each other for the entries to work, sorted by name.

    Args:
        entries: dotted names of modules.
        package: whose modules are followed.
        find: where a module lies, by its dotted name.

    Raises:
        ValueError: naming file and line of all that can't be flat.
    """
    waiting, found = list(entries), dict[str, SourceModule]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = find(name)
        if path is None:
            raise ValueError(f"there is no module {name}")
        module = found[name] = SourceModule(name, path, path.read_text(encoding="utf-8"))
        read_imports(module, package, find)
        waiting += _own_modules(module, package)
    modules = [found[name] for name in sorted(found)]
    problems = [problem for module in modules for problem in module.problems] + clashes(modules)
    if problems:
        raise ValueError("this code can't lie in one flat folder:\n" + "\n".join(problems))
    return modules


def read_imports(module: SourceModule, package: str, find: Callable[[str], Path | None]) -> None:
    """Fill `imports` and `problems`; an import that is refused is not among the imports."""
    for node in ast.walk(ast.parse(module.text, filename=str(module.path))):
        if isinstance(node, ast.Name) and node.id in PACKAGE_NAMES:
            module.refuse(node.lineno, f"{node.id}: there is no package around a flat file, nor files of one")
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        why = _why_not_flat(node, package, find) or _why_not_alone(node, module.text)
        if why is None:
            module.imports.append(node)
        else:
            module.refuse(node.lineno, f"{ast.unparse(node)}: {why}")


def _libraries(node: ImportNode) -> list[str]:
    """First parts of what is imported; "" for what is relative."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return ["" if node.level else str(node.module).split(".")[0]]


def _is_own(node: ImportNode, package: str) -> bool:
    return package in _libraries(node)


def _own_modules(module: SourceModule, package: str) -> list[str]:
    own = [node for node in module.imports if isinstance(node, ast.ImportFrom) and _is_own(node, package)]
    return [str(node.module) for node in own]


def _why_not_flat(node: ImportNode, package: str, find: Callable[[str], Path | None]) -> str | None:
    """What is wrong with an import, or None."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return "a relative import; name the defining module in full"
    if package in _libraries(node):
        if isinstance(node, ast.Import):
            return f"write from {package}.<module> import <names>"
        path = find(str(node.module))
        if path is None:
            return f"there is no module {node.module}"
        if path.name == "__init__.py":
            return f"{node.module} is a package; name the defining module"
        return None
    for library in _libraries(node):
        if library in PACKAGE_ACCESS:
            return "there is no package around a flat file, nor files of one"
        if library not in {*sys.stdlib_module_names, *ALWAYS_THERE, *PIP_NAMES}:
            return f"{library} is missing in PIP_NAMES, which says how to install it"
    return None


def _why_not_alone(node: ImportNode, text: str) -> str | None:
    """An import is rewritten with its lines, so nothing else may stand on them."""
    lines = text.splitlines()
    before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
    after = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset :].decode()
    if before.strip() or after.split("#")[0].strip():
        return "must have its line to itself"
    return None


def clashes(modules: Iterable[SourceModule]) -> list[str]:
    """Modules that would overwrite each other."""
    first, found = dict[str, SourceModule](), []
    for module in modules:
        other = first.setdefault(module.base_name, module)
        if other is not module:
            found.append(f"{module.path}:1: has the base name of {other.path}")
    return found


def flat_source(module: SourceModule, package: str) -> str:
    """The module's text with its imports as they must be in a flat folder.

    Imports of the package become relative. Those of libraries that may be missing say how to install them; inside
    `try` transformers doesn't look at them, whose own advice is to install what is imported by its name.
    """
    lines = module.text.splitlines(keepends=True)
    for node in sorted(module.imports, key=lambda node: node.lineno, reverse=True):
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        if isinstance(node, ast.ImportFrom) and _is_own(node, package):
            base_name = str(node.module).rsplit(".", 1)[-1]
            lines[start] = re.sub(rf"\bfrom\s+{re.escape(str(node.module))}\b", f"from .{base_name}", lines[start])
        elif missing := sorted({PIP_NAMES[library] for library in _libraries(node) if library in PIP_NAMES}):
            lines[start:end] = _guarded(lines[start:end], node, " ".join(missing))
    return "".join(lines)


def _guarded(lines: list[str], node: ImportNode, pip_names: str) -> list[str]:
    indent = " " * node.col_offset
    message = (
        f"This model's code needs {', '.join(_libraries(node))}: pip install {pip_names} "
        "(or pip install sam-variants, which brings everything and needs no trust_remote_code)"
    )
    return [
        f"{indent}try:\n",
        *(f"    {line}" for line in lines),
        f"{indent}except ImportError as error:\n",
        f"{indent}    raise ImportError({message!r}) from error\n",
    ]
