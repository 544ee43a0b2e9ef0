"""Fine-tune an Audio Spectrogram Transformer to predict valence and arousal.

    accelerate launch recipes/finetune.py recipes/configs/deam.yaml --data_root DEAM [--flag value ...]

Leaves in output_dir: the model with its feature extractor, config.yaml, the split, all_results.json, predictions.csv,
plots and a model card. Test songs are used once, at the very end.
"""

import sys


def main() -> None:
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from transformers.utils.logging import disable_progress_bar

    from emotion_ft.config_parser import parse_config
    from emotion_ft.data.augment import EvaluationTransform, TrainingTransform, with_transform
    from emotion_ft.hub import write_model_card
    from emotion_ft.scale import from_unit
    from emotion_ft.training import baselines, experiment, report
    from emotion_ft.training.gan_inputs import mix_synthetic
    from emotion_ft.training.metrics import score
    from emotion_ft.training.trainer import EmotionTrainer

    config = parse_config(sys.argv[1:], description=__doc__)
    training = config.training
    logging.basicConfig(format="%(message)s", level=logging.WARNING if training.process_index else logging.INFO)
    logging.captureWarnings(True)
    disable_progress_bar()  # of single files written and read; training keeps its own
    checkpoint = experiment.prepare_output_dir(training)
    experiment.make_deterministic(training)

    extractor = experiment.build_extractor(config)
    songs = experiment.load_collection(config.data, training.seed)
    songs, bad_files = experiment.store_features(songs, extractor, config.data)
    protocol = songs["test"].info.description
    if config.synthetic.gan:
        train = mix_synthetic(config, songs, extractor)
    else:
        train = with_transform(songs["train"], TrainingTransform(extractor, config.spec_augment, training.seed))
    model = experiment.build_model(config, extractor)
    trainer = EmotionTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=with_transform(songs["validation"], EvaluationTransform(extractor)),
        processing_class=extractor,
    )
    if trainer.is_world_process_zero():
        experiment.save_inputs(config, songs, bad_files)

    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    validation = trainer.evaluate()
    output = trainer.predict(with_transform(songs["test"], EvaluationTransform(extractor)), metric_key_prefix="test")
    if not trainer.is_world_process_zero():
        return

    labels, predictions = baselines.labels_of(songs["test"]), from_unit(output.predictions)
    scores = {
        "model": score(predictions, labels),
        "mean": score(baselines.mean_baseline(songs["train"], songs["test"]), labels),
        "ridge": score(baselines.ridge_baseline(songs["train"], songs["test"], extractor.num_mel_bins), labels),
    }
    folder = training.output_dir
    report.write_predictions(folder, songs["test"]["song_id"][:], labels, predictions)
    report.plot_learning_curve(folder, trainer.state, training.unfreeze_at)
    report.plot_valence_arousal(folder, labels, predictions, scores["model"], protocol)
    results = {
        "protocol": protocol,
        **{f"{name}_songs": len(split) for name, split in songs.items()},
        "synthetic_windows": len(train) - len(songs["train"]),
        "bad_files": len(bad_files),
        "epochs": trainer.state.epoch,
        "train_runtime": outcome.metrics["train_runtime"],
        "train_loss": outcome.training_loss,
        "validation_mean_ccc": validation["eval_mean_ccc"],
    }
    for name, row in scores.items():
        prefix = "test" if name == "model" else f"baseline_{name}"
        results |= {f"{prefix}_{key}": value for key, value in row.items()}
    table = report.score_table(scores)
    write_model_card(folder, results, table.to_markdown(floatfmt=".3f"), training.hub_model_id)
    report.write_results(folder, results)
    made = f"; {results['synthetic_windows']} synthetic windows an epoch" if config.synthetic.gan else ""
    print(f"\n{protocol}{made}")
    print(f"{len(labels)} held-out songs, valence (V) and arousal (A), RMSE and MAE on the 1-9 scale\n")
    print(table.to_string(float_format="{:.3f}".format))
    print(f"\nModel, numbers and plots: {folder}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"finetune: {error}")
    except KeyboardInterrupt:
        sys.exit(
            "finetune: interrupted; go on with --resume_from_checkpoint, or as before if there is no checkpoint yet"
        )
