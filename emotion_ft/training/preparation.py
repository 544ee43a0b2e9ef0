"""Preparation of a collection: its log-mels and labels are stored, without audio."""

from functools import partial
from typing import NamedTuple

import fsspec

from ..config.settings import Config
from ..data.features import LogMel
from ..data.prepared import read_about, refuse_in_use
from ..data.shards import finish_prepared, plan_shards, store_shards
from ..reports.cards import write_data_card
from .inputs import build_extractor, load_treatments


class Prepared(NamedTuple):
    """The result of a preparation; the last three are set once no files are missing."""

    output: str  # a folder or a URL
    files: int  # number of files of log-mels in the complete collection
    missing: list[str]  # names of those that are not stored yet
    songs: int = 0  # number of stored songs
    labels: tuple[str, ...] = ()  # treatments of the labels
    megabytes: float = 0.0  # on disk


def run_preparation(config: Config, output: str | None = None, shards: int = 1, shard: int | None = None) -> Prepared:
    """Store a collection's log-mels and labels; with several processes, each stores its share; raises `UsageError`.

    Args:
        config: only its sections data and audio are used.
        output: a folder, or a URL that fsspec can write to; None: the configuration's output_dir-log-mels.
        shards: number of parts, one per machine.
        shard: the part to store, counted from 0; None: all.
    """
    data, training = config.data, config.training
    output = output or f"{training.output_dir}-log-mels"
    refuse_in_use(output)
    log_mel = LogMel(build_extractor(config), data.min_seconds)
    tables = load_treatments(data)
    planned = plan_shards(tables)
    mine = planned if shard is None else planned[shard::shards]
    store_shards(output, mine[training.process_index :: training.world_size], log_mel, data.num_proc)
    card = partial(write_data_card, data_id=output)
    if missing := finish_prepared(output, tables, planned, log_mel, card, data.max_bad_fraction):
        return Prepared(output, len(planned), missing)
    system, root = fsspec.url_to_fs(output)
    return Prepared(output, len(planned), [], read_about(output)["songs"], tuple(tables), system.du(root) / 1e6)
