"""The published checkpoint files and what they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownCheckpoint:
    """One published file.

    Args:
        preset: name in `PRESETS` of its architecture.
        file_name: its published name.
        url: where its authors publish it.
        licence: SPDX identifier of the weights' licence.
        layout: name in `LAYOUTS` of its parameter names.
        sha256: checksum of the file, for downloads.
    """

    preset: str
    file_name: str
    url: str
    licence: str
    layout: str
    sha256: str


SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"

CHECKPOINTS: dict[str, KnownCheckpoint] = {
    "sam_vit_b": KnownCheckpoint(
        preset="sam-vit-base",
        file_name="sam_vit_b_01ec64.pth",
        url=f"{SAM_URL}/sam_vit_b_01ec64.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam_vit_l": KnownCheckpoint(
        preset="sam-vit-large",
        file_name="sam_vit_l_0b3195.pth",
        url=f"{SAM_URL}/sam_vit_l_0b3195.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam_vit_h": KnownCheckpoint(
        preset="sam-vit-huge",
        file_name="sam_vit_h_4b8939.pth",
        url=f"{SAM_URL}/sam_vit_h_4b8939.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "mobile_sam": KnownCheckpoint(
        preset="mobile-sam",
        file_name="mobile_sam.pt",
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        licence="Apache-2.0",
        layout="mobile-sam",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
}
