"""A collection as a configuration names it to a prepared one: log-mels and labels, without audio."""

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
    """What a preparation leaves behind.

    Args:
        output: a folder or a URL.
        files: how many files of log-mels the whole collection has.
        missing: the names of those that are still to come; while there are any, nothing else is known.
        songs: how many songs could be stored.
        labels: the treatments of the labels.
        megabytes: on the disk.
    """

    output: str
    files: int
    missing: list[str]
    songs: int = 0
    labels: tuple[str, ...] = ()
    megabytes: float = 0.0


def run_preparation(config: Config, output: str | None = None, shards: int = 1, shard: int | None = None) -> Prepared:
    """Store a collection's log-mels and labels; with several processes, each stores its share.

    Args:
        config: its sections data and audio count.
        output: a folder, or a URL that fsspec can write to; None: the configuration's output_dir-log-mels.
        shards: parts, for as many machines.
        shard: store only this part, counted from 0; None: all.

    Raises:
        UsageError: for anything that the user can fix; the message says how.
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
