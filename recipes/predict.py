"""Predict how audio files feel: valence and arousal on 1-9, and over time with --curve.

    python recipes/predict.py --model DIR FILE... [--output out.csv|out.json|out.jsonl] [--curve]

Any file that libsndfile opens will do (MP3, WAV, FLAC, Ogg, Opus, AIFF), of up to six hours, at any usual rate.
Each file is handled by itself; the exit status is 1 if any of them failed.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument("--model", required=True, help="model folder or Hub id")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--output", help="also write the predictions to this .csv, .json or .jsonl file")
    parser.add_argument("--curve", action="store_true", help="predict over time too, in overlapping windows")
    parser.add_argument("--plot", metavar="DIR", help="with --curve: a picture a file, curves over its spectrogram")
    parser.add_argument("--step", type=float, default=0.5, help="seconds from one window to the next (default: 0.5)")
    parser.add_argument(
        "--runtime",
        choices=["torch", "onnx", "onnx-int8"],
        default="torch",
        help="onnx: as export_onnx.py has written it",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="windows a forward pass (default: 16)")
    arguments = parser.parse_args()
    if arguments.output and Path(arguments.output).suffix not in (".csv", ".json", ".jsonl"):
        parser.error(f"--output must end in .csv, .json or .jsonl, got '{arguments.output}'")
    if arguments.output and not Path(arguments.output).absolute().parent.is_dir():
        parser.error(f"--output: no folder '{Path(arguments.output).parent}'")
    if arguments.plot and not arguments.curve:
        parser.error("--plot draws curves: ask for them with --curve")
    if arguments.output and Path(arguments.output).is_dir():
        parser.error(f"--output: '{arguments.output}' is a folder")
    if not 0 < arguments.step < float("inf") or arguments.batch_size < 1:
        parser.error("--step and --batch_size must be positive")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    here = str(Path(__file__).parent)  # on the path, `import evaluate` would find the recipe instead of the library
    sys.path[:] = [path for path in sys.path if path != here]
    from tqdm.auto import tqdm
    from transformers.utils.logging import disable_progress_bar

    from emotion_ft.data.audio import AudioError
    from emotion_ft.inference.loading import load_model
    from emotion_ft.inference.predict import predict_log_mel, read_log_mel, write_predictions

    disable_progress_bar()
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8
        stream.reconfigure(errors="backslashreplace")
    if arguments.runtime == "torch":
        model, extractor = load_model(arguments.model, arguments.revision)
    else:
        from emotion_ft.inference.onnx import load_onnx

        model, extractor = load_onnx(arguments.model, arguments.runtime)
    predictions, failures = {}, {}
    for path in tqdm(arguments.files, unit="file", disable=len(arguments.files) == 1):
        try:
            log_mel = read_log_mel(extractor, path)
        except AudioError as error:
            failures[path] = str(error)
            continue
        step = arguments.step if arguments.curve else None
        predictions[path] = predict_log_mel(model, extractor, log_mel, step, arguments.batch_size)
        if arguments.plot:
            from emotion_ft.reports.song_plots import plot_curve

            Path(arguments.plot).mkdir(parents=True, exist_ok=True)
            time, valence, arousal = predictions[path].curve
            namesakes = sum(Path(other).name == Path(path).name for other in list(predictions)[:-1])
            picture = Path(arguments.plot) / f"{Path(path).name}{f'-{namesakes + 1}' if namesakes else ''}.png"
            plot_curve(picture, log_mel, time, {"valence": valence, "arousal": arousal}, extractor, Path(path).name)
    for path, prediction in predictions.items():
        within = [f" ± {halfwidth:.2f}" for halfwidth in prediction.halfwidths or ()] or ["", ""]
        print(f"{path}: valence {prediction.valence:.2f}{within[0]}, arousal {prediction.arousal:.2f}{within[1]}")
        if arguments.curve and not arguments.output:
            for time, valence, arousal in zip(*prediction.curve, strict=True):
                print(f"  {time:7.2f} s  valence {valence:.2f}  arousal {arousal:.2f}")
    for path, reason in failures.items():
        print(f"{path}: {reason}", file=sys.stderr)
    if arguments.output:
        write_predictions(arguments.output, predictions, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"predict: {error}")
