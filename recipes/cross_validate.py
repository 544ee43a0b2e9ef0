"""Fine-tune once per fold, so that every song is held out once, and score the pooled predictions.

    emotion-ft cross_validate deam --data_root DEAM --folds 5 [--flag value ...]

An artist's songs are in one fold, or with --group_by_artist false each song is dealt by itself. --split FOLDER takes
published folds: fold-0/, fold-1/, ... with train.txt, validation.txt and test.txt, as a cross-validation leaves them,
or lists of test songs, fold_0.txt, fold_1.txt, ..., for which validation is drawn. Log-mels are stored once for all
folds. Finished folds are kept and a killed one resumes: run the same command to continue. --fold K runs only that
fold, for several machines or GPUs side by side on one --output, and whoever comes last gets the table. All other flags
are those of finetune: `emotion-ft finetune --help`.
"""

import argparse

from emotion_ft.cli import command, recipe_parser, set_up_logging
from emotion_ft.errors import SAME_COMMAND


def make_parser() -> argparse.ArgumentParser:
    parser = recipe_parser(__doc__)
    parser.add_argument("config", help="YAML file, or the bare name of a shipped configuration")
    parser.add_argument("--folds", type=int, help="number of folds (default: 5, or those in the folder --split)")
    parser.add_argument("--fold", type=int, nargs="+", help="run only these, counted from 0 (default: all)")
    parser.add_argument("--output", help="default: the configuration's output_dir with -cv at its end")
    return parser


@command(SAME_COMMAND)
def main(arguments: list[str]) -> None:
    parser = make_parser()
    given, flags = parser.parse_known_args(arguments)

    from emotion_ft.config.parser import parse_config

    config = parse_config([given.config, *flags], own=parser)
    set_up_logging(config.training.process_index)

    from emotion_ft.reports.tables import scores_text
    from emotion_ft.studies.cross_validation import run_cross_validation

    if (pooled := run_cross_validation(config, given.folds, given.fold, given.output)) is None:
        return
    if pooled.missing:
        print(f"\nfolds {', '.join(map(str, pooled.missing))} of {pooled.folds} are still to come, in {pooled.folder}")
        return
    print(f"\n{pooled.results['protocol']}\n{pooled.results['test_songs']} out-of-fold songs; ", end="")
    print(scores_text(pooled.scores, pooled.results, pooled.fold_scores, pooled.curve_scores))
    print(f"\nFolds, numbers and plots: {pooled.folder}; all on one page: {pooled.folder / 'report.html'}")


if __name__ == "__main__":
    main()
