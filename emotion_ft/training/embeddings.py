"""Windows as embeddings of a backbone that stays as it is: it hears each once, and the head learns in milliseconds."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from .. import run_folder
from ..config.settings import TrainingConfig
from ..data.augment import TrainingTransform
from ..modeling import ASTForEmotionRegression

logger = logging.getLogger(__name__)


class Embedded(torch.utils.data.Dataset):
    """Songs whose windows a backbone has heard.

    An item has `embeddings`, (hidden,) of one window, or (windows, hidden) of a song that is evaluated, and what else
    the transform gives: `labels` (2,) in [-1, 1], perhaps `label_weights` (2,). In training, epoch `e` sees the crop
    that was drawn for epoch `e % crops`.

    Args:
        songs: what was heard; whoever evaluates asks it whether it is real.
        tensors: (songs, crops, ...) by name.
    """

    def __init__(self, songs: Dataset, tensors: dict[str, torch.Tensor]):
        self.songs, self.tensors = songs, tensors
        self.crops = tensors["embeddings"].shape[1]
        self.info = songs.info
        # In shared memory: data workers are forked before the epoch changes and must see it.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Show other crops; seen by running data workers too."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        crop = int(self._epoch) % self.crops
        return {name: values[row, crop] for name, values in self.tensors.items()}


@torch.no_grad()
def embed(
    model: ASTForEmotionRegression,
    songs: Dataset,
    training: TrainingConfig,
    name: str,
    crops: int = 1,
    batch_size: int = 16,
) -> Embedded:
    """Let a model's backbone hear stored songs once; with several processes, each hears its share.

    The output folder keeps the embeddings for a resumed run; they are used again when the backbone, the songs and the
    windows are the same to the bit.

    Args:
        model: moved to the training's device.
        songs: with a transform of `data.augment`.
        training: its device, precision and output folder.
        name: of the embeddings there.
        crops: windows of a song that is trained on, those that its first epochs would see.
        batch_size: rows at once.
    """
    transform = songs.format["format_kwargs"]["transform"]
    model.to(training.device).eval()
    file = Path(training.output_dir, run_folder.EMBEDDINGS.format(name))
    key = _key(model, songs, training.precision, crops)
    tensors = _read(file, key) if file.is_file() else None
    if tensors is None:
        heard = []
        for crop in range(crops):
            if isinstance(transform, TrainingTransform):
                transform.set_epoch(crop)
            heard.append(_one_pass(model, songs, training, batch_size, f"Embedding {name}"))
        tensors = {column: torch.stack([crop[column] for crop in heard], dim=1) for column in heard[0]}
        if PartialState().is_main_process:
            part = file.with_suffix(".part")
            save_file(tensors, part, metadata={"key": key})
            part.replace(file)
    return Embedded(songs, tensors)


def _one_pass(
    model: ASTForEmotionRegression, songs: Dataset, training: TrainingConfig, batch_size: int, description: str
) -> dict[str, torch.Tensor]:
    """Everything that the transform gives of all rows, in their order, with embeddings in place of windows."""
    state, dtype = PartialState(), {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
    hidden = training.disable_tqdm or not state.is_main_process
    parts = []
    with state.split_between_processes(list(range(len(songs)))) as rows:
        loader = DataLoader(Subset(songs, rows), batch_size, num_workers=training.dataloader_num_workers)
        for batch in tqdm(loader, desc=description, unit="batch", disable=hidden):
            windows = batch.pop("input_values").to(model.device)
            with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
                embeddings = model.embed(windows)
            parts.append({"embeddings": embeddings.float().cpu(), **batch})
    parts = gather_object(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _key(model: ASTForEmotionRegression, songs: Dataset, precision: str, crops: int) -> str:
    """What embeddings depend on, as a digest: the backbone's weights, the songs, and how windows are drawn."""
    digest = hashlib.sha256()
    for parameter in model.backbone.state_dict().values():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    transform = songs.format["format_kwargs"]["transform"]
    drawn = {
        "fingerprint": songs._fingerprint,
        "transform": type(transform).__name__,
        "front_end": transform.extractor.to_dict(),
        "seed": getattr(transform, "seed", None),
        "augmentation": vars(augmentation) if (augmentation := getattr(transform, "augmentation", None)) else None,
        "target": type(transform.target).__name__,
        "crops": crops,
        "precision": precision,
    }
    digest.update(json.dumps(drawn, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _read(file: Path, key: str) -> dict[str, torch.Tensor] | None:
    """Stored embeddings, if they are those that `key` names."""
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            logger.info("Embeddings read from %s.", file)
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
