"""The rename tables: strict, reversible, and true to every key of every published checkpoint."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inventories import INVENTORIES, SAM2_SIZES, inventory, shapes_of, stand_ins
from transformers import AutoModel, SamConfig

from sam_variants.checkpoint_layouts.detect_preset import detect_config
from sam_variants.checkpoint_layouts.layout_table import LAYOUTS, layout_of, layout_of_model_type
from sam_variants.checkpoint_layouts.layout_transformers_sam import (
    config_from_transformers_sam,
    config_to_transformers_sam,
    mlp_ratio_for,
)
from sam_variants.checkpoint_layouts.renames import Drop, LinearStack, Omit, RenameTable, Row, Stack, shorten
from sam_variants.configuration.known_checkpoints import CHECKPOINTS
from sam_variants.configuration.presets import PRESETS, config_for

PAIRS = {"sam_vit_b": "hf_sam_vit_base", "sam_vit_l": "hf_sam_vit_large", "sam_vit_h": "hf_sam_vit_huge"}
LAYOUT_OF = {
    "mobile_sam": "mobile-sam",
    **dict.fromkeys(PAIRS, "sam"),
    **dict.fromkeys(PAIRS.values(), "transformers-sam"),
    **{f"sam{version}_hiera_{size}": "sam2" for version in ("2", "2.1") for size in SAM2_SIZES},
    **{f"hf_sam2.1_hiera_{size}": "transformers-sam2-video" for size in SAM2_SIZES},
    **{f"hf_sam2.1_hiera_{size}_image": "transformers-sam2" for size in SAM2_SIZES},
}
COPY = "prompt_encoder.shared_embedding.positional_embedding"


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_official_keys_are_ours(checkpoint: str) -> None:
    """Every key of the published file, at full size, is in our model with its shape, and nothing else is."""
    known = CHECKPOINTS[checkpoint]
    published = inventory(checkpoint)
    with torch.device("meta"):
        model = AutoModel.from_config(config_for(known.preset))
    table = LAYOUTS[known.layout].table
    ours = table.to_ours(stand_ins(published["shapes"]))
    without_prefix = {name.removeprefix("sam_"): shape for name, shape in published["shapes"].items()}
    assert shapes_of(ours) == without_prefix == shapes_of(model.state_dict())
    assert shapes_of(table.to_theirs(ours)) == published["shapes"]
    assert sum(parameter.numel() for parameter in model.parameters()) == published["num_parameters"]


@pytest.mark.parametrize(("official", "transformers_name"), PAIRS.items())
def test_transformers_sam_keys(official: str, transformers_name: str) -> None:
    """The table takes transformers' full-size keys to the official ones, and back."""
    theirs, ours = inventory(transformers_name)["shapes"], inventory(official)["shapes"]
    table = LAYOUTS["transformers-sam"].table
    assert shapes_of(table.to_ours(stand_ins(theirs))) == ours
    assert shapes_of(table.to_theirs(stand_ins(ours))) == theirs


def test_transformers_sam_names_one_by_one() -> None:
    """Each name goes where an independent comparison by outputs sent it, also where shapes would not tell."""
    expected = inventory("map_sam_to_transformers")
    numbered = {name: torch.tensor(float(index)) for index, name in enumerate(expected)}
    renamed = LAYOUTS["transformers-sam"].table.to_theirs(numbered)
    assert len(renamed) == len(expected) + 1
    for ours, theirs in expected.items():
        assert renamed[theirs] is numbered[ours]


@pytest.mark.parametrize("name", LAYOUT_OF)
def test_every_inventory_has_one_layout(name: str) -> None:
    shapes = inventory(name)["shapes"]
    assert [key for key, layout in LAYOUTS.items() if layout.has_written(shapes)] == [LAYOUT_OF[name]]
    assert layout_of(shapes, "the file") is LAYOUTS[LAYOUT_OF[name]]


