"""A web page that shows how a song feels: valence and arousal, also over time, predicted by a model of emotion_ft.

    python app.py [MODEL] [--port PORT]

MODEL is the folder of a fine-tuned run or a repository on the Hub; the default is the one named in `space.json`, next
to this file. The model brings its own code, so emotion_ft is not needed.
"""

import argparse
import base64
import io
import json
import sys
from html import escape
from pathlib import Path

import gradio as gr
import matplotlib
import numpy as np
import soundfile
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from matplotlib.figure import Figure
from safetensors import SafetensorError
from transformers import Pipeline, pipeline

HERE = Path(__file__).parent
MAX_MINUTES = 20
MAX_HEADER = 1e9  # seconds: libsndfile reports the largest integer if a header, as of a streamed FLAC, has no length
MAX_SIZE = "256mb"  # 20 minutes in CD quality are 212 MB
MAX_WINDOWS = 120  # of a curve: on a CPU, AST-base takes about a second for each
MIN_STEP = 0.5  # seconds, as DEAM annotates
TAKEN = f"MP3, WAV, FLAC, Ogg Vorbis or Opus, of up to {MAX_MINUTES} minutes and {MAX_SIZE[:-2]} MB"
ABOUT = f"""# How does this song feel?
Its **valence** is how negative or positive it sounds, its **arousal** how calm or energetic. `{{model}}` predicts both
for {TAKEN}."""
ENDS = {"valence": "negative to positive", "arousal": "calm to energetic"}
COLORS = {"valence": "#ff7f0e", "arousal": "#17becf"}
QUADRANTS = {(3, 8.6): "tense, angry", (7, 8.6): "excited, joyful", (3, 1.4): "sad, gloomy", (7, 1.4): "calm, tender"}
BACKGROUND = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
CSS = """
.main.app { max-width: 1280px !important; }
.result, .result > div { padding: 0 !important; }
.song { display: grid; grid-template-columns: minmax(0, 9fr) minmax(0, 11fr); gap: 16px; }
.song > div { display: flex; flex-direction: column; gap: 16px; }
.song dl { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; margin: 0; }
.song dl > div { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 16px 8px;
  box-shadow: inset 0 4px var(--mark); }
.song dt, .song dd { margin: 0; font-size: 15px; }
.song dd.value { font-size: 40px; font-weight: 600; line-height: 1.2; }
.song figure { display: flex; flex: 1; align-items: center; background: white; border-radius: 8px;
  border: 1px solid var(--border-color-primary); padding: 8px; margin: 0; }
.song img { width: 100%; margin: 0; }
.song p { grid-column: 1 / -1; margin: 0; font-size: 15px; overflow-wrap: anywhere; }
.refused { border-left: 4px solid #dc2626 !important; padding: 8px 16px; margin: 0; font-size: 17px;
  overflow-wrap: anywhere; }
@media (max-width: 800px) { .song { grid-template-columns: minmax(0, 1fr); } }
"""
matplotlib.rcParams.update({"font.size": 9.5, "axes.edgecolor": "0.6", "axes.linewidth": 0.8})


def predict_song(emotion: Pipeline, path: str, progress: gr.Progress) -> tuple[dict, np.ndarray]:
    """The pipeline's result for a file, with curves, and the file's log-mel (frames, mels).

    Raises:
        ValueError: if the file cannot be used; the message says why, and which files can be.
    """
    try:
        seconds = soundfile.info(path).duration
    except (soundfile.LibsndfileError, TypeError):
        seconds = 0.0  # the pipeline says what is wrong with it
    try:
        if seconds > MAX_HEADER:
            raise ValueError("its header does not say how long it is.")
        if seconds > 60 * MAX_MINUTES:
            raise ValueError(f"too long: {round(seconds) // 60}:{round(seconds) % 60:02d} by its header.")
        progress(0, desc="decoding")
        extractor = emotion.feature_extractor
        pieces = sys.modules[type(emotion).__module__].read_pieces(path, extractor.sampling_rate, min_seconds=1.0)
        log_mel = np.concatenate([part.astype(np.float16) for part in extractor.iter_log_mel(pieces)])
        windows = list(emotion.preprocess(path, curve=True, step=max(MIN_STEP, seconds / MAX_WINDOWS)))
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{Path(path).name}: {reason} Songs are taken as {TAKEN}.") from error
    outputs = [emotion.forward(window) for window in progress.tqdm(windows, desc="predicting", unit="windows")]
    return emotion.postprocess(outputs), log_mel


