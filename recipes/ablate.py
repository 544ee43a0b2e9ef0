"""Train with and without SpecAugment and the GAN, on the same test songs, over seeds and train-set sizes.

    python recipes/ablate.py recipes/configs/toy.yaml --seeds 3 [--sizes 48 96] [--study losses] [--flag value ...]

All arms of a size and seed see the same training songs and take --steps optimizer steps; a GAN is trained on these
songs alone. Prints mean ± standard deviation over seeds, and leaves ablation.csv, ablation.md and a plot in --output.
Flags that are not listed here go to every run. Finished runs are kept: an interrupted study goes on when it is
repeated.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="YAML file, as for finetune.py and train_gan.py")
    parser.add_argument("--study", choices=["training", "losses"], default="training", help="default: training")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of weights, crops and subsets (default: 3)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="numbers of training songs (default: a quarter, half, all)"
    )
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of fine-tuning (default: 400)")
    parser.add_argument("--output", default="runs/ablation", help="default: runs/ablation")
    parser.add_argument("--jobs", type=int, default=1, help="sizes and seeds trained at the same time (default: 1)")
    arguments, flags = parser.parse_known_args()
    for name in ("seeds", "steps", "jobs"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments, flags


def main() -> None:
    arguments, flags = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from emotion_ft.config.parser import parse_config
    from emotion_ft.reports import ablation as reports
    from emotion_ft.training import ablation, inputs

    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.INFO)
    config = parse_config([arguments.config, *flags])
    songs = inputs.load_collection(config.data, config.training.seed)
    whole = len(songs["train"])
    default = [whole // 4, whole // 2, whole] if arguments.study == "training" else [whole]
    sizes = sorted(set(arguments.sizes or default))
    ablation.check(config, flags, sizes, whole)
    folder = Path(arguments.output) / arguments.study
    seeds = range(arguments.seeds)
    settings = {"flags": flags, "steps": arguments.steps, "songs": songs["train"].info.description}
    ablation.settle(folder, settings, Path(arguments.config))
    ablation.write_subsets(songs, folder, sizes, seeds)
    cells = ablation.plan(
        arguments.study, arguments.config, folder, Path(__file__).parent, sizes, seeds, flags, arguments.steps
    )
    ablation.carry_out(cells, arguments.jobs)

    runs = ablation.collect(cells, arguments.study)
    table = ablation.summary(runs, arguments.study)
    protocol = (
        f"{songs['test'].info.description}; the same {len(songs['test'])} test songs throughout; "
        f"{arguments.seeds} seeds, mean ± standard deviation; {arguments.steps} steps of fine-tuning"
    )
    reports.write_ablation(folder, runs, table, protocol)
    if arguments.study == "training":
        reports.plot_ablation(folder, runs, protocol)
    print(f"\n{protocol}\n\n{table.to_string()}\n\nTable, runs and plots: {folder}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"ablate: {error}")
    except KeyboardInterrupt:
        sys.exit("ablate: interrupted; the same command goes on")
