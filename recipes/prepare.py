"""Store a collection's log-mels and labels without its audio, to train on elsewhere and to share.

    python recipes/prepare.py recipes/configs/deam.yaml --data_root DEAM [--output DIR] [--flag value ...]
    python recipes/prepare.py recipes/configs/deam.yaml --data_root DEAM --push you/deam-log-mels [--private]

Leaves in DIR: Parquet files, and a card with which `load_dataset` reads them; labels repaired, as distributed and,
where there are curves, dynamic. `finetune.py CONFIG --prepared DIR` trains on it, to the same weights as on the audio,
and so it does on `--prepared you/deam-log-mels`, read from the Hub song by song. Whether songs may be shared in this
form, their licence says. Flags that are not listed here are those of finetune.py: its sections data and audio count.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="YAML file, as for finetune.py")
    parser.add_argument("--output", metavar="DIR", help="default: the configuration's output_dir with -log-mels")
    parser.add_argument("--push", metavar="REPO_ID", help="you/name, a data set on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; made from main if it is not there")
    parser.add_argument("--token", help="one that may write, if not that of `hf auth login` or HF_TOKEN")
    return parser.parse_known_args()


def main() -> None:
    arguments, flags = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from datasets import DatasetDict, disable_progress_bars

    from emotion_ft.config_parser import parse_config
    from emotion_ft.data.features import front_end
    from emotion_ft.data.prepared import refuse_in_use, write_prepared
    from emotion_ft.hub import create_repository, push_prepared
    from emotion_ft.training import experiment
    from emotion_ft.training.cards import write_data_card

    config = parse_config([arguments.config, *flags], description=__doc__)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.INFO)
    disable_progress_bars()  # of single files; the log-mels keep theirs
    folder = Path(arguments.output or f"{config.training.output_dir}-log-mels")
    refuse_in_use(folder)
    if arguments.push:
        create_repository(arguments.push, arguments.private, arguments.token, "dataset")
    extractor = experiment.build_extractor(config)
    tables = experiment.load_treatments(config.data)
    stored, _ = experiment.store_features(DatasetDict(all=tables["distributed"]), extractor, config.data)
    write_prepared(folder, tables, stored["all"], front_end(extractor))
    write_data_card(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6
    print(f"{len(stored['all'])} songs, labels {', '.join(tables)}, {size:.1f} MB: {folder}")
    if arguments.push:
        place = (arguments.push, arguments.private, arguments.revision, arguments.token)
        print(f"Pushed to {push_prepared(folder, *place)}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"prepare: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare: interrupted; the same command goes on")
