"""Fine-tune once a fold, so that every song is held out once, and score the pooled predictions.

    accelerate launch recipes/cross_validate.py recipes/configs/deam.yaml --folds 5 [--flag value ...]

An artist's songs are in one fold, or with --group_by_artist false each song is dealt by itself. Log-mels are stored
once for all folds. Finished folds are kept and a killed one goes on, so the same command resumes; --fold K runs only
that fold, for several machines or GPUs side by side on one --output, and whoever comes last gets the table. Flags that
are not listed here are those of finetune.py.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="YAML file, as for finetune.py")
    parser.add_argument("--folds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--fold", type=int, nargs="+", help="run only these, counted from 0 (default: all)")
    parser.add_argument("--output", help="default: the configuration's output_dir with -cv at its end")
    arguments, flags = parser.parse_known_args()
    if any(not 0 <= fold < arguments.folds for fold in arguments.fold or []):
        parser.error(f"--fold must lie in 0 to {arguments.folds - 1}")
    return arguments, flags


def main() -> None:
    arguments, flags = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from datasets import DatasetDict
    from transformers.utils.logging import disable_progress_bar

    from emotion_ft import run_folder
    from emotion_ft.config.parser import parse_config
    from emotion_ft.faults import SAME_COMMAND, writing
    from emotion_ft.reports import tables
    from emotion_ft.reports.cards import write_model_card
    from emotion_ft.reports.page import write_page
    from emotion_ft.scoring import curves
    from emotion_ft.training import cross_validation, inputs
    from emotion_ft.training.finetuning import finetune

    config = parse_config([arguments.config, *flags], description=__doc__)
    training, folds = config.training, arguments.folds
    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.WARNING if training.process_index else logging.INFO)
    logging.captureWarnings(True)
    disable_progress_bar()
    extractor = inputs.build_extractor(config)
    songs = inputs.load_all(config.data)
    splits, protocol = cross_validation.draw_folds(songs, config, folds)
    folder = Path(arguments.output or f"{training.output_dir}-cv")
    with writing(folder, "output", SAME_COMMAND):
        cross_validation.settle(config, folder, protocol)
        stored, bad_files = inputs.store_features(DatasetDict({"all": songs}), extractor, config.data)
        songs = stored["all"]

        for fold in arguments.fold or range(folds):
            if cross_validation.finished(folder, fold):
                continue
            parts = cross_validation.fold_songs(songs, splits[fold], protocol, fold)
            ours = cross_validation.fold_config(config, folder, fold)
            logging.getLogger("emotion_ft").info("fold %d of %d", fold, folds)
            checkpoint = inputs.prepare_output_dir(ours.training)
            inputs.make_deterministic(training)
            if run := finetune(ours, extractor, parts, bad_files, checkpoint):
                place = ours.training.output_dir
                run_folder.write_results(place, run.results)
                write_model_card(place)
                write_page(place)
        if training.process_index:
            return
        if missing := [fold for fold in range(folds) if not cross_validation.finished(folder, fold)]:
            print(f"\nfolds {', '.join(map(str, missing))} of {folds} are still to come, in {folder}")
            return

        inputs.write_audit(folder, config.data)
        scores, fold_scores, curve_scores, results = cross_validation.write_pooled(
            folder, folds, songs, protocol, extractor
        )
        page = write_page(folder)
        print(f"\n{results['protocol']}\n{results['test_songs']} out-of-fold songs; ", end="")
        tables.print_scores(scores, fold_scores)
        if curve_scores is not None:
            print(f"\nmean over folds, {curves.text_table(curve_scores)}")
        if "interval_level" in results:
            print(f"\n{tables.interval_line(results)}")
        print(f"\nFolds, numbers and plots: {folder}; all on one page: {page}")


if __name__ == "__main__":
    from emotion_ft.faults import SAME_COMMAND
    from emotion_ft.training.signals import leaving

    with leaving("cross_validate", SAME_COMMAND, SAME_COMMAND):
        main()
