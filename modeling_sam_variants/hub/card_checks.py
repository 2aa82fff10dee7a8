"""What somebody asks a card to say of its licence and its data, before it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LICENCE_FIELDS = ("license", "license_name", "license_link")
OTHER = "other"
# An address, or a file of the repository.
LINK = re.compile(r"https?://[^\s/]+\S*|(?!/)(?!.*\.\.)[\w./-]+")
DATASET = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def check_given(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse what is asked for when it says nothing, or not what the Hub reads.

    Args:
        given: what the caller asked for, as arguments of `model_card`.
        known: the same from earlier cards.

    Raises:
        ValueError: for a name or address of a licence that has an identifier, for a licence "other" without both, for
            an address that is none, and for the name of a data set that is none.
    """
    for dataset in given.get("datasets", ()):
        if not DATASET.fullmatch(dataset):
            raise ValueError(f"datasets has {dataset!r}, which is no data set on the Hub (owner/name, or name)")
    asked = [name for name in LICENCE_FIELDS if name in given]
    if not asked:
        return
    licence, name, link = ({**known, **given}.get(field) for field in LICENCE_FIELDS)
    if str(licence).lower() != OTHER:
        if extra := [field for field in asked if field != "license"]:
            raise ValueError(f"{extra[0]}={given[extra[0]]!r} is for license='other', and the licence is {licence!r}")
    elif not (name and link):
        raise ValueError("license='other' says nothing alone: give its license_name and its license_link too")
    if "license_link" in given and not LINK.fullmatch(str(link)):
        raise ValueError(f"license_link={link!r} is neither an http(s) address nor a file of the repository")
