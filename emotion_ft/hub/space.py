"""The demo Space of a model: the app of `hub_cards/space`, its card and a rendered example, in one folder."""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from .. import run_folder
from ..data.rendering.songs import AUDIO, render_deam
from ..errors import UsageError
from ..reports.templates import TEMPLATES, template

EXAMPLE = {"valence": 7.5, "arousal": 7.0}  # labels, on 1-9
EXAMPLE_SECONDS = 20.0
MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+")


def build_space(folder: str | Path, model_id: str, revision: str | None = None) -> Path:
    """Assemble a Gradio Space that shows the predictions of a model on the Hub; it does not need emotion_ft.

    Writes `app.py`, `requirements.txt`, `README.md` (the Space's card), `space.json`, which names the model, and
    `example.mp3`, a song of 20 s rendered from the labels `EXAMPLE`.

    Args:
        folder: a new or empty one, or a `UsageError` is raised.
        model_id: `you/name` on the Hub, with the pipeline's code in it (`hub.repository.add_pipeline`).
        revision: of the model, such as a commit's sha for a Space that never changes; None: the newest of main.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' is there already: choose a new or an empty folder.")
    if not MODEL_ID.fullmatch(model_id):
        raise UsageError(f"'{model_id}' names no model on the Hub: expected you/name.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("app.py", "requirements.txt"):
        shutil.copyfile(TEMPLATES / "space" / name, folder / name)
    card = template("space/README.md").render(model_id=model_id, revision=revision)
    (folder / run_folder.CARD).write_text(card)
    space = {"model": model_id, "revision": revision, "example": EXAMPLE}
    (folder / "space.json").write_text(json.dumps(space, indent=2) + "\n")
    with TemporaryDirectory() as place:
        labels = Path(place, "example.csv")
        labels.write_text("song_id,valence,arousal\n1,{valence},{arousal}\n".format(**EXAMPLE))
        root = render_deam(Path(place, "song"), seconds=EXAMPLE_SECONDS, labels=[labels])
        shutil.copyfile(root / AUDIO / "1.mp3", folder / "example.mp3")
    return folder
