"""Windows embedded once by a frozen backbone, so that training the head takes milliseconds."""

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
from ..data.augment import TrainingTransform, collate
from ..modeling import ASTForEmotionRegression

logger = logging.getLogger(__name__)


class Embedded(torch.utils.data.Dataset):
    """Songs with the embeddings of their windows.

    An item has `embeddings`, (hidden,) of one window in training or (windows, hidden) of a song in evaluation, and the
    other outputs of the transform: `labels` (2,) in [-1, 1] and perhaps `label_weights` (2,). In training, epoch `e`
    uses the crop that was drawn for epoch `e % crops`. The tensors are (songs, crops, ...); the songs themselves are
    kept so that synthetic ones can be refused in evaluation.
    """

    def __init__(self, songs: Dataset, tensors: dict[str, torch.Tensor]):
        self.songs, self.tensors = songs, tensors
        self.crops = tensors["embeddings"].shape[1]
        self.info = songs.info
        # In shared memory, so that data workers, which are forked earlier, see the epoch change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Switch to the crops of an epoch, in running data workers too."""
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
    """Embed stored songs with a model's backbone; with several processes, each embeds its share.

    The embeddings are kept in the training's output folder under `name`, and reused by a resumed run if the backbone,
    the songs and the windows are identical. Songs, which have a transform from `data.augment`, are embedded in
    evaluation as a whole, and in training as the `crops` windows of the first epochs.
    """
    transform = songs.format["format_kwargs"]["transform"]
    model.to(training.device).eval()  # type: ignore[arg-type]
    file = Path(training.output_dir, run_folder.EMBEDDINGS.format(name))
    key = _key(model, songs, training.precision, crops)
    tensors = _read(file, key) if file.is_file() else None
    if tensors is None:
        passes = []
        for crop in range(crops):
            if isinstance(transform, TrainingTransform):
                transform.set_epoch(crop)
            passes.append(_one_pass(model, songs, training, batch_size, f"Embedding {name}"))
        tensors = {column: torch.stack([one[column] for one in passes], dim=1) for column in passes[0]}
        if PartialState().is_main_process:
            part = file.with_suffix(".part")
            save_file(tensors, part, metadata={"key": key})
            part.replace(file)
    return Embedded(songs, tensors)


def _one_pass(
    model: ASTForEmotionRegression, songs: Dataset, training: TrainingConfig, batch_size: int, description: str
) -> dict[str, torch.Tensor]:
    """The transform's outputs for all rows in order, with embeddings in place of windows."""
    state, dtype = PartialState(), {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
    hidden = training.disable_tqdm or not state.is_main_process
    parts = []
    with state.split_between_processes(list(range(len(songs)))) as rows:
        workers = training.dataloader_num_workers
        loader = DataLoader(Subset(songs, rows), batch_size, num_workers=workers, collate_fn=collate)
        for batch in tqdm(loader, desc=description, unit="batch", disable=hidden):
            windows = batch.pop("input_values").to(model.device)
            with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
                embeddings = model.embed(windows)
            columns = {"embeddings": embeddings.float().cpu(), **batch}
            parts += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return collate(gather_object(parts))


def _key(model: ASTForEmotionRegression, songs: Dataset, precision: str, crops: int) -> str:
    """A digest of what embeddings depend on: the backbone's weights, the songs, and how windows are drawn."""
    digest = hashlib.sha256()
    for parameter in model.backbone.state_dict().values():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    transform = songs.format["format_kwargs"]["transform"]
    augmentation = getattr(transform, "augmentation", None)
    drawn = {"transform": type(transform).__name__, "target": type(transform.target).__name__, "crops": crops}
    drawn |= {"fingerprint": songs._fingerprint, "front_end": transform.extractor.to_dict(), "precision": precision}
    drawn |= {"seed": getattr(transform, "seed", None), "augmentation": vars(augmentation) if augmentation else None}
    digest.update(json.dumps(drawn, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _read(file: Path, key: str) -> dict[str, torch.Tensor] | None:
    """Stored embeddings, if their key is `key`."""
    try:
        with safe_open(file, "pt") as stored:
            if (stored.metadata() or {}).get("key") != key:
                return None
            logger.info("Embeddings read from %s.", file)
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
