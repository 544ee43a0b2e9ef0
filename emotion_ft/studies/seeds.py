"""The same run with several seeds: one split, other weights, crops and masks."""

import logging
from pathlib import Path
from typing import NamedTuple

from .. import run_folder
from ..config.settings import Config
from ..errors import SAME_COMMAND, UsageError
from ..faults import writing
from ..reports.comparison import write_comparison
from ..scoring.comparison import Comparison, compare_runs
from ..training import inputs
from ..training.checkpoints import prepare_output_dir
from ..training.finetuning import finetune
from . import series

logger = logging.getLogger(__name__)


class Seeds(NamedTuple):
    """The results of several seeds."""

    folder: Path  # which contains the folders of the seeds
    protocol: str
    comparison: Comparison  # their mean scores, with intervals over artists and seeds, and their deviations


def run_seeds(config: Config, seeds: int) -> Seeds | None:
    """Fine-tune with several seeds, each in its own folder of the output folder, on the same split of the same songs.

    The seeds are the configuration's and those that follow it; the split is drawn with the configuration's. Log-mels
    are stored once. Finished seeds are kept and an interrupted one is resumed, so the same call continues after a
    kill, and a larger number of seeds adds to those that are there.

    Args:
        config: of the first seed's run.
        seeds: how many, two or more.

    Returns:
        The results; None on processes other than the first. Raises `UsageError` for whatever the user can fix.
    """
    if seeds < 2:
        raise UsageError(f"--seeds must be at least 2, got {seeds}: leave it out for a single run.")
    training, folder = config.training, Path(config.training.output_dir)
    if training.push_to_hub:
        raise UsageError("--seeds makes several models: leave out push_to_hub, and push one with `emotion-ft push`.")
    start = inputs.find_checkpoint(config.model)
    extractor = inputs.build_extractor(config)
    songs = inputs.load_collection(config.data, training.seed)
    protocol = songs["test"].info.description
    with writing(folder, "output_dir", SAME_COMMAND):
        series.settle(config, folder, protocol, run_folder.SEEDS_NOTE)
        songs, bad_files = inputs.store_features(songs, extractor, config.data)
        for seed in range(training.seed, training.seed + seeds):
            place = run_folder.seed_folder(folder, seed)
            if series.finished(place):
                continue
            logger.info("seed %d", seed)
            ours = series.config_in(place, config)
            ours.training.seed = seed
            checkpoint = prepare_output_dir(ours.training)
            inputs.make_deterministic(ours.training)
            finetune(ours, extractor, songs, bad_files, checkpoint, start)
        if training.process_index:
            return None
        comparison = compare_runs([folder])
        write_comparison(folder, comparison)
    return Seeds(folder, protocol, comparison)
