"""Train a GAN that makes log-mel windows with a given valence and arousal.

    accelerate launch recipes/train_gan.py recipes/configs/deam.yaml --data_root DEAM [--flag value ...]

It learns from the training songs of a fine-tuned run (--finetuned, or else output_dir) and opens no others; that run's
model measures it. Leaves in gan_output_dir: the generator of the best measured step, discriminator/, regressor/,
all_results.json, sample grids, plots and a model card. `finetune.py --gan DIR` trains with its windows. With
--push_to_hub, all of it but the checkpoints goes to hub_model_id when it is finished.
"""

import sys


def main() -> None:
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging
    import shutil
    from pathlib import Path

    from transformers.utils.logging import disable_progress_bar

    from emotion_ft import run_folder
    from emotion_ft.config.parser import parse_config
    from emotion_ft.faults import writing
    from emotion_ft.gan import trainer
    from emotion_ft.gan.quality import QualityMeter, fidelity, measure_speed
    from emotion_ft.gan.regressor import hear, prepare_regressor
    from emotion_ft.gan.train_songs import load_train_songs, refuse_changes, split_reference
    from emotion_ft.hub.push import plan_push
    from emotion_ft.reports import gan as reports
    from emotion_ft.reports.cards import write_gan_card
    from emotion_ft.reports.environment import environment
    from emotion_ft.training import inputs

    config = parse_config(sys.argv[1:], description=__doc__)
    training = config.training
    main_process = not training.process_index
    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.INFO if main_process else logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    disable_progress_bar()
    inputs.make_deterministic(training)

    run, folder = Path(config.gan.finetuned or training.output_dir), Path(config.gan.gan_output_dir)
    push = plan_push(training, folder)
    extractor = inputs.build_extractor(config)
    songs, model = load_train_songs(config, run, extractor)
    learnt, reference = split_reference(songs, config.gan.reference_fraction, training.seed)
    trainer.check_batch(config, learnt)
    with writing(folder, "gan_output_dir"):
        checkpoint = inputs.prepare_output_dir(training, str(folder), run_folder.GAN_STATE)
        if checkpoint:
            refuse_changes(config, run, checkpoint)
        elif main_process:
            config.save(folder)
            extractor.save_pretrained(folder)
            shutil.copytree(run / run_folder.SPLITS, folder / run_folder.SPLITS, dirs_exist_ok=True)
        regressor = prepare_regressor(config, learnt, extractor, resumed=checkpoint is not None)
        windows = config.gan.reference_windows
        meter = QualityMeter(model, extractor, learnt, reference, windows, training.seed) if main_process else None
        trainer = trainer.MelGanTrainer(config, extractor, learnt, regressor, meter)
        if checkpoint:
            trainer.resume(checkpoint)
        first = trainer.step
        best = trainer.train()
        if not main_process:
            return

        results = {
            "protocol": f"{songs.info.description}; the GAN learns from {len(learnt)} of them and is measured on the "
            f"other {len(reference)}, {windows} windows each, seed {training.seed}",
            **best,
            **environment(trainer.accelerator.device),
            "alarms": {row["step"]: trainer.alarms(row) for row in trainer.history if trainer.alarms(row)},
            **{f"real_{name}": value for name, value in meter.real.items()},
            **fidelity(*hear(regressor, reference, extractor, windows), "_regressor_on_real"),
            "steps_per_second": (trainer.step - first) / trainer.seconds if trainer.seconds else None,
            "peak_gpu_bytes": trainer.peak_gpu_bytes,
            "windows_per_second": measure_speed(trainer.average.module),
        }
        rows = {
            "real": meter.real,
            "untrained": trainer.history[0],
            f"step {best['step']}, kept": best,
            f"step {trainer.step}, last": trainer.history[-1],
        }
        table = reports.quality_table(rows)
        reports.write_quality(folder, table)
        run_folder.write_results(folder, results)
        write_gan_card(folder, training.hub_model_id if push else None)
        text = table.to_string(float_format="{:.3f}".format, na_rep="")
        print(f"\n{results['protocol']}\n\n{text}")
        print(f"\n{reports.LEGEND.format(run=run)}\n\n{reports.speed_line(results, training.precision)}")
        print(f"\nGenerator, numbers and samples: {folder}")
        if push:
            print(f"Pushed to {push()}")


if __name__ == "__main__":
    from emotion_ft.training.signals import leaving

    with leaving("train_gan"):
        main()
