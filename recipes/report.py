"""Make the page of a finished run again: protocol, data, results, curves, residuals and songs in one HTML file.

    emotion-ft report OUTPUT_DIR

OUTPUT_DIR is a folder of finetune or cross_validate. The page, report.html in that folder, holds its pictures and its
script: it opens without a network and can be sent as it is.
"""

from emotion_ft.cli import command, recipe_parser


@command()
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="folder of a fine-tuning run or a cross-validation")
    given = parser.parse_args(arguments)

    from emotion_ft.reports.page import write_page

    path = write_page(given.output_dir)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
