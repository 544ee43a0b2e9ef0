"""Store a collection's log-mels and labels without its audio, to train on elsewhere and to share.

    emotion-ft prepare deam --data_root DEAM [--output DIR] [--flag value ...]
    emotion-ft prepare deam --data_root DEAM --push you/deam-log-mels [--private]
    torchrun --nproc_per_node 8 recipes/prepare.py CONFIG --output s3://bucket/songs --shards 40 --shard 3 --use_cpu

Leaves in DIR: Parquet files, and a card with which `load_dataset` reads them; labels repaired, as distributed and,
where there are curves, dynamic. `emotion-ft finetune CONFIG --prepared DIR` trains on it, to the same weights as on
the audio; --prepared you/deam-log-mels reads it from the Hub song by song. Whether songs may be shared in this form,
their licence says. Run the same command to continue after a kill. --shard K stores only the K-th of --shards parts,
for several machines side by side on one --output, and whoever comes last finishes; the processes of torchrun share a
part. All other flags are those of finetune: its sections data and audio count.
"""

import argparse

from emotion_ft.cli import command, recipe_parser, set_up_logging
from emotion_ft.errors import SAME_COMMAND


def make_parser() -> argparse.ArgumentParser:
    parser = recipe_parser(__doc__)
    parser.add_argument("config", help="YAML file, or the bare name of a shipped configuration")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="a folder, or a URL of fsspec (default: output_dir-log-mels)",
    )
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts, for as many machines (default: 1)")
    parser.add_argument("--shard", type=int, metavar="K", help="store only this part, counted from 0 (default: all)")
    parser.add_argument("--push", metavar="REPO_ID", help="you/name, a data set on the Hub; created if needed")
    parser.add_argument("--private", action="store_true", help="visible only to you")
    parser.add_argument("--revision", metavar="BRANCH", help="branch, created from main if needed")
    parser.add_argument("--token", help="with write access; default: that of `hf auth login`, or HF_TOKEN")
    return parser


@command(SAME_COMMAND)
def main(arguments: list[str]) -> None:
    parser = make_parser()
    given, flags = parser.parse_known_args(arguments)
    if given.shards < 1 or not 0 <= (given.shard or 0) < given.shards:
        parser.error(f"--shard must lie in 0 to {given.shards - 1}, as --shards says, which must be 1 or more")
    if given.push and "://" in (given.output or ""):
        parser.error(f"--push sends a folder: give --output one, not {given.output}")

    from emotion_ft.config.parser import parse_config

    config = parse_config([given.config, *flags], own=parser)
    set_up_logging(config.training.process_index)

    from datasets import disable_progress_bars

    from emotion_ft.hub.push import create_repository, push
    from emotion_ft.training.preparation import run_preparation

    disable_progress_bars()  # of single files; the log-mels keep theirs
    if given.push:
        create_repository(given.push, given.private, given.token, "dataset")
    done = run_preparation(config, given.output, given.shards, given.shard)
    if done.missing:
        if not config.training.process_index:
            to_come = f"{len(done.missing)} of {done.files} files are still to come"
            print(f"{to_come}, first {done.missing[0]}: {done.output}")
        return
    print(f"{done.songs} songs, labels {', '.join(done.labels)}, {done.megabytes:.1f} MB: {done.output}")
    if given.push:
        print(f"Pushed to {push(done.output, given.push, given.private, given.revision, given.token)}")


if __name__ == "__main__":
    main()
