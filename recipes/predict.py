"""Predict how audio files feel: valence and arousal on 1-9, and over time with --curve.

    emotion-ft predict --model DIR FILE... [--output out.csv|out.json|out.jsonl] [--curve]

Any file that libsndfile opens will do (MP3, WAV, FLAC, Ogg, Opus, AIFF), of up to six hours, at any usual rate.
Each file is handled by itself; the exit status is 1 if any of them failed.
"""

import argparse
import sys
from pathlib import Path

from emotion_ft.cli import command, recipe_parser


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = recipe_parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument("--model", required=True, help="model folder or Hub id")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--output", help="also write the predictions to this .csv, .json or .jsonl file")
    parser.add_argument("--curve", action="store_true", help="predict over time too, in overlapping windows")
    parser.add_argument("--plot", metavar="DIR", help="with --curve: a picture per file, curves over its spectrogram")
    parser.add_argument("--step", type=float, default=0.5, help="seconds from one window to the next (default: 0.5)")
    parser.add_argument(
        "--runtime",
        choices=["torch", "onnx", "onnx-int8"],
        default="torch",
        help="onnx: as `emotion-ft export_onnx` wrote it",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="windows per forward pass (default: 16)")
    given = parser.parse_args(arguments)
    if given.output and Path(given.output).suffix not in (".csv", ".json", ".jsonl"):
        parser.error(f"--output must end in .csv, .json or .jsonl, got '{given.output}'")
    if given.output and not Path(given.output).absolute().parent.is_dir():
        parser.error(f"--output: no folder '{Path(given.output).parent}'")
    if given.output and Path(given.output).is_dir():
        parser.error(f"--output: '{given.output}' is a folder")
    if given.plot and not given.curve:
        parser.error("--plot draws curves: ask for them with --curve")
    if not 0 < given.step < float("inf") or given.batch_size < 1:
        parser.error("--step and --batch_size must be positive")
    return given


def picture(folder: str, path: str, earlier: list[str]) -> Path:
    """A name for a file's picture; several files may have the same name."""
    namesakes = sum(Path(other).name == Path(path).name for other in earlier)
    return Path(folder) / f"{Path(path).name}{f'-{namesakes + 1}' if namesakes else ''}.png"


@command("nothing was predicted")
def main(arguments: list[str]) -> int:
    given = parse(arguments)

    from tqdm.auto import tqdm
    from transformers.utils.logging import disable_progress_bar

    from emotion_ft.data.audio import AudioError
    from emotion_ft.inference.predict import predict_log_mel, read_log_mel, write_predictions

    disable_progress_bar()
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if given.runtime == "torch":
        from emotion_ft.inference.loading import load_model

        model, extractor = load_model(given.model, given.revision)
    else:
        from emotion_ft.inference.onnx import load_onnx

        model, extractor = load_onnx(given.model, given.runtime)
    predictions, failures = {}, {}
    try:
        for path in tqdm(given.files, unit="file", disable=len(given.files) == 1):
            try:
                log_mel = read_log_mel(extractor, path)
            except AudioError as error:
                failures[path] = str(error)
                continue
            step = given.step if given.curve else None
            predictions[path] = predict_log_mel(model, extractor, log_mel, step, given.batch_size)
            if given.plot:
                from emotion_ft.reports.song_plots import plot_curve

                Path(given.plot).mkdir(parents=True, exist_ok=True)
                time, *values = predictions[path].curve
                curves = dict(zip(("valence", "arousal"), values, strict=True))
                place = picture(given.plot, path, list(predictions)[:-1])
                plot_curve(place, log_mel, time, curves, extractor, Path(path).name)
    except KeyboardInterrupt as interrupt:
        show(given, predictions, failures)
        place = f", in {given.output}" if given.output else ""
        interrupt.add_note(f"{len(predictions)} of {len(given.files)} files are predicted{place}")
        raise
    finally:
        if given.output:
            write_predictions(given.output, predictions, failures)
    show(given, predictions, failures)
    return 1 if failures else 0


def show(given: argparse.Namespace, predictions: dict, failures: dict[str, str]) -> None:
    """Print predictions, and on stderr why files failed."""
    for path, prediction in predictions.items():
        within = [f" ± {halfwidth:.2f}" for halfwidth in prediction.halfwidths or ()] or ["", ""]
        print(f"{path}: valence {prediction.valence:.2f}{within[0]}, arousal {prediction.arousal:.2f}{within[1]}")
        if given.curve and not given.output:
            for time, valence, arousal in zip(*prediction.curve, strict=True):
                print(f"  {time:7.2f} s  valence {valence:.2f}  arousal {arousal:.2f}")
    for path, reason in failures.items():
        print(f"{path}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
