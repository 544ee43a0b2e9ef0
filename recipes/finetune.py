"""Fine-tune an Audio Spectrogram Transformer to predict valence and arousal.

    emotion-ft finetune deam --data_root DEAM [--flag value ...]
    accelerate launch recipes/finetune.py recipes/configs/deam.yaml --data_root DEAM

Leaves in output_dir: the model with its front end, the split, all_results.json, predictions.csv, plots, a model card
and a page. Test songs are used once, at the end. A killed run goes on with --resume_from_checkpoint.
"""

from emotion_ft.cli import command, set_up_logging
from emotion_ft.errors import RESUME_OR_AGAIN

SECTIONS = ("data", "audio", "spec_augment", "model", "training", "synthetic")


@command(RESUME_OR_AGAIN)
def main(arguments: list[str]) -> None:
    from emotion_ft.config.parser import parse_config

    config = parse_config(arguments, __doc__, SECTIONS)
    set_up_logging(config.training.process_index)

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
