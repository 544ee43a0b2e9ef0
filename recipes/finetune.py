"""Fine-tune an Audio Spectrogram Transformer to predict valence and arousal.

    emotion-ft finetune deam --data_root DEAM [--flag value ...]
    accelerate launch recipes/finetune.py recipes/configs/deam.yaml --data_root DEAM

Leaves in output_dir: the model with its front end, the split, all_results.json, predictions.csv, plots, a model card
and a page. Test songs are used once, at the end. A killed run goes on with --resume_from_checkpoint.

--seeds N trains N times, with the seeds from --seed on and one split, in output_dir/seed-42 and so on, and prints mean
scores and deviations over seeds. The same command continues after a kill, and a larger N adds seeds.
"""

import argparse
from typing import TYPE_CHECKING

from emotion_ft.cli import command, set_up_logging
from emotion_ft.errors import RESUME_OR_AGAIN

if TYPE_CHECKING:
    from emotion_ft.config.settings import Config

SECTIONS = ("data", "audio", "spec_augment", "model", "training", "synthetic")


@command(RESUME_OR_AGAIN)
def main(arguments: list[str]) -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--seeds", type=int, metavar="N")
    given, flags = own.parse_known_args(arguments)

    from emotion_ft.config.parser import parse_config

    config = parse_config(flags, __doc__, SECTIONS, own)
    set_up_logging(config.training.process_index)
    finetune_seeds(config, given.seeds) if given.seeds is not None else finetune_once(config)


def finetune_seeds(config: "Config", seeds: int) -> None:
    from emotion_ft.reports.comparison import comparison_text
    from emotion_ft.studies.seeds import run_seeds

    if (found := run_seeds(config, seeds)) is None:
        return
    print(f"\n{found.protocol}\n{comparison_text(found.comparison)}\n\nSeeds and numbers: {found.folder}")


def finetune_once(config: "Config") -> None:
    from emotion_ft.reports.tables import scores_text
    from emotion_ft.training.finetuning import run_finetuning

    if (run := run_finetuning(config)) is None:
        return
    results = run.results
    made = f"; {results['synthetic_windows']} synthetic windows per epoch" if config.synthetic.gan else ""
    print(f"\n{results['protocol']}{made}\n{results['test_songs']} held-out songs, ", end="")
    print(scores_text(run.scores, results, curve_scores=run.curve_scores))
    print(f"\nModel, numbers and plots: {run.folder}; all on one page: {run.folder / 'report.html'}")
    if run.address:
        print(f"Pushed to {run.address}")


if __name__ == "__main__":
    main()
