"""What a user of the installed wheel does first; run from a folder outside the checkout.

Usage: python smoke_test.py CHECKOUT, where CHECKOUT is the folder that must not be imported from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

# Read once, when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import sam_variants
from sam_variants.processing.video_writer import VideoWriter

BOX = (303, 14, 366, 74)
VIDEO_BOX, VIDEO_LEFT = (130, 27, 181, 76), 60


def check(condition: bool, message: str) -> None:
    """Exit with the message unless the condition holds."""
    if not condition:
        sys.exit(f"smoke test: {message}")


def check_installation(checkout: Path) -> Path:
    """The package comes from site-packages with its data; returns the bundled photo."""
    package = Path(sam_variants.__file__).resolve().parent
    check(not package.is_relative_to(checkout), f"sam_variants was imported from the checkout: {package}")
    check(version("sam-variants") != "", "the distribution has no version")
    missing = [name for name in sam_variants.__all__ if not hasattr(sam_variants, name)]
    check(not missing, f"names in __all__ that do not exist: {missing}")
    photo = Path(str(files("sam_variants.hub_scripts") / "photos" / "coins.jpg"))
    checkpoints = [sam_variants.default_checkpoint(video=video) for video in (False, True)]
    for path in (package / "py.typed", photo, *(checkpoint / "config.json" for checkpoint in checkpoints)):
        check(path.is_file(), f"{path.name} is not in the wheel")
    for checkpoint in checkpoints:
        check(any(checkpoint.glob("*.safetensors")), f"the embedded checkpoint {checkpoint.name} has no weights")
    return photo


def check_model(photo: Path) -> None:
    """The embedded checkpoint segments the photo through the Auto classes."""
    checkpoint = sam_variants.default_checkpoint()
    model = AutoModel.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    image = Image.open(photo).convert("RGB")
    inputs = processor(images=image, input_boxes=[[list(BOX)]], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=False)
    sizes = inputs["original_sizes"], inputs.get("reshaped_input_sizes")
    masks = processor.post_process_masks(outputs.pred_masks, *sizes)
    check(tuple(masks[0].shape[-2:]) == (image.height, image.width), f"mask of the wrong size: {masks[0].shape}")
    check(bool(masks[0].any()), "the mask of the box is empty")
    check(bool(outputs.iou_scores.isfinite().all()), "the scores are not finite")


def check_command(photo: Path) -> None:
    """`sam-variants segment` writes pictures and JSON, and fails without a traceback."""
    command = Path(sys.executable).parent / "sam-variants"
    with tempfile.TemporaryDirectory() as folder:
        box = ",".join(str(value) for value in BOX)
        subprocess.run([command, "segment", photo, "--box", box, "--out", folder], check=True, timeout=300)
        written = [path for path in Path(folder).rglob("*") if path.is_file()]
        pictures = [path for path in written if path.suffix == ".png"]
        check(bool(pictures), f"no PNG among {[path.name for path in written]}")
        for path in pictures:
            Image.open(path).load()
        check(any(path.suffix == ".json" for path in written), "no COCO JSON was written")
        for path in written:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
    refused = subprocess.run([command, "segment", "no-such-photo.jpg"], capture_output=True, text=True, timeout=300)
    check(refused.returncode != 0, "a missing photo is not an error")
    check("Traceback" not in refused.stderr + refused.stdout, "a missing photo ends in a traceback")


def check_everything(photo: Path) -> None:
    """The embedded model finds the 24 coins, and says so in COCO's format."""
    command = Path(sys.executable).parent / "sam-variants"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([command, "everything", photo, "--preset", "fast", "--out", folder], check=True, timeout=300)
        dataset = json.loads((Path(folder) / "instances.json").read_text(encoding="utf-8"))
    count = len(dataset["annotations"])
    check(24 <= count <= 60, f"{count} masks were found on the photo of 24 coins")


def check_video(photo: Path) -> None:
    """The embedded tracker follows a coin through frames that a camera pans over, written to a video file and back."""
    image = np.asarray(Image.open(photo).convert("RGB"))
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with VideoWriter(clip, fps=10) as writer:
            for shift in range(0, 24, 4):
                writer.write(np.ascontiguousarray(image[:200, VIDEO_LEFT + shift : VIDEO_LEFT + 200 + shift]))
        command = Path(sys.executable).parent / "sam-variants"
        left, top, right, bottom = VIDEO_BOX
        box = f"0,1,{left - VIDEO_LEFT},{top},{right - VIDEO_LEFT},{bottom}"
        subprocess.run([command, "track", clip, "--box", box, "--out", folder], check=True, timeout=300)
        lines = (Path(folder) / "clip_masks.jsonl").read_text(encoding="utf-8").splitlines()
        boxes = [json.loads(line)["objects"][0]["bbox"] for line in lines[1:]]
    check(len(boxes) == 6, f"{len(boxes)} of 6 frames were tracked")
    moved = (boxes[0][0] + boxes[0][2] / 2) - (boxes[-1][0] + boxes[-1][2] / 2)
    check(12 < moved < 28, f"the coin moved by {moved} pixels instead of 20")


def check_repositories() -> None:
    """The wheel can write a repository folder with its own code in it, and a Space that carries the package."""
    command = Path(sys.executable).parent / "sam-variants"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        checkpoint = sam_variants.default_checkpoint()
        subprocess.run([command, "convert", checkpoint, "--out", folder, "--with-code"], check=True, timeout=300)
        sam_variants.load_checkpoint(folder, verify=True)
        check((folder / "modeling_sam_variants.py").is_file(), "the code was not written into the repository folder")
        check("auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8")), "no auto_map")
    options = ["--dry-run", "--json"]
    space = subprocess.run(
        [command, "push-space", "me/demo", *options], check=True, timeout=300, capture_output=True, text=True
    )
    names = {file["path"] for file in json.loads(space.stdout)["files"]}
    demo = {f"sam_variants/spaces_demo/{name}" for name in ("page.py", "page.css", "examples/coins.jpg")}
    needed = {"app.py", "README.md", "thumbnail.png", "sam_variants/weights/model.safetensors", *demo}
    check(needed <= names, f"the Space lacks {needed - names}")


def check_demo() -> None:
    """Without the extra `demo`, the command says how to get it."""
    command = Path(sys.executable).parent / "sam-variants"
    refused = subprocess.run([command, "demo"], capture_output=True, text=True, timeout=300)
    check(refused.returncode != 0, "the demo starts although gradio is not installed")
    told = refused.stderr.strip().splitlines()
    check(len(told) == 1 and 'pip install "sam-variants[demo]"' in told[0], f"the demo does not say what to do: {told}")


def main() -> None:
    photo = check_installation(Path(sys.argv[1]).resolve())
    check_model(photo)
    check_command(photo)
    check_everything(photo)
    check_video(photo)
    check_repositories()
    check_demo()
    print("smoke test passed")


if __name__ == "__main__":
    main()
