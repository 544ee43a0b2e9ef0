"""Train a GAN that makes log-mel windows with a given valence and arousal.

    accelerate launch recipes/train_gan.py recipes/configs/deam.yaml --data_root DEAM [--flag value ...]

It learns from the training songs of a fine-tuned run (--finetuned, or else output_dir) and opens no others; that run's
model measures it. Leaves in gan_output_dir: the generator of the best measured step, discriminator/, regressor/,
all_results.json, sample grids and plots. `finetune.py --gan DIR` trains with its windows.
"""

import sys


def main() -> None:
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging
    import shutil
    import time
    from pathlib import Path

    import torch
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from emotion_ft.config_parser import parse_config
    from emotion_ft.training import experiment, gan, report
    from emotion_ft.training.gan_inputs import load_train_songs, split_reference
    from emotion_ft.training.quality import QualityMeter, fidelity, measure_speed
    from emotion_ft.training.regressor import hear, prepare_regressor

    begin = time.perf_counter()
    config = parse_config(sys.argv[1:], description=__doc__)
    training = config.training
    logging.basicConfig(format="%(message)s", level=logging.WARNING if training.process_index else logging.INFO)
    logging.captureWarnings(True)
    disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    run, folder = Path(config.gan.finetuned or training.output_dir), Path(config.gan.gan_output_dir)
    checkpoint = experiment.prepare_output_dir(training, str(folder), gan.STATE_NAME)
    set_seed(training.seed)

    extractor = experiment.build_extractor(config)
    songs, model = load_train_songs(config, run, extractor)
    learnt, reference = split_reference(songs, config.gan.reference_fraction, training.seed)
    gan.check_batch(config, learnt)
    regressor = prepare_regressor(config, learnt, extractor, resumed=checkpoint is not None)
    meter = QualityMeter(model, extractor, learnt, reference, config.gan.reference_windows, training.seed)
    if not training.process_index:
        config.save(folder)
        extractor.save_pretrained(folder)
        shutil.copytree(run / experiment.SPLITS_NAME, folder / experiment.SPLITS_NAME, dirs_exist_ok=True)
    trainer = gan.MelGanTrainer(config, extractor, learnt, regressor, meter)
    if checkpoint:
        trainer.resume(checkpoint)
    first = trainer.step
    started = time.perf_counter()
    best = trainer.train()
    seconds = time.perf_counter() - started
    if training.process_index:
        return

    rows = {
        "real": meter.real,
        "untrained": trainer.history[0],
        f"step {best['step']}, kept": best,
        f"step {trainer.step}, last": trainer.history[-1],
    }
    protocol = (
        f"{songs.info.description}; the GAN learns from {len(learnt)} of them and is measured on the other "
        f"{len(reference)}, {config.gan.reference_windows} windows each, seed {training.seed}"
    )
    heard, labels = hear(regressor, reference, extractor, config.gan.reference_windows)
    results = {
        "protocol": protocol,
        **best,
        **{f"real_{name}": value for name, value in meter.real.items()},
        **fidelity(heard, labels, "_regressor_on_real"),
        "steps_per_second": (trainer.step - first) / seconds,
        "windows_per_second": measure_speed(trainer.average.module),
        "runtime": time.perf_counter() - begin,
    }
    if torch.cuda.is_available():
        results["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    report.write_results(folder, results)
    print(f"\n{protocol}\n")
    print(report.quality_table(rows).to_string(float_format="{:.3f}".format, na_rep=""))
    print(
        f"\nFD: Fréchet distance to the reference windows in the embedding of {run} (for 'real' between learnt and\n"
        "reference windows); FD share: of the untrained generator's. CCC: between the emotion asked for and what\n"
        "that model hears, or a ridge regression on mel statistics. across, within: diversity over all emotions and\n"
        "within one; nearest: distance to the nearest learnt window; these three as shares of real windows'."
    )
    print(
        f"{results['steps_per_second']:.2f} steps/s in {training.precision}, measures included; generation "
        f"{results['windows_per_second']:.0f} windows/s; {results['runtime'] / 60:.1f} minutes in all\n\n"
        f"Generator, numbers and samples: {folder}"
    )


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"train_gan: {error}")
    except KeyboardInterrupt:
        sys.exit("train_gan: interrupted; go on with --resume_from_checkpoint")
