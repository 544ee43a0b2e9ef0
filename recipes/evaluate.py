"""Measure a trained model on annotated songs: those that it has never seen, or those of another collection.

    python recipes/evaluate.py --model DIR --data_root DEAM [--songs test] [--curves] [--output results.json]
    python recipes/evaluate.py --model DIR --collection recipes/configs/pmemo.yaml --data_root PMEmo

With the split that is saved beside the model, `--songs test` are the songs that it has never seen. The labels are
treated as in training unless --labels says otherwise; both are named above the table. A collection is tested on as a
whole; one that holds songs that the model was trained on is refused.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a trained model, with its config.yaml")
    parser.add_argument(
        "--data_root", help="folder with the songs and annotations (default: as the model was trained)"
    )
    parser.add_argument("--collection", help="YAML file of another collection, whose paths --data_root may set")
    parser.add_argument("--songs", choices=["test", "validation", "train"], default="test", help="default: test")
    parser.add_argument(
        "--labels", choices=["repaired", "distributed", "dynamic"], help="default: as the model was trained"
    )
    parser.add_argument("--split", help="another folder of id lists than the model's own")
    parser.add_argument("--curves", action="store_true", help="also measure emotion over time, where it is annotated")
    parser.add_argument("--num_proc", type=int, default=1, help="processes that compute log-mels (default: 1)")
    parser.add_argument("--batch_size", type=int, default=16, help="windows a forward pass (default: 16)")
    parser.add_argument("--output", help="also write the numbers to this JSON file")
    arguments = parser.parse_args()
    if arguments.output and not Path(arguments.output).absolute().parent.is_dir():
        parser.error(f"--output: no folder '{Path(arguments.output).parent}'")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find this very file instead of the library
    import json
    import logging

    from transformers.utils.logging import disable_progress_bar

    from emotion_ft import run_folder
    from emotion_ft.config.parser import parse_config
    from emotion_ft.inference.loading import load_model
    from emotion_ft.inference.predict import predict_curves, predict_songs
    from emotion_ft.reports import tables
    from emotion_ft.scoring import curves
    from emotion_ft.scoring.scores import flat, score_systems
    from emotion_ft.training import external_test, inputs

    logging.basicConfig(format="%(message)s")
    logging.getLogger("emotion_ft").setLevel(logging.INFO)
    disable_progress_bar()
    model_dir = Path(arguments.model)
    config = parse_config([str(model_dir / run_folder.CONFIG), "--rendered_songs", "0", "--precision", "fp32"])
    if arguments.data_root:
        config.data.data_root, config.data.prepared = arguments.data_root, None
    config.data.labels = arguments.labels or config.data.labels
    config.data.num_proc = arguments.num_proc

    model, extractor = load_model(model_dir)
    if arguments.collection:
        songs = external_test.load_external(arguments.collection, arguments.data_root, model_dir)
    else:
        split = arguments.split or str(model_dir / run_folder.SPLITS)
        songs = inputs.load_side(config.data, split, arguments.songs)
        if arguments.split and arguments.songs != "train":
            external_test.refuse_known(songs[arguments.songs], model_dir)
    name = next(iter(songs))
    songs, _ = inputs.store_features(songs, extractor, config.data)
    songs = songs[name]
    annotated = curves.with_curves(songs) if arguments.curves else None
    table = external_test.predicted(songs, predict_songs(model, extractor, songs, arguments.batch_size), model_dir)
    scores = score_systems(table)
    results = model_dir / run_folder.RESULTS
    trained = json.loads(results.read_text())["protocol"] if results.is_file() else "of an unfinished run"
    results = {"trained": trained, "protocol": songs.info.description, "songs": len(songs), **flat(scores)}
    print(f"\nmodel: {trained}\nhere: {songs.info.description}\n{len(songs)} {name} songs; ", end="")
    tables.print_scores(scores)
    if line := external_test.coverage_line(table, model.config):
        print(f"\n{line}")
    if annotated is not None:
        predicted = predict_curves(model, extractor, annotated, arguments.batch_size)
        curve_scores = curves.score_curves(predicted, curves.annotated_curves(annotated))
        results |= curves.flat(curve_scores)
        print(f"\n{curves.text_table(curve_scores)}")
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"evaluate: {error}")
