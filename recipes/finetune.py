"""Fine-tune an Audio Spectrogram Transformer to predict valence and arousal.

    accelerate launch recipes/finetune.py recipes/configs/deam.yaml --data_root DEAM [--flag value ...]

Leaves in output_dir: the model with its feature extractor, config.yaml, the split, all_results.json, predictions.csv,
plots and a model card. Test songs are used once, at the very end. With --push_to_hub, all of it but the checkpoints
and the songs goes to hub_model_id when it is finished.
"""

import sys


def main() -> None:
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from transformers.utils.logging import disable_progress_bar

    from emotion_ft import run_folder
    from emotion_ft.config.parser import parse_config
    from emotion_ft.faults import writing
    from emotion_ft.hub.push import plan_push
    from emotion_ft.hub.repository import add_pipeline
    from emotion_ft.reports import tables
    from emotion_ft.reports.cards import write_model_card
    from emotion_ft.reports.page import write_page
    from emotion_ft.scoring import curves
    from emotion_ft.training import inputs
    from emotion_ft.training.finetuning import finetune

    config = parse_config(sys.argv[1:], description=__doc__)
    training = config.training
    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.WARNING if training.process_index else logging.INFO)
    logging.captureWarnings(True)
    disable_progress_bar()  # of single files written and read; training keeps its own
    push = plan_push(training, training.output_dir)
    with writing(training.output_dir, "output_dir"):
        checkpoint = inputs.prepare_output_dir(training)
        inputs.make_deterministic(training)

        extractor = inputs.build_extractor(config)
        songs = inputs.load_collection(config.data, training.seed)
        songs, bad_files = inputs.store_features(songs, extractor, config.data)
        inputs.write_audit(training.output_dir, config.data)
        finished = finetune(config, extractor, songs, bad_files, checkpoint)
        if finished is None:
            return

        results, folder = finished.results, training.output_dir
        add_pipeline(folder)
        run_folder.write_results(folder, results)
        write_model_card(folder, training.hub_model_id if push else None)
        page = write_page(folder)
        made = f"; {results['synthetic_windows']} synthetic windows an epoch" if config.synthetic.gan else ""
        print(f"\n{results['protocol']}{made}\n{results['test_songs']} held-out songs, ", end="")
        tables.print_scores(finished.scores)
        if finished.curve_scores is not None:
            print(f"\n{curves.text_table(finished.curve_scores)}")
        if "interval_level" in results:
            print(f"\n{tables.interval_line(results)}")
        print(f"\nModel, numbers and plots: {folder}; all on one page: {page}")
        if push:
            print(f"Pushed to {push()}")


if __name__ == "__main__":
    from emotion_ft.training.signals import leaving

    with leaving("finetune"):
        main()
