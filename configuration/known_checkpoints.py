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
        size: of the file, in bytes.
        num_parameters: of the model in it, buffers not counted.
        hub_repo: its authors' repository on the Hub, in transformers' layout; for MobileSAM one with the same file.
    """

    preset: str
    file_name: str
    url: str
    licence: str
    layout: str
    sha256: str
    size: int
    num_parameters: int
    hub_repo: str


SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/072824"
SAM2_1_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"


def sam2(preset: str, url: str, sha256: str, size: int, num_parameters: int) -> KnownCheckpoint:
    """A row for a file of SAM 2 or 2.1, whose name and repository follow from the preset's."""
    file_name = f"{preset.replace('-', '_')}.pt"
    return KnownCheckpoint(
        preset=preset,
        file_name=file_name,
        url=f"{url}/{file_name}",
        licence="Apache-2.0",
        layout="sam2",
        sha256=sha256,
        size=size,
        num_parameters=num_parameters,
        hub_repo=f"facebook/{preset}",
    )


CHECKPOINTS: dict[str, KnownCheckpoint] = {
    "sam_vit_b": KnownCheckpoint(
        preset="sam-vit-base",
        file_name="sam_vit_b_01ec64.pth",
        url=f"{SAM_URL}/sam_vit_b_01ec64.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        size=375_042_383,
        num_parameters=93_735_472,
        hub_repo="facebook/sam-vit-base",
    ),
    "sam_vit_l": KnownCheckpoint(
        preset="sam-vit-large",
        file_name="sam_vit_l_0b3195.pth",
        url=f"{SAM_URL}/sam_vit_l_0b3195.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        size=1_249_524_607,
        num_parameters=312_342_832,
        hub_repo="facebook/sam-vit-large",
    ),
    "sam_vit_h": KnownCheckpoint(
        preset="sam-vit-huge",
        file_name="sam_vit_h_4b8939.pth",
        url=f"{SAM_URL}/sam_vit_h_4b8939.pth",
        licence="Apache-2.0",
        layout="sam",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        size=2_564_550_879,
        num_parameters=641_090_608,
        hub_repo="facebook/sam-vit-huge",
    ),
    "mobile_sam": KnownCheckpoint(
        preset="mobile-sam",
        file_name="mobile_sam.pt",
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        licence="Apache-2.0",
        layout="mobile-sam",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        size=40_728_226,
        num_parameters=10_130_092,
        hub_repo="dhkim2810/MobileSAM",
    ),
    "sam2_hiera_tiny": sam2(
        "sam2-hiera-tiny",
        SAM2_URL,
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
        size=155_906_050,
        num_parameters=38_945_986,
    ),
    "sam2_hiera_small": sam2(
        "sam2-hiera-small",
        SAM2_URL,
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
        size=184_309_650,
        num_parameters=46_043_842,
    ),
    "sam2_hiera_base_plus": sam2(
        "sam2-hiera-base-plus",
        SAM2_URL,
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
        size=323_493_298,
        num_parameters=80_833_666,
    ),
    "sam2_hiera_large": sam2(
        "sam2-hiera-large",
        SAM2_URL,
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
        size=897_952_466,
        num_parameters=224_430_130,
    ),
    "sam2.1_hiera_tiny": sam2(
        "sam2.1-hiera-tiny",
        SAM2_1_URL,
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        size=156_008_466,
        num_parameters=38_962_498,
    ),
    "sam2.1_hiera_small": sam2(
        "sam2.1-hiera-small",
        SAM2_1_URL,
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        size=184_416_285,
        num_parameters=46_060_354,
    ),
    "sam2.1_hiera_base_plus": sam2(
        "sam2.1-hiera-base-plus",
        SAM2_1_URL,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        size=323_606_802,
        num_parameters=80_850_178,
    ),
    "sam2.1_hiera_large": sam2(
        "sam2.1-hiera-large",
        SAM2_1_URL,
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        size=898_083_611,
        num_parameters=224_446_642,
    ),
}