def plane(result: dict) -> Figure:
    """The song on the valence-arousal plane, with its windows as dots and its intervals as a cross."""
    figure = Figure((4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(5, color="0.7", linewidth=0.8)
    axes.axvline(5, color="0.7", linewidth=0.8)
    for place, words in QUADRANTS.items():
        axes.text(*place, words, ha="center", va="center", color="0.4", zorder=2.5, bbox=BACKGROUND)
    valence, arousal, curve = result["valence"], result["arousal"], result["curve"]
    if "valence_interval" in result:
        axes.plot(result["valence_interval"], [arousal, arousal], color=COLORS["valence"], linewidth=2.5)
        axes.plot([valence, valence], result["arousal_interval"], color=COLORS["arousal"], linewidth=2.5)
    axes.scatter(curve["valence"], curve["arousal"], s=9, color="0.3", alpha=0.3, linewidth=0, zorder=3)
    axes.plot(valence, arousal, "o", color="0.15", markersize=10, markeredgecolor="white", zorder=4)
    axes.set(xlim=(1, 9), ylim=(1, 9), aspect="equal", xticks=range(1, 10), yticks=range(1, 10))
    axes.set(xlabel="valence", ylabel="arousal")
    return figure


def over_time(curve: dict, log_mel: np.ndarray, seconds: float) -> Figure:
    """Valence and arousal over time, on 1-9, above the log-mel."""
    figure = Figure((5.2, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.axhline(5, color="0.7", linewidth=0.8)
    for name, color in COLORS.items():
        upper.plot(curve["time"], curve[name], ".-", color=color, markersize=3, linewidth=1.6, label=name)
    upper.set(ylim=(1, 9), yticks=range(1, 10), ylabel="1-9")
    upper.legend(loc="upper right", ncols=2, frameon=False)
    extent = (0, seconds, 0, log_mel.shape[1])
    lower.imshow(log_mel.T.astype(np.float32), origin="lower", aspect="auto", cmap="magma", extent=extent)
    lower.set(xlim=(0, seconds), xlabel="seconds", ylabel="mel band")
    lower.locator_params(axis="x", integer=True)
    figure.align_ylabels()
    return figure


def picture(figure: Figure, alt: str) -> str:
    """A figure as HTML, with a text alternative."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=160)
    source = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"></figure>'


def show(name: str, result: dict, log_mel: np.ndarray, emotion: Pipeline) -> str:
    """A result as HTML: the numbers, the plane, and the curves over time."""
    numbers = ""
    for dimension, ends in ENDS.items():
        numbers += f'<div style="--mark: {COLORS[dimension]}"><dt>{dimension}, {ends}</dt>'
        numbers += f'<dd class="value" id="{dimension}">{result[dimension]:.2f}</dd>'
        if interval := result.get(f"{dimension}_interval"):
            numbers += f'<dd id="{dimension}_interval">{interval[0]:.2f} to {interval[1]:.2f}</dd>'
        numbers += "</div>"
    curve, extractor, level = result["curve"], emotion.feature_extractor, emotion.model.config.interval_level
    seconds = len(log_mel) * extractor.hop_length / extractor.sampling_rate
    at = f"The song on the plane, at valence {result['valence']:.2f} and arousal {result['arousal']:.2f}."
    ranges = [f"{dimension} from {min(curve[dimension]):.1f} to {max(curve[dimension]):.1f}" for dimension in ENDS]
    over = f"Over {seconds:.0f} s: {' and '.join(ranges)}; below, the log-mel spectrogram."
    note = (
        f"{escape(name)}. Both scales run from 1 to 9. The song's values are means over the "
        "curve, each dot of which is a window."
    )
    if level:
        note += f" The intervals contain the rating of {100 * level:.0f} % of songs like those it was calibrated on."
    return (
        f'<div class="song"><div><dl>{numbers}</dl>{picture(plane(result), at)}</div>'
        f"<div>{picture(over_time(curve, log_mel, seconds), over)}</div><p>{note}</p></div>"
    )


def build(emotion: Pipeline, model: str, labels: dict | None) -> gr.Blocks:
    """The page, and its endpoint `/predict`.

    Args:
        model: the name to show.
        labels: valence and arousal that `example.mp3` was rendered from; None if there is no example.
    """

    def predict(song: str | None, progress=gr.Progress()) -> dict:  # noqa: B008
        """Valence and arousal of an audio file on 1-9, with their intervals and curves."""
        if song is None:
            raise gr.Error("No song: one audio file is needed.", print_exception=False)
        try:
            return predict_song(emotion, song, progress)[0]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def answer(song: str | None, progress=gr.Progress()) -> str:  # noqa: B008
        if song is None:
            return ""
        try:
            result, log_mel = predict_song(emotion, song, progress)
        except ValueError as error:
            return f'<p class="refused" role="alert">{escape(str(error))}</p>'
        return show(Path(song).name, result, log_mel, emotion)

    one = {"concurrency_limit": 1, "concurrency_id": "model"}
    with gr.Blocks(title="How does this song feel?", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(ABOUT.format(model=model))
        plain = gr.WaveformOptions(show_recording_waveform=False)  # the waveform of 20 minutes fills a phone's memory
        song = gr.Audio(
            sources="upload", type="filepath", label="Song", editable=False, buttons=[], waveform_options=plain
        )
        if labels:
            made = "a song rendered from valence {valence:g} and arousal {arousal:g}".format(**labels)
            gr.Examples([[str(HERE / "example.mp3")]], [song], label="Or an example", example_labels=[made])
        result = gr.HTML(min_height=80, elem_classes="result")
        song.change(answer, song, result, api_visibility="private", **one)
        gr.Button(visible=False).click(predict, song, gr.JSON(visible=False), api_name="predict", **one)
    return page


def load(model: str, revision: str | None) -> Pipeline:
    """The pipeline of a folder or a repository on the Hub; exits with one sentence if there is none."""
    try:
        if not Path(model).is_dir():
            validate_repo_id(model)
        return pipeline("music-emotion", model=model, revision=revision, trust_remote_code=True)
    except HFValidationError:
        reason = "neither a folder nor you/name on the Hub."
    except KeyError:
        reason = "it brings no pipeline code; emotion_ft.hub.repository.add_pipeline adds it to a run's folder."
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())
    sys.exit(f"app: no model in '{model}': {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a folder, or you/name on the Hub")
    parser.add_argument("--port", type=int, help="to serve on; the first free one from 7860 by default")
    arguments = parser.parse_args()
    file = HERE / "space.json"
    space = json.loads(file.read_text()) if file.is_file() else {}
    model, revision = (arguments.model, None) if arguments.model else (space.get("model"), space.get("revision"))
    if model is None:
        parser.error("which model? Name a folder, or you/name on the Hub.")
    page = build(load(model, revision), model, space.get("example"))
    theme = gr.themes.Default(primary_hue="orange", secondary_hue="cyan", **FONTS)
    page.queue(max_size=20).launch(
        server_port=arguments.port,
        max_file_size=MAX_SIZE,
        footer_links=["api", "gradio"],
        ssr_mode=False,
        theme=theme,
        css=CSS,
    )


if __name__ == "__main__":
    main()
