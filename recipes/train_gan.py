"""Train a GAN that makes log-mel windows with a given valence and arousal.

    emotion-ft train_gan deam --data_root DEAM [--flag value ...]
    accelerate launch recipes/train_gan.py recipes/configs/deam.yaml --data_root DEAM

It learns from the training songs of a fine-tuned run (--finetuned, or else output_dir) and opens no others; that run's
model measures it. Leaves in gan_output_dir: the generator of the best measured step, discriminator/, regressor/,
all_results.json, sample grids, plots and a card. `emotion-ft finetune CONFIG --gan DIR` trains with its windows.
"""

from emotion_ft.cli import command, set_up_logging
from emotion_ft.errors import RESUME_OR_AGAIN

SECTIONS = ("data", "audio", "gan", "training")


@command(RESUME_OR_AGAIN)
def main(arguments: list[str]) -> None:
    from emotion_ft.config.parser import parse_config

    config = parse_config(arguments, __doc__, SECTIONS)
    set_up_logging(config.training.process_index)

    from emotion_ft.gan.run import run_gan
    from emotion_ft.reports.gan import LEGEND, distance_line, speed_line

    if (gan := run_gan(config)) is None:
        return
    print(f"\n{gan.results['protocol']}\n\n{gan.table.to_string(float_format='{:.3f}'.format, na_rep='')}")
    print(f"\n{LEGEND.format(run=gan.run)}\n\n{distance_line(gan.results)}")
    print(speed_line(gan.results, config.training.precision))
    print(f"\nGenerator, numbers and samples: {gan.folder}")
    if gan.address:
        print(f"Pushed to {gan.address}")


if __name__ == "__main__":
    main()
