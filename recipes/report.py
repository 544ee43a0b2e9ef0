"""Make a page of a finished run: protocol, data, results, curves, residuals and songs, in one HTML file.

    python recipes/report.py OUTPUT_DIR

OUTPUT_DIR is the folder of finetune.py or cross_validate.py. The page, report.html in that folder, holds its pictures
and its script: it opens without a network and can be sent as it is.
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="folder of a fine-tuning run or a cross-validation")
    arguments = parser.parse_args()
    sys.path.pop(0)  # this folder: else `import evaluate` would find the recipe instead of the library

    from emotion_ft.reports.page import write_page

    path = write_page(arguments.output_dir)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"report: {error}")
