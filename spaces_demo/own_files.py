"""Files that were uploaded here, given by the address under which this Space serves them."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gradio.utils import get_upload_folder, is_in_or_equal

from sam_variants.spaces_demo import limits

SERVED = "/gradio_api/file="


def inlined(address: str) -> str:
    """The file behind an address of this Space as a data: address.

    The host is not looked at, because nothing is fetched: a Space has many names, and the file lies here or nowhere.

    Raises:
        ValueError: for any other address, files that are not uploads, and files too large to be handed on this way.
    """
    _, found, path = urlsplit(address).path.partition(SERVED)
    path = unquote(path)
    if not found or "\0" in path or not is_in_or_equal(path, get_upload_folder()):
        raise ValueError(f"{address!r} is no file of this Space")
    file = Path(path)
    if not file.is_file() or file.stat().st_size > limits.MAX_MCP_BYTES * 3 // 4:
        raise ValueError(f"{address!r} is gone or too large")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
