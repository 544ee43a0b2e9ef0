"""Render songs whose sound follows known valence and arousal, in DEAM's folder layout.

python recipes/render_songs.py songs --songs 300 --seconds 20
python recipes/render_songs.py deam_rendered --labels path/to/DEAM_Annotations
python recipes/render_songs.py pmemo_rendered --csv static_annotations.csv metadata.csv
"""

import argparse
import sys
import time


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder to render into")
    parser.add_argument("--songs", type=int, default=300, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a song (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of labels and sound (default: %(default)s)")
    parser.add_argument("--labels", metavar="DIR", help="render the songs annotated in this folder, e.g. DEAM's")
    parser.add_argument("--csv", metavar="FILE", nargs="+", help="or the songs annotated in these CSV files, on 1-9")
    parser.add_argument("--num_proc", type=int, default=1, help="worker processes (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="render finished songs anew")
    args = parser.parse_args(argv)

    from emotion_ft.data.rendering.songs import AUDIO, render_deam

    begin = time.time()
    root = render_deam(
        args.output,
        args.songs,
        args.seconds,
        args.seed,
        args.csv or args.labels,
        num_proc=args.num_proc,
        overwrite=args.overwrite,
    )
    files = [path.stat().st_mtime for path in (root / AUDIO).glob("*.mp3")]
    new = sum(modified >= begin for modified in files)
    cost = f", {(time.time() - begin) * args.num_proc / new:.2f} s a song and core" if new else ""
    print(f"{len(files)} songs ({new} new) of {args.seconds:g} s{cost}, in {root}")


if __name__ == "__main__":
    from emotion_ft.errors import UsageError

    try:
        main()
    except UsageError as error:
        sys.exit(f"render_songs: {error}")
