"""Store a collection's log-mels and labels without its audio, to train on elsewhere and to share.

    python recipes/prepare.py recipes/configs/deam.yaml --data_root DEAM [--output DIR] [--flag value ...]
    python recipes/prepare.py recipes/configs/deam.yaml --data_root DEAM --push you/deam-log-mels [--private]
    torchrun --nproc_per_node 8 recipes/prepare.py CONFIG --output s3://bucket/songs --shards 40 --shard 3 --use_cpu

Leaves in DIR: Parquet files, and a card with which `load_dataset` reads them; labels repaired, as distributed and,
where there are curves, dynamic. `finetune.py CONFIG --prepared DIR` trains on it, to the same weights as on the audio,
and so it does on `--prepared you/deam-log-mels`, read from the Hub song by song. Whether songs may be shared in this
form, their licence says. The same command goes on after a kill. --shard K stores the K-th of --shards parts alone, for
several machines side by side on one --output, and whoever comes last finishes; the processes of torchrun share a part.
Flags that are not listed here are those of finetune.py: its sections data and audio count.
"""

import argparse
import sys
from functools import partial


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="YAML file, as for finetune.py")
    parser.add_argument(
        "--output", metavar="DIR", help="a folder or a URL of fsspec; default: the configuration's output_dir-log-mels"
    )
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts, for as many machines (default: 1)")
    parser.add_argument("--shard", type=int, metavar="K", help="store only this part, counted from 0 (default: all)")
    parser.add_argument("--push", metavar="REPO_ID", help="you/name, a data set on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; made from main if it is not there")
    parser.add_argument("--token", help="one that may write, if not that of `hf auth login` or HF_TOKEN")
    arguments, flags = parser.parse_known_args()
    if arguments.shards < 1 or not 0 <= (arguments.shard or 0) < arguments.shards:
        parser.error(f"--shard must lie in 0 to {arguments.shards - 1}, as --shards says, which must be 1 or more")
    if arguments.push and "://" in (arguments.output or ""):
        parser.error(f"--push sends a folder: give --output one, not {arguments.output}")
    return arguments, flags


def main() -> None:
    arguments, flags = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    import fsspec
    from datasets import disable_progress_bars

    from emotion_ft.config.parser import parse_config
    from emotion_ft.data.features import LogMel
    from emotion_ft.data.prepared import read_about, refuse_in_use
    from emotion_ft.data.shards import finish_prepared, plan_shards, store_shards
    from emotion_ft.hub.push import create_repository, push_prepared
    from emotion_ft.reports.cards import write_data_card
    from emotion_ft.training import inputs

    config = parse_config([arguments.config, *flags], description=__doc__)
    data, training = config.data, config.training
    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.WARNING if training.process_index else logging.INFO)
    disable_progress_bars()  # of single files; the log-mels keep theirs
    output = arguments.output or f"{training.output_dir}-log-mels"
    refuse_in_use(output)
    if arguments.push:
        create_repository(arguments.push, arguments.private, arguments.token, "dataset")
    log_mel = LogMel(inputs.build_extractor(config), data.min_seconds)
    tables = inputs.load_treatments(data)
    shards = plan_shards(tables)
    mine = shards if arguments.shard is None else shards[arguments.shard :: arguments.shards]
    store_shards(output, mine[training.process_index :: training.world_size], log_mel, data.num_proc)
    card = partial(write_data_card, data_id=output)
    if missing := finish_prepared(output, tables, shards, log_mel, card, data.max_bad_fraction):
        if not training.process_index:
            print(f"{len(missing)} of {len(shards)} files are still to come, first {missing[0]}: {output}")
        return
    system, root = fsspec.url_to_fs(output)
    print(f"{read_about(output)['songs']} songs, labels {', '.join(tables)}, {system.du(root) / 1e6:.1f} MB: {output}")
    if arguments.push:
        place = (arguments.push, arguments.private, arguments.revision, arguments.token)
        print(f"Pushed to {push_prepared(output, *place)}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"prepare: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare: interrupted; the same command goes on")
