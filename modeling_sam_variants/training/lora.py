"""Low-rank adapters (LoRA, Hu et al., 2021) through peft: added, saved alone, loaded onto a base, merged into it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import extract_model_from_parallel
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sam_variants.hub.card_keeping import listed
from sam_variants.hub.push_folder import PushReport, push_folder
from sam_variants.hub.push_model import write_card
from sam_variants.hub.quantized_weights import refuse_quantized
from sam_variants.hub.remote_repo import PushError, RemoteRepo, find_repo
from sam_variants.hub.repo_files import CARD_FILE, CONFIG_FILE
from sam_variants.hub.saved_weights import is_saved_weights
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.training.adapter_card import adapter_base, adapter_card
from sam_variants.training.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_NAME,
    adapter_folder,
    quiet_peft,
    read_adapter_config,
    refuse_other_base,
    write_adapter,
)
from sam_variants.training.frozen_norms import freeze_batch_norms, thaw_batch_norms

COMMIT_MESSAGE = "Upload adapter with sam-variants"
DECODER = "mask_decoder"
PROJECTIONS = r"(?:q_proj|k_proj|v_proj|out_proj)"
# The layers that get an adapter, as patterns of whole module names: of image encoders by their model_type (the fused
# qkv stays fused), and of the other parts by their names.
LORA_TARGETS = {
    "sam_variants_vit": r"image_encoder\.blocks\.\d+\.attn\.(?:qkv|proj)",
    "sam_variants_tiny_vit": r"image_encoder\.layers\.\d+\.blocks\.\d+\.attn\.(?:qkv|proj)",
    "sam_variants_hiera": r"image_encoder\.trunk\.blocks\.\d+\.attn\.(?:qkv|proj)",
    "mask_decoder": (
        r"mask_decoder\.transformer\.(?:layers\.\d+\.(?:self_attn|cross_attn_token_to_image|cross_attn_image_to_token)"
        rf"|final_attn_token_to_image)\.{PROJECTIONS}"
    ),
    "memory_attention": rf"memory_attention\.layers\.\d+\.(?:self_attn|cross_attn_image)\.{PROJECTIONS}",
}
PARTS = ("image_encoder", DECODER, "memory_attention")


def add_lora(
    model: SamVariantsModel,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    parts: Sequence[str] = ("image_encoder",),
    train_decoder: bool = True,
) -> PeftModel:
    """Freeze a model and give the attentions of some of its parts adapters, which start without effect.

    Statistics of frozen batch norms stay as they are too, in train mode also.

    Args:
        model: changed in place: its layers are wrapped, and `merge_adapter` unwraps them.
        rank: width of the adapters.
        alpha: their effect is scaled by alpha / rank.
        dropout: on the adapters' input, in train mode.
        parts: which parts get them: "image_encoder", "mask_decoder", "memory_attention".
        train_decoder: train the whole mask decoder beside the adapters, and save it with them.

    Returns:
        peft's model around it. `requires_grad` is set on what is trained, and only there.

    Raises:
        TypeError: for anything but a model of this package.
        ValueError: for a model with adapters or a fused one, a part that is unknown or that it lacks, numbers out of
            their range, and a decoder both trained as a whole and with adapters.
    """
    check_base(model)
    chosen = [parts] if isinstance(parts, str) else list(parts)
    _check_numbers(rank, alpha, dropout)
    _check_parts(model, chosen, train_decoder)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="|".join(_targets(model, part) for part in chosen),
        modules_to_save=[DECODER] if train_decoder else None,
    )
    was_training = model.training
    with quiet_peft():
        return _settled(get_peft_model(model, config), was_training)  # type: ignore[arg-type]


def load_adapter(
    model: SamVariantsModel,
    source: str | Path,
    *,
    is_trainable: bool = False,
    revision: str | None = None,
    token: bool | str | None = None,
) -> PeftModel:
    """Put a saved adapter onto the model that it was made for.

    Args:
        model: a fresh base; changed in place.
        source: a folder of `save_adapter`, or a repository on the Hub.
        is_trainable: whether to train it further.
        revision: branch, tag or commit of a repository.
        token: for a private repository.

    Returns:
        peft's model around it; `merge_adapter` makes a plain one of it.

    Raises:
        TypeError: for anything but a model of this package.
        ValueError: for a model that has adapters already or is fused, files that are no LoRA adapter or damaged, and
            an adapter that was made for a model of other sizes.
        OSError: when the folder or the repository can't be read.
    """
    check_base(model)
    folder = adapter_folder(source, revision, token)
    config = read_adapter_config(folder)
    refuse_other_base(model, config, folder, str(source))
    was_training = model.training
    with quiet_peft():
        adapted = PeftModel.from_pretrained(
            model, str(folder), config=config, is_trainable=is_trainable, torch_device=str(model.device)
        )
    return _settled(adapted, was_training)


def save_adapter(model: nn.Module, folder: str | Path, *, base_model: str | None = None) -> Path:
    """Write an adapter alone: `adapter_model.safetensors`, `adapter_config.json` and a card.

    Args:
        model: of `add_lora` or `load_adapter`.
        folder: made if needed; files of these names in it are replaced.
        base_model: what the model was loaded from (a repository on the Hub, a preset or a published checkpoint), when
            this is another name than that it was loaded by.

    Returns:
        The folder.

    Raises:
        TypeError: for a model without adapters.
        ValueError: for a base model that is neither a repository nor published.
    """
    adapted, folder = adapted_model(model), Path(folder)
    base = adapter_base(_config(adapted).base_model_name_or_path, base_model)
    num_parameters = write_adapter(adapted, folder, base.name or _config(adapted).base_model_name_or_path)
    adapter_card(_config(adapted), base, num_parameters).save(folder / CARD_FILE)
    return folder


def push_adapter(
    model: nn.Module,
    repo_id: str,
    *,
    base_model: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> PushReport:
    """Push an adapter alone to the Hub, in one commit.

    Args:
        model: of `add_lora` or `load_adapter`.
        repo_id: `owner/name`, or a name of your own. Created when it does not exist.
        base_model: as for `save_adapter`; needed where the model was loaded from a folder of yours.
        license, datasets, tags: what the card says. A card that somebody wrote there is kept.
        private, token, revision, create_pr, commit_message, dry_run: as for `push_folder`.

    Returns:
        What was done.

    Raises:
        TypeError: for a model without adapters.
        ValueError: for a base that nobody else can load, a repository that holds a whole model, and without a token.
        OSError: when the Hub refuses.
    """
    adapted = adapted_model(model)
    base = adapter_base(_config(adapted).base_model_name_or_path, base_model)
    if not base.is_public:
        raise ValueError(
            f"the adapter's base was loaded from {base.name!r}, which others can't load: say what it is, for example "
            'push_adapter(model, repo_id, base_model="facebook/sam-vit-base")'
        )
    api = HfApi(token=token, library_name="sam-variants")
    try:
        remote, is_known = find_repo(api, repo_id, revision=revision), True
    except PushError:  # a rehearsal needs no Hub
        if not dry_run:
            raise
        remote, is_known = RemoteRepo(repo_id, "model", revision), False
    if whole := sorted(name for name in remote.files if name == CONFIG_FILE or is_saved_weights(name)):
        raise ValueError(
            f"{remote.repo_id!r} holds a whole model ({', '.join(whole)}): give the adapter a repository of its own"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        num_parameters = write_adapter(adapted, folder, base.name)
        make = partial(adapter_card, _config(adapted), base, num_parameters, remote.repo_id)
        said = {"license": license, "datasets": listed(datasets), "tags": listed(tags)}
        write_card(api, folder, remote, make, said)
        return push_folder(
            folder,
            remote.repo_id,
            include=[ADAPTER_CONFIG],
            remote=remote if is_known else None,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or COMMIT_MESSAGE,
            dry_run=dry_run,
        )


def merge_adapter(model: nn.Module) -> SamVariantsModel:
    """Add an adapter's effect to the weights that it adapts.

    Args:
        model: of `add_lora` or `load_adapter`; used up by this.

    Returns:
        The model as it was before the adapter, with other weights: it saves, loads and runs like any other.

    Raises:
        TypeError: for a model without adapters.
        ValueError: for an adapter that holds numbers that are not finite.
    """
    adapted = adapted_model(model)
    merged: Any = adapted.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    return thaw_batch_norms(merged).requires_grad_(True)


def adapted_model(model: nn.Module) -> PeftModel:
    """peft's model inside what trains it in several processes.

    Raises:
        TypeError: for a model without adapters.
    """
    found = extract_model_from_parallel(model)
    if not isinstance(found, PeftModel) or not isinstance(found.get_base_model(), SamVariantsModel):
        raise TypeError(
            f"expected a model with adapters, as add_lora(model) or load_adapter(model, folder) returns it, got "
            f"{type(found).__name__}"
        )
    return found


def _config(adapted: PeftModel) -> LoraConfig:
    """The adapter's configuration, which also names what the model was loaded from."""
    return adapted.peft_config[ADAPTER_NAME]  # type: ignore[return-value]


