"""Export a trained model to ONNX, float32 and int8, and compare both with torch on audio files.

    emotion-ft export_onnx DIR FILE... [--repeats 3]

Writes DIR/onnx/model.onnx and DIR/onnx/model_quantized.onnx, which `emotion-ft predict` runs with --runtime onnx and
onnx-int8. The table shows the largest differences from torch in float32 over the files, on the 1-9 scale, and the time
per window: the median of --repeats, the runtimes taking turns.
"""

import logging

from emotion_ft.cli import command, recipe_parser, set_up_logging


@command()
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("model", metavar="DIR", help="folder of a trained model")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files to compare on")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error("--repeats must be at least 1")
    set_up_logging(level=logging.ERROR)

    from emotion_ft.inference.loading import load_model
    from emotion_ft.inference.onnx import export, load_onnx, parity_table
    from emotion_ft.inference.predict import read_log_mel

    model, extractor = load_model(given.model)
    log_mels = [read_log_mel(extractor, path) for path in given.files]
    paths = export(model, given.model)
    runtimes = {"torch": model.float().cpu(), **{name: load_onnx(given.model, name)[0] for name in paths}}
    table = parity_table(runtimes, extractor, log_mels, given.repeats)
    print(table.to_string(float_format="{:.4f}".format))
    for name, path in paths.items():
        print(f"{name}: {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