def test_inventories_are_all_used() -> None:
    stored = {path.name.removesuffix(".json.gz") for path in INVENTORIES.glob("*.gz")}
    assert {name for name in stored if not name.startswith("map_")} == set(LAYOUT_OF)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_presets_are_detected_from_shapes(checkpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    known = CHECKPOINTS[checkpoint]
    ours = LAYOUTS[known.layout].table.to_ours(stand_ins(inventory(checkpoint)["shapes"]))
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert detect_config(shapes, "the file").to_dict() == config_for(known.preset).to_dict()
    assert not caplog.records


def test_checkpoints_are_complete() -> None:
    assert {known.preset for known in CHECKPOINTS.values()} == set(PRESETS)
    assert {known.layout for known in CHECKPOINTS.values()} <= set(LAYOUTS)
    assert all(
        len(known.sha256) == 64 and set(known.sha256) <= set("0123456789abcdef") for known in CHECKPOINTS.values()
    )
    assert all(known.url.endswith("/" + known.file_name) for known in CHECKPOINTS.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_unique_and_drops_say_why(layout: str) -> None:
    rows = LAYOUTS[layout].table.rows
    assert max(Counter(rows).values()) == 1
    assert all(row.reason for row in rows if isinstance(row, Drop | Omit))


@pytest.mark.parametrize("leftover", ["attention_bias_idxs", "ab"])
def test_tiny_vit_leftovers_are_dropped_by_name(leftover: str) -> None:
    shapes = inventory("mobile_sam")["shapes"]
    key = f"image_encoder.layers.1.blocks.0.attn.{leftover}"
    assert key not in shapes
    table = LAYOUTS["mobile-sam"].table
    assert shapes_of(table.to_ours(stand_ins({**shapes, key: [4, 49, 49]}))) == shapes
    with pytest.raises(ValueError, match=r"1 keys do not belong to the official MobileSAM layout: .*attn\.abc"):
        table.to_ours(stand_ins({**shapes, "image_encoder.layers.1.blocks.0.attn.abc": [1]}))


@pytest.mark.parametrize("present", ["shared_image_embedding.positional_embedding", COPY])
def test_one_copy_is_enough(present: str) -> None:
    """transformers writes one of two tied tensors; either gives ours, and both are written."""
    theirs = dict(inventory("hf_sam_vit_base")["shapes"])
    del theirs[({"shared_image_embedding.positional_embedding", COPY} - {present}).pop()]
    table = LAYOUTS["transformers-sam"].table
    ours = table.to_ours(stand_ins(theirs))
    assert shapes_of(ours) == inventory("sam_vit_b")["shapes"]
    assert COPY in table.to_theirs(ours)


def test_copies_that_differ_are_refused() -> None:
    theirs = stand_ins(inventory("hf_sam_vit_base")["shapes"])
    theirs[COPY] = torch.ones(2, 128)
    with pytest.raises(ValueError, match="must equal its copies"):
        LAYOUTS["transformers-sam"].table.to_ours(theirs)


def test_unknown_keys_are_listed_up_to_ten() -> None:
    theirs = stand_ins(
        {**inventory("sam_vit_b")["shapes"], **{f"mask_decoder.hf_token.{i:02}": [1] for i in range(12)}}
    )
    with pytest.raises(ValueError, match=r"12 keys do not belong .*hf_token\.09 and 2 more$"):
        LAYOUTS["sam"].table.to_ours(theirs)


@pytest.mark.parametrize("layout_and_name", [("sam", "sam_vit_b"), ("transformers-sam", "hf_sam_vit_base")])
def test_missing_rows_are_named(layout_and_name: tuple[str, str]) -> None:
    layout, name = layout_and_name
    theirs = stand_ins(inventory(name)["shapes"])
    del theirs["mask_decoder.iou_token.weight"]
    with pytest.raises(ValueError, match=r"are missing: mask_decoder\.iou_token\.weight$"):
        LAYOUTS[layout].table.to_ours(theirs)


def test_missing_linear_stack_is_named() -> None:
    ours = {
        k: v for k, v in inventory("sam_vit_b")["shapes"].items() if not k.startswith("mask_decoder.iou_prediction")
    }
    with pytest.raises(ValueError, match=r"are missing: mask_decoder\.iou_prediction_head\.layers\.0\.\*"):
        LAYOUTS["transformers-sam"].table.to_theirs(stand_ins(ours))


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_linear_stacks_of_any_depth(depth: int) -> None:
    table = RenameTable("test", [LinearStack("head.{}", "mlps.{}")])
    ours = {f"mlps.{i}.layers.{j}.weight": torch.tensor([i, j]) for i in range(2) for j in range(depth)}
    theirs = table.to_theirs(ours)
    assert theirs["head.1.proj_in.weight"] is ours["mlps.1.layers.0.weight"]
    assert theirs["head.1.proj_out.weight"] is ours[f"mlps.1.layers.{depth - 1}.weight"]
    assert table.to_ours(theirs) == ours


def test_linear_stack_needs_two_layers() -> None:
    with pytest.raises(ValueError, match="at least 2 linear layers"):
        RenameTable("test", [LinearStack("head", "mlp")]).to_theirs({"mlp.layers.0.weight": torch.ones(1)})


def test_stacked_tensors() -> None:
    table = RenameTable("test", [Stack("points", ("p.0", "p.1", "p.2")), Row("a", "b")])
    theirs = {"points": torch.randn(3, 4), "a": torch.randn(2)}
    ours = table.to_ours(theirs)
    assert ours["p.1"].equal(theirs["points"][1:2])
    back = table.to_theirs(ours)
    assert back.keys() == theirs.keys()
    assert all(back[name].equal(theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="expected 3 rows"):
        table.to_ours({**theirs, "points": torch.randn(2, 4)})
    with pytest.raises(ValueError, match="missing: points"):
        table.to_ours({"a": theirs["a"]})
    with pytest.raises(ValueError, match=r"do not belong .*: p\.0, p\.2$"):
        table.to_theirs({name: tensor for name, tensor in ours.items() if name != "p.1"})


def test_omitted_tensors_are_left_out_on_writing_and_unknown_on_reading() -> None:
    table = RenameTable("test", [Row("a", "b"), Omit("memory.*", "for images")])
    ours = {"b": torch.randn(2), "memory.0.weight": torch.randn(2)}
    assert list(table.to_theirs(ours)) == ["a"]
    assert table.to_theirs({"b": ours["b"]})["a"] is ours["b"]
    with pytest.raises(ValueError, match=r"do not belong .*: memory\.0\.weight$"):
        table.to_ours({"a": ours["b"], "memory.0.weight": ours["memory.0.weight"]})


def test_ambiguous_and_lopsided_tables_are_refused() -> None:
    table = RenameTable("test", [Row("a.{}.w", "b.{}.w"), Row("a.*", "c.*")])
    with pytest.raises(ValueError, match=r"a\.0\.w matches 2 rows"):
        table.to_ours({"a.0.w": torch.ones(1), "a.b": torch.ones(1)})
    with pytest.raises(ValueError, match="different numbers of placeholders"):
        RenameTable("test", [Row("a.{}.{}", "b.{}")])
    with pytest.raises(ValueError, match="must come last"):
        RenameTable("test", [Row("a.*.b", "c.*.b")])


def test_placeholder_takes_exactly_one_piece() -> None:
    table = RenameTable("test", [Row("a.{}.w", "b.{}.w")])
    assert list(table.to_ours({"a.x7.w": torch.ones(1)})) == ["b.x7.w"]
    with pytest.raises(ValueError, match="do not belong"):
        table.to_ours({"a.0.1.w": torch.ones(1)})
    with pytest.raises(ValueError, match="do not belong"):
        table.to_ours({"aX0.w": torch.ones(1)})


PIECES = st.text("abc0123456789_", min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(PIECES, PIECES, st.lists(PIECES, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_any_names_survive_the_round_trip(names: list[tuple[str, str, list[str]]]) -> None:
    table = RenameTable("test", [Row("x.{}.y.{}.*", "deep.{}.{}.z.*")])
    theirs = {f"x.{first}.y.{second}.{'.'.join(rest)}": torch.ones(1) for first, second, rest in names}
    ours = table.to_ours(theirs)
    assert len(ours) == len(theirs)
    back = table.to_theirs(ours)
    assert back.keys() == theirs.keys()
    assert all(back[name] is theirs[name] for name in theirs)


def test_shorten() -> None:
    assert shorten(["b", "a"]) == "a, b"
    assert shorten(str(i) for i in range(10, 22)).endswith("19 and 2 more")


def test_unknown_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^x\.pth has the keys of no known layout \(official SAM,.* fc\.weight$"):
        layout_of({"fc.weight": 1}, "x.pth")
    for model_type in ("sam_hq", None):
        with pytest.raises(ValueError, match="can be read"):
            layout_of_model_type(model_type, "config.json")


UNUSUAL_SAM = {
    "vision_config": {
        "hidden_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "mlp_dim": 50,
        "output_channels": 32,
        "image_size": 96,
        "patch_size": 8,
        "window_size": 5,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
        "qkv_bias": False,
        "layer_norm_eps": 1e-5,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 96, "patch_size": 8, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "attention_downsample_rate": 1,
        "num_multimask_outputs": 2,
        "iou_head_depth": 4,
        "iou_head_hidden_dim": 24,
    },
}


def test_transformers_config_there_and_back() -> None:
    ours = config_from_transformers_sam(UNUSUAL_SAM)
    assert (ours.image_size, ours.vision_config.patch_size, ours.vision_config.embed_dim) == (96, 8, 36)
    assert ours.prompt_encoder_config.image_embedding_size == 12
    theirs = config_to_transformers_sam(ours)
    given = SamConfig.from_dict(UNUSUAL_SAM)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        differing = {
            name
            for name, value in getattr(given, part).to_dict().items()
            if getattr(theirs, part).to_dict()[name] != value
        }
        assert differing <= {"mlp_ratio"}, part
    assert config_from_transformers_sam(theirs.to_dict()).to_dict() == ours.to_dict()


@pytest.mark.parametrize("dim", [36, 48, 768, 1280])
def test_mlp_ratio_gives_the_hidden_width_back(dim: int) -> None:
    assert all(int(dim * mlp_ratio_for(hidden, dim)) == hidden for hidden in range(1, 4 * dim + 1))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("prompt_encoder_config", "image_size", 128, r"prompt_encoder_config\.image_size=128 .* need 96"),
        ("prompt_encoder_config", "num_point_embeddings", 5, "num_point_embeddings=5"),
        ("vision_config", "num_pos_feats", 8, "num_pos_feats=8"),
        ("vision_config", "image_size", [96, 64], "not square"),
        ("vision_config", "output_channels", 64, "must share one width"),
    ],
)
def test_contradicting_transformers_configs_are_refused(part: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_transformers_sam({**UNUSUAL_SAM, part: {**UNUSUAL_SAM[part], field: value}})


def test_architectures_without_a_sam_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs vision_config\.model_type='sam_variants_vit'"):
        config_to_transformers_sam(config_for("mobile-sam"))
    retargeted = config_for("sam-vit-base")
    retargeted.image_size = 512
    with pytest.raises(ValueError, match="needs image_size=1024"):
        config_to_transformers_sam(retargeted)
