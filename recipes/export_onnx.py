"""Export a trained model to ONNX, float32 and int8, and compare both with torch on audio files.

    python recipes/export_onnx.py DIR FILE... [--repeats 3]

Writes DIR/onnx/model.onnx and DIR/onnx/model_quantized.onnx, which predict.py runs with --runtime onnx and onnx-int8.
The table shows the largest differences over the files from torch in float32, on the 1-9 scale, and the time a window
takes, the median of --repeats, one runtime after the other in each repeat.
"""

import argparse
import sys


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="DIR", help="folder of a trained model")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files to compare on")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library
    import logging

    from transformers.utils.logging import disable_progress_bar

    from emotion_ft.inference.loading import load_model
    from emotion_ft.inference.onnx import export, load_onnx, parity_table
    from emotion_ft.inference.predict import read_log_mel

    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    disable_progress_bar()
    model, extractor = load_model(arguments.model)
    log_mels = [read_log_mel(extractor, path) for path in arguments.files]
    paths = export(model, arguments.model)
    runtimes = {"torch": model.float().cpu(), **{name: load_onnx(arguments.model, name)[0] for name in paths}}
    table = parity_table(runtimes, extractor, log_mels, arguments.repeats)
    print(table.to_string(float_format="{:.4f}".format))
    for name, path in paths.items():
        print(f"{name}: {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"export_onnx: {error}")
