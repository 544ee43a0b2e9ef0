"""Train with and without SpecAugment and the GAN, on the same test songs, over seeds and train-set sizes.

    emotion-ft ablate toy --seeds 3 [--sizes 48 96] [--study losses] [--flag value ...]

All arms of a size and seed see the same training songs equally often; a GAN is trained on these songs alone. Prints
mean ± standard deviation over seeds and paired differences, and leaves ablation.csv, ablation.md and, of the training
study, a plot in --output.
Finished runs are kept, so run the same command to continue. All other flags go to every run.
"""

import argparse

from emotion_ft.cli import command, recipe_parser, set_up_logging
from emotion_ft.errors import SAME_COMMAND


def make_parser() -> argparse.ArgumentParser:
    parser = recipe_parser(__doc__)
    parser.add_argument("config", help="YAML file, or the bare name of a shipped configuration")
    studies = ["training", "losses", "emotion_term"]
    parser.add_argument("--study", choices=studies, default="training", help="default: training")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of weights, crops and subsets (default: 3)")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of training songs (default: 1/4, 1/2, all)")
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning, without a GAN (default: 400)")
    parser.add_argument("--output", default="runs/ablation", help="default: runs/ablation")
    parser.add_argument("--jobs", type=int, default=1, help="sizes and seeds trained at the same time (default: 1)")
    return parser


@command(SAME_COMMAND)
def main(arguments: list[str]) -> None:
    parser = make_parser()
    given, flags = parser.parse_known_args(arguments)
    for name in ("seeds", "steps", "jobs"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1")

    from emotion_ft.config.parser import parse_config

    parse_config([given.config, *flags], own=parser)  # before anything heavier is imported
    set_up_logging()

    from emotion_ft.studies.ablation import run_ablation

    study = run_ablation(
        given.config, flags, given.study, given.seeds, given.sizes, given.steps, given.output, given.jobs
    )
    print(f"\n{study.protocol}\n\n{study.table.to_string()}\n")
    print(*study.findings, sep="\n")
    print(f"\nTable, runs and plots: {study.folder}")


if __name__ == "__main__":
    main()
