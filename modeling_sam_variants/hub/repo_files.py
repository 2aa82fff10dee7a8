"""Which files of a folder belong into a repository, and which of a repository are left from an earlier push."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from sam_variants.hub.checksums import CHECKSUMS_FILE
from sam_variants.hub.saved_weights import is_saved_weights

CARD_FILE = "README.md"
CONFIG_FILE = "config.json"
# The first words of a module that was generated from the installed package.
GENERATED_CODE = b"# Generated from sam-variants "
# The generated module that `auto_map` and `custom_pipelines` of a configuration name.
DOOR = "sam_variants_remote_code"
OWN_MODEL_TYPE = "sam_variants"
KNOWN = (
    CONFIG_FILE,
    "processor_config.json",
    "preprocessor_config.json",
    CARD_FILE,
    CHECKSUMS_FILE,
    "LICENSE*",
    "NOTICE*",
    "*.safetensors",
    "*.safetensors.index.json",
)
RESULTS_FILES = ".eval_results/*.yaml"
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
PICTURE_LINK = re.compile(r"""!\[[^\]]*\]\((?:<([^>\n]+)>|([^)\s]+))|<img[^>]*?\ssrc=["']([^"']+)""", re.IGNORECASE)
# Never, however it is asked for: what git and Python leave behind, what may hold a secret, what can hold code.
FORBIDDEN_FOLDERS = {".git", ".cache", "__pycache__", ".ipynb_checkpoints", ".ssh", ".venv"}
FORBIDDEN = (
    *(".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "token", "stored_tokens"),
    *("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl", "*.pickle", "*.pyc"),
)
SPACE = "space"


def repo_files(folder: Path, repo_type: str = "model", include: Sequence[str] = ()) -> tuple[list[Path], list[Path]]:
    """The files of a folder that are pushed, and those that are left out.

    Of a model's folder only what belongs to a checkpoint is pushed; of a Space's everything but `FORBIDDEN`.

    Args:
        folder: a repository's folder.
        repo_type: "model" or "space".
        include: patterns of further files, as paths relative to the folder.

    Returns:
        Both sorted, relative to the folder.

    Raises:
        ValueError: when a pattern matches nothing, or something that is never pushed.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if not FORBIDDEN_FOLDERS & set(name.parts[:-1])]
    for pattern in include:
        refuse_useless(pattern, names)
    pictures = linked_pictures(folder / CARD_FILE)
    chosen = [
        name
        for name in names
        if not is_forbidden(name)
        and (
            repo_type == SPACE
            or name.as_posix() in pictures
            or matches(name, (*KNOWN, RESULTS_FILES, *include))
            or is_generated_code(folder, name)
        )
    ]
    return chosen, [name for name in names if name not in set(chosen)]


def refuse_useless(pattern: str, names: Iterable[Path]) -> None:
    found = [name for name in names if matches(name, [pattern])]
    if not found:
        raise ValueError(f"include={pattern!r} matches no file of the folder")
    if forbidden := [name.as_posix() for name in found if is_forbidden(name)]:
        raise ValueError(
            f"include={pattern!r} matches {', '.join(forbidden)}: files that can hold code or a secret are never pushed"
        )


def is_forbidden(name: Path) -> bool:
    return any(fnmatchcase(name.name.lower(), pattern) for pattern in FORBIDDEN)


def matches(name: Path, patterns: Iterable[str]) -> bool:
    """Whether a path matches a pattern; one without a slash is of the folder itself."""
    path = name.as_posix()
    return any(fnmatchcase(path, pattern) and ("/" in pattern or "/" not in path) for pattern in patterns)


def is_generated_code(folder: Path, name: Path) -> bool:
    if name.suffix != ".py" or len(name.parts) > 1:
        return False
    with (folder / name).open("rb") as file:
        return file.read(len(GENERATED_CODE)) == GENERATED_CODE


def has_code(folder: Path) -> bool:
    """Whether a folder holds the code that `trust_remote_code=True` runs."""
    door = Path(f"{DOOR}.py")
    return (folder / door).is_file() and is_generated_code(folder, door)


def linked_pictures(card: Path) -> set[str]:
    """The pictures that a card shows and that lie in its folder; where a link of the file system leads is no matter."""
    return {name for name in picture_names(card) if (card.parent / name).is_file()}


def picture_names(card: Path) -> set[str]:
    """The pictures of its repository that a card shows."""
    if not card.is_file():
        return set()
    text = card.read_text(encoding="utf-8", errors="replace")
    links = {unquote(next(filter(None, match.groups()))).removeprefix("./") for match in PICTURE_LINK.finditer(text)}
    return {link for link in links if link.lower().endswith(PICTURES) and is_inside(link)}


def is_inside(link: str) -> bool:
    """Whether a link stays in the folder that it starts from."""
    return not link.startswith("/") and not re.search(r"[:\\]|(^|/)\.\.(/|$)", link)


def leftovers(
    remote: Iterable[str], pushed: Iterable[str], repo_type: str = "model", mirrored: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """What of a repository an earlier push left behind: of a model, what `save_pretrained` wrote; modules.

    Args:
        remote: the repository's files.
        pushed: those that it gets now.
        repo_type: "model" or "space".
        mirrored: folders that hold nothing but what is pushed.

    Returns:
        Files that would mix with the new ones, and Python files, which may be somebody's own.
    """
    gone = sorted(set(remote) - set(pushed))
    folders = [f"{folder}/*" for folder in mirrored]
    is_model = repo_type != SPACE
    stale = [name for name in gone if (is_model and is_saved_weights(name)) or matches(Path(name), folders)]
    return stale, [name for name in gone if matches(Path(name), ["*.py"])]
