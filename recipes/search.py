"""Search for learning rates and the time to unfreeze, by the score on the validation songs.

    emotion-ft search deam --data_root DEAM --trials 20 [--flag value ...]

Trains once per trial, with hyperparameters around those of the configuration. Test songs have no part in it. Leaves
search.csv, plots/search.png and config.yaml, the best configuration, in --output. Finished trials are kept, so run the
same command to continue. All other flags are those of finetune: `emotion-ft finetune --help`.
"""

import argparse

from emotion_ft.cli import command, recipe_parser, set_up_logging
from emotion_ft.errors import SAME_COMMAND


def make_parser() -> argparse.ArgumentParser:
    parser = recipe_parser(__doc__)
    parser.add_argument("config", help="YAML file, or the bare name of a shipped configuration")
    parser.add_argument("--trials", type=int, default=20, help="number of trials in all (default: 20)")
    parser.add_argument("--output", help="default: the configuration's output_dir with -search at its end")
    return parser


@command(SAME_COMMAND)
def main(arguments: list[str]) -> None:
    parser = make_parser()
    given, flags = parser.parse_known_args(arguments)
    if given.trials < 1:
        parser.error("--trials must be at least 1")

    from emotion_ft.config.parser import parse_config

    config = parse_config([given.config, *flags], own=parser)
    set_up_logging(config.training.process_index)

    from emotion_ft.studies.search import run_search

    search = run_search(config, given.trials, given.output)
    print(f"\n{search.protocol}\n\n{search.trials.to_string(index=False)}")
    print(f"\nThe best configuration, for a run with a test: emotion-ft finetune {search.folder / 'config.yaml'}")


if __name__ == "__main__":
    main()
