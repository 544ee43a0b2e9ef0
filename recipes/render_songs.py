"""Render songs whose sound follows known valence and arousal, in DEAM's folder layout.

emotion-ft render_songs songs --songs 300 --seconds 20
emotion-ft render_songs deam_rendered --labels path/to/DEAM_Annotations
emotion-ft render_songs pmemo_rendered --csv static_annotations.csv metadata.csv
"""

import time

from emotion_ft.cli import command, recipe_parser
from emotion_ft.errors import SAME_COMMAND


@command(SAME_COMMAND)
def main(arguments: list[str]) -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("output", metavar="OUTPUT", help="folder to render into")
    parser.add_argument("--songs", type=int, default=300, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a song (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of labels and sound (default: %(default)s)")
    parser.add_argument("--labels", metavar="DIR", help="render the songs annotated in this folder, such as DEAM's")
    parser.add_argument("--csv", metavar="FILE", nargs="+", help="or the songs annotated in these CSV files, on 1-9")
    parser.add_argument("--num_proc", type=int, default=1, help="worker processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="render finished songs again")
    given = parser.parse_args(arguments)

    from emotion_ft.data.rendering.songs import AUDIO, render_deam

    begin, labels = time.time(), given.csv or given.labels
    settings = {"num_proc": given.num_proc, "overwrite": given.overwrite}
    root = render_deam(given.output, given.songs, given.seconds, given.seed, labels, **settings)
    files = [path.stat().st_mtime for path in (root / AUDIO).glob("*.mp3")]
    new = sum(modified >= begin for modified in files)
    cost = f", {(time.time() - begin) * given.num_proc / new:.2f} s per song and core" if new else ""
    print(f"{len(files)} songs ({new} new) of {given.seconds:g} s{cost}, in {root}")


if __name__ == "__main__":
    main()
