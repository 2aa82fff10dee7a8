"""The image processor: parity with the official preprocessing, every kind of image, sizes, and the way back."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from sam_variants.processing import mask_post_processing
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil

GOLDENS = Path(__file__).parent / "goldens"
SAM2_SETTINGS: dict[str, Any] = {
    "resize_mode": "square",
    "do_rescale": True,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
}


def random_image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.randint(0, 256, (height, width, channels), dtype=np.uint8)


def as_seen(image: Any, **settings: Any) -> np.ndarray:
    """The pixels that the processor reads out of an image: H×W×3, 0..255."""
    processor = SamVariantsImageProcessorPil(do_resize=False, do_normalize=False, do_pad=False)
    return processor(image, return_tensors="np", **settings)["pixel_values"][0].transpose(1, 2, 0)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def golden_processor(name: str) -> tuple[dict[str, torch.Tensor], SamVariantsImageProcessorPil]:
    tensors = load_file(GOLDENS / name / "io.safetensors")
    spec = json.loads((GOLDENS / name / "config.json").read_text())["spec"]
    return tensors, SamVariantsImageProcessorPil(image_size=spec["image_encoder"]["img_size"])


@pytest.mark.parametrize("name", ["sam_full", "mobilesam_full"])
def test_preprocessing_equals_the_official_one(name: str) -> None:
    tensors, processor = golden_processor(name)
    case = "forward_multimask_True"
    images = [tensors[f"{case}/in/raw{index}"].numpy() for index in range(2)]
    batch = processor(images, return_tensors="pt")
    torch.testing.assert_close(batch["pixel_values"], tensors[f"{case}/tap/preprocessed"], rtol=0, atol=1e-6)
    assert batch["original_sizes"].tolist() == [[48, 70], [64, 40]]
    for index, shape in enumerate(batch["reshaped_input_sizes"].tolist()):
        official = tensors[f"{case}/in/b{index}_image"]
        assert tuple(shape) == official.shape[1:]
        plain = processor(images[index], do_normalize=False, do_pad=False, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(plain, official.float())


@pytest.mark.parametrize("name", ["sam_full", "mobilesam_full"])
def test_masks_come_back_as_the_official_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, processor = golden_processor(name)
    case = "forward_multimask_True"
    images = [tensors[f"{case}/in/raw{index}"].numpy() for index in range(2)]
    batch = processor(images, return_tensors="pt")
    logits = [tensors[f"{case}/out/low_res_logits_{index}"] for index in range(2)]
    arguments = (logits, batch["original_sizes"], batch["reshaped_input_sizes"])
    masks = processor.post_process_masks(*arguments)
    for index, mask in enumerate(masks):
        assert torch.equal(mask, tensors[f"{case}/out/masks_{index}"])
    monkeypatch.setattr(mask_post_processing, "MAX_LOGITS_AT_ONCE", 1)
    for mask, one_by_one in zip(masks, processor.post_process_masks(*arguments), strict=True):
        assert torch.equal(mask, one_by_one)
    case = "predictor_box_multimask_True"
    logits_back = processor.post_process_masks(
        tensors[f"{case}/out/low_res_logits"][None, None], [(48, 70)], binarize=False
    )
    torch.testing.assert_close(logits_back[0][0], tensors[f"{case}/out/mask_logits_original_size"], rtol=0, atol=1e-5)


def test_a_square_resize_is_antialiased_in_float_and_normalised() -> None:
    image = random_image(40, 90)
    processor = SamVariantsImageProcessorPil(image_size=32, **SAM2_SETTINGS)
    batch = processor(image, return_tensors="np")
    # Pillow filters 32-bit channels the same way.
    channels = [Image.fromarray(image[..., index] / np.float32(255)) for index in range(3)]
    resized = np.stack([np.asarray(channel.resize((32, 32), Image.Resampling.BILINEAR)) for channel in channels])
    mean, std = (np.array(SAM2_SETTINGS[key], np.float32).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    np.testing.assert_allclose(batch["pixel_values"][0], (resized - mean) / std, atol=1e-5)
    assert batch["original_sizes"].tolist() == [[40, 90]]
    assert batch["reshaped_input_sizes"].tolist() == [[32, 32]]
    logits = torch.randn(1, 2, 3, 8, 8)
    expected = torch.nn.functional.interpolate(logits[0], (40, 90), mode="bilinear", align_corners=False)
    assert torch.equal(processor.post_process_masks(logits, [(40, 90)], binarize=False)[0], expected)


def test_one_image_in_every_container(tmp_path: Path) -> None:
    image = random_image(12, 17)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    data = base64.b64encode(path.read_bytes()).decode()
    containers = [
        image,
        image.transpose(2, 0, 1),
        Image.fromarray(image),
        torch.from_numpy(image),
        torch.from_numpy(image).permute(2, 0, 1),
        image / 255,
        (image / 255).astype(np.float16),
        image.astype(np.float32),
        image.astype(np.int64),
        image.astype(np.uint16) * 257,
        torch.from_numpy(image).permute(2, 0, 1) / 255,
        str(path),
        path,
        f"data:image/png;base64,{data}",
        data,
        [[image]],
        image[None],
    ]
    for container in containers:
        np.testing.assert_array_equal(as_seen(container), image)
    # A list mixes containers, and a batch is as many images.
    batch = SamVariantsImageProcessorPil(image_size=32)([*containers[:4], np.stack([image] * 2)], return_tensors="pt")
    assert batch["pixel_values"].shape == (6, 3, 32, 32)
    assert (batch["pixel_values"] == batch["pixel_values"][0]).all()


def test_a_url_is_fetched_and_composited() -> None:
    image = random_image(5, 7, 4)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/image.png" else 404)
            self.end_headers()
            self.wfile.write(encoded(Image.fromarray(image), "PNG"))

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        np.testing.assert_array_equal(as_seen(f"{address}/image.png"), as_seen(Image.fromarray(image)))
        with pytest.raises(ValueError, match=r"images\[0\].*missing\.png.*404"):
            as_seen(f"{address}/missing.png")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "F", "I"])
def test_gray_is_repeated(mode: str, tmp_path: Path) -> None:
    gray = random_image(9, 11, 1)[..., 0]
    if mode == "1":
        gray = (gray > 127).astype(np.uint8) * 255
        image = Image.fromarray(gray > 0)
    elif mode == "L":
        image = Image.fromarray(gray)
    elif mode == "F":
        image = Image.fromarray(gray.astype(np.float32))
    else:
        image = Image.fromarray(gray.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    assert image.mode == mode
    np.testing.assert_array_equal(as_seen(image), np.repeat(gray[..., None], 3, axis=2))
    if mode in ("1", "L", "I;16"):
        path = tmp_path / "gray.png"
        image.save(path)
        np.testing.assert_array_equal(as_seen(path), np.repeat(gray[..., None], 3, axis=2))
    for array in (gray, gray[..., None], gray[None], torch.from_numpy(gray)):
        np.testing.assert_array_equal(as_seen(array), np.repeat(gray[..., None], 3, axis=2))


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 128, 129, 256, 32768, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(as_seen(values)[0, :, 0], [0, 0, 1, 1, 128, 255])
    np.testing.assert_array_equal(as_seen(values.astype(">u2"))[0, :, 0], [0, 0, 1, 1, 128, 255])
    np.testing.assert_array_equal(as_seen(np.array([[True, False]]))[0, :, 0], [255, 0])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "array", "tensor"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[..., 3] = [255, 128, 0]
    image = Image.fromarray(pixels)
    given: Any = pixels if mode == "array" else torch.from_numpy(pixels) if mode == "tensor" else image
    if mode == "LA":
        given = image.convert(mode)
    elif mode == "PA":
        given = Image.frombytes(mode, (3, 2), bytes([0, 255, 0, 128, 0, 0] * 2))
        given.putpalette([0, 0, 0])
    np.testing.assert_array_equal(as_seen(given)[0, :, 1], [0, 127, 255])


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 1]))
    image.putpalette([10, 20, 30, 200, 100, 0, 7, 8, 9])
    np.testing.assert_array_equal(as_seen(image), [[[10, 20, 30], [200, 100, 0]], [[7, 8, 9], [200, 100, 0]]])
    path = tmp_path / "palette.png"
    image.save(path, transparency=1)
    np.testing.assert_array_equal(as_seen(path), [[[10, 20, 30], [255] * 3], [[7, 8, 9], [255] * 3]])


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (4, 3), (255, 0, 0, 0))
    np.testing.assert_array_equal(as_seen(image)[0, 0], [0, 255, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0, 0] = 255  # top left
    upright[0, -1] = 100  # top right
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # undoes what the viewer does
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "rotated.png"
    stored.save(path, exif=exif)
    np.testing.assert_array_equal(as_seen(path), upright)
    batch = SamVariantsImageProcessorPil(image_size=32)(Image.open(path), return_tensors="np")
    assert batch["original_sizes"].tolist() == [[4, 6]]


def test_ambiguous_channels_follow_the_library_or_the_argument() -> None:
    array = random_image(3, 5)  # 3×5×3
    np.testing.assert_array_equal(as_seen(array), array)
    np.testing.assert_array_equal(as_seen(array, input_data_format="channels_first"), array.transpose(1, 2, 0))
    np.testing.assert_array_equal(as_seen(torch.from_numpy(array)), array.transpose(1, 2, 0))
    np.testing.assert_array_equal(as_seen(torch.from_numpy(array), input_data_format="channels_last"), array)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"images\[1\]: .*\(0, 4, 3\)"),
        (np.zeros((5, 6, 7), np.uint8), ValueError, r"images\[1\]: .*no axis of 1, 3 or 4"),
        (np.zeros((5, 4, 3, 3, 3)), ValueError, r"images\[1\]: .*2 or 3 axes"),
        (np.full((4, 4), np.nan), ValueError, "outside 0..1 or 0..255"),
        (np.full((4, 4), -0.5), ValueError, "outside 0..1 or 0..255"),
        (np.full((4, 4), 256), ValueError, "must be uint16"),
        (np.full((4, 4), "a"), TypeError, "dtype"),
        (np.zeros((4, 4), complex), TypeError, "dtype"),
        (Image.new("RGB", (0, 3)), ValueError, r"images\[1\]: .*width 0 and height 3"),
        (Image.new("I", (3, 3), 70000), ValueError, "16-bit range"),
        ("not an image", ValueError, r"images\[1\]: 'not an image'"),
        (3, TypeError, r"images\[1\] is of type int"),
        (None, TypeError, r"images\[1\]"),
        ({"image": 1}, TypeError, r"images\[1\]"),
        ([[[np.zeros((4, 4))]]], TypeError, "nested too deep"),
    ],
)
def test_what_is_no_image_is_named(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SamVariantsImageProcessorPil(image_size=32)([random_image(4, 4), image])


def test_corrupt_files_are_named(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(random_image(64, 64)), "PNG")
    for name, content in {"cut.png": data[: len(data) // 2], "junk.png": b"\x89PNG junk", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"images\[0\]"):
            as_seen(tmp_path / name)
    with pytest.raises(ValueError, match=r"images\[0\].*decoded"):
        as_seen(Image.open(tmp_path / "cut.png"))
    for empty in ([], [[]], np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="images is empty"):
            as_seen(empty)


def test_image_size_retargets_everything() -> None:
    default = SamVariantsImageProcessorPil()
    assert (dict(default.size), default.image_size) == ({"longest_edge": 1024}, 1024)
    for processor in (SamVariantsImageProcessorPil(image_size=512), default.updated(image_size=512)):
        assert dict(processor.size) == {"longest_edge": 512}
        assert dict(processor.pad_size) == {"height": 512, "width": 512}
        assert dict(processor.mask_size) == {"height": 128, "width": 128}
    square = SamVariantsImageProcessorPil(image_size=512, resize_mode="square")
    assert dict(square.size) == {"height": 512, "width": 512}
    assert default(random_image(8, 9), image_size=64, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    stride_8 = SamVariantsImageProcessorPil(size=64, pad_size=64, mask_size=32)
    assert dict(stride_8.updated(image_size=72).mask_size) == {"height": 36, "width": 36}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"image_size": 500}, ValueError, "multiple of the encoder's stride 16"),
        ({"image_size": 0}, ValueError, "image_size=0"),
        ({"image_size": 64, "size": 64}, ValueError, r"leave out \['size'\]"),
        ({"resize_mode": "stretch"}, ValueError, "resize_mode='stretch'"),
        ({"size": {"shortest_edge": 5}}, ValueError, "size="),
        ({"size": {"height": 5, "width": 6}}, ValueError, "longest_edge"),
        ({"pad_size": -1}, ValueError, "pad_size=-1"),
        ({"mask_size": 2.5}, ValueError, "mask_size=2.5"),
        ({"image_mean": [1.0, 2.0]}, ValueError, "image_mean"),
        ({"do_convert_rgb": False}, ValueError, "do_convert_rgb"),
        ({"resize_mode": "square", "resample": 0}, ValueError, "resample=0"),
        ({"imge_size": 5}, TypeError, "imge_size"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SamVariantsImageProcessorPil(**settings)


def test_an_image_beyond_the_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than the resized image"):
        SamVariantsImageProcessorPil(image_size=32)(random_image(40, 50), do_resize=False)


def test_without_padding_sizes_may_differ() -> None:
    batch = SamVariantsImageProcessorPil(image_size=32)([random_image(8, 16), random_image(16, 8)], do_pad=False)
    assert [pixels.shape for pixels in batch["pixel_values"]] == [(3, 16, 32), (3, 32, 16)]


def test_settings_survive_saving(tmp_path: Path) -> None:
    processor = SamVariantsImageProcessorPil(image_size=64, **SAM2_SETTINGS)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "SamVariantsImageProcessor"
    assert saved["resize_mode"] == "square"
    loaded = SamVariantsImageProcessorPil.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = random_image(20, 30)
    np.testing.assert_array_equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])
    smaller = SamVariantsImageProcessorPil.from_pretrained(tmp_path, image_size=32)
    assert smaller.to_dict() == processor.updated(image_size=32).to_dict()
    with pytest.raises(ValueError, match="leave out"):
        SamVariantsImageProcessorPil.from_pretrained(tmp_path, image_size=32, pad_size=32)


def test_a_configuration_of_transformers_is_understood(tmp_path: Path) -> None:
    theirs = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    theirs.save_pretrained(tmp_path)
    loaded = SamVariantsImageProcessorPil.from_pretrained(tmp_path)
    image = Image.fromarray(random_image(50, 70))
    reference, ours = (processor(image, return_tensors="pt") for processor in (theirs, loaded))
    torch.testing.assert_close(ours["pixel_values"], reference["pixel_values"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours["pixel_values"],
        SamVariantsImageProcessorPil(image_size=64)(image, return_tensors="pt")["pixel_values"],
        rtol=0,
        atol=1e-5,
    )


def test_sizes_for_post_processing_may_be_left_out_and_are_checked() -> None:
    processor = SamVariantsImageProcessorPil(image_size=64)
    logits = torch.randn(2, 3, 1, 16, 16)
    sizes = torch.tensor([[20, 30], [50, 10]])
    given = processor.post_process_masks(logits, sizes, [(43, 64), (64, 13)])
    computed = processor.post_process_masks(list(logits.numpy()), sizes.tolist(), mask_threshold=0.0)
    assert [mask.shape for mask in given] == [(3, 1, 20, 30), (3, 1, 50, 10)]
    assert all(torch.equal(*masks) for masks in zip(given, computed, strict=True))
    stricter = processor.post_process_masks(logits, sizes, mask_threshold=1.0)
    assert stricter[0].sum() < given[0].sum()
    padded = processor.post_process_masks(logits, sizes, [(43, 64), (64, 13)], pad_size=128)
    assert not torch.equal(padded[0], given[0])
    assert processor.post_process_masks(logits[:, :0], sizes)[0].shape == (0, 1, 20, 30)
    with pytest.raises(ValueError, match=r"original_sizes .* \(2, 2\)"):
        processor.post_process_masks(logits, sizes[:1])
    with pytest.raises(ValueError, match="reshaped_input_sizes"):
        processor.post_process_masks(logits, sizes, [(43, 64)])
    with pytest.raises(ValueError, match=r"masks\[0\] must be P x M x h x w"):
        processor.post_process_masks(logits[:, 0], sizes)
