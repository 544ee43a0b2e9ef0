"""Compare finished runs on the same test songs: their scores, and the differences from the first, with intervals.

    emotion-ft compare RUN [RUN ...] [--output FOLDER]

RUN is a folder of finetune or cross_validate, or one with several seeds of it (finetune --seeds). All have to have the
same test songs, with the same labels. --output writes compare.csv and compare.md.
"""

from emotion_ft.cli import command, recipe_parser


@command()
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, of a cross-validation, or of seeds")
    parser.add_argument("--output", metavar="FOLDER", help="where to write compare.csv and compare.md")
    given = parser.parse_args(arguments)

    from emotion_ft.faults import writing
    from emotion_ft.reports.comparison import comparison_text, write_comparison
    from emotion_ft.scoring.comparison import compare_runs

    comparison = compare_runs(given.runs)
    if given.output:
        with writing(given.output, "output"):
            write_comparison(given.output, comparison)
    print(comparison_text(comparison))


if __name__ == "__main__":
    main()