def check_base(model: Any) -> None:
    """Refuse what can't be given an adapter.

    Raises:
        TypeError: for anything but a model of this package.
        ValueError: for a model that has adapters already, is fused or quantised.
    """
    if isinstance(model, PeftModel) or (
        isinstance(model, nn.Module) and any(isinstance(module, BaseTunerLayer) for module in model.modules())
    ):
        raise ValueError("the model has an adapter already: merge_adapter(model) first, or load the base again")
    if not isinstance(model, SamVariantsModel):
        raise TypeError(
            f"expected a SamVariantsModel, as AutoModel.from_pretrained loads it, got {type(model).__name__}"
        )
    if model._is_fused:
        raise ValueError("the model is fused for inference; load it again to give it an adapter")
    refuse_quantized(model, "given an adapter")


def _check_numbers(rank: int, alpha: float, dropout: float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank={rank!r} must be a whole number from 1 on, for example 8")
    if not alpha > 0:
        raise ValueError(f"alpha={alpha!r} must be above 0, for example twice the rank")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be at least 0 and below 1")


def _check_parts(model: SamVariantsModel, parts: Sequence[str], train_decoder: bool) -> None:
    present = [part for part in PARTS if hasattr(model, part)]
    unknown = [part for part in parts if part not in present]
    if unknown or not parts:
        raise ValueError(f"parts={tuple(parts)!r} must name one or more of {', '.join(present)} for this model")
    if train_decoder and DECODER in parts:
        raise ValueError(
            "the mask decoder is either trained as a whole (train_decoder=True) or gets adapters "
            f"(parts={tuple(parts)!r}, train_decoder=False)"
        )


def _targets(model: SamVariantsModel, part: str) -> str:
    """The pattern of the layers of a part that get adapters."""
    config: Any = model.config
    key = config.vision_config.model_type if part == "image_encoder" else part
    if key not in LORA_TARGETS:
        raise ValueError(f"which layers of the image encoder {key!r} get adapters is not known: add it to LORA_TARGETS")
    return LORA_TARGETS[key]


def _settled(adapted: PeftModel, was_training: bool) -> PeftModel:
    """An adapted model in the mode of its base, which peft's new layers don't know, with frozen statistics."""
    if _config(adapted).base_model_name_or_path == str(None):  # transformers' name of a model without one
        _config(adapted).base_model_name_or_path = None
    freeze_batch_norms(adapted)
    adapted.train(was_training)
    return adapted
