"""The page of a run: what it says, that it is whole in itself, and that a browser opens it without complaint."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from datasets import DatasetDict, concatenate_datasets
from emotion_ft.recipes import report
from transformers import TrainerState

from emotion_ft import run_folder
from emotion_ft.config.parser import parse_config
from emotion_ft.data.collections.audit import audit
from emotion_ft.data.songs import collections_of
from emotion_ft.errors import UsageError
from emotion_ft.reports import song_plots
from emotion_ft.reports.audit import write_audit
from emotion_ft.reports.page import quadrant_errors, write_page
from emotion_ft.reports.tables import COLUMNS, LEGEND, comparison_line
from emotion_ft.reports.training_plots import plot_learning_curve
from emotion_ft.scoring.curves import score_curves
from emotion_ft.scoring.metrics import DIMENSIONS
from emotion_ft.scoring.scores import flat, predictions_table, references, score_systems, system_predictions
from emotion_ft.studies import cross_validation
from emotion_ft.training import inputs

SECTIONS = ["what", "audit", "results", "learning", "plane", "residuals", "worst", "configuration"]
HOSTILE = [
    "<script>document.title='owned'</script>.mp3",
    '"><img src=x onerror="boom()">',
    "</title></svg><b>&amp;'{{ 7*7 }}",
]
VOID = {"meta", "link", "img", "input", "br"}
CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not on the PATH; `make test` installs it with apt-get"
)


class Page(HTMLParser):
    """What a page holds: its ids, every element with its attributes, the rows of its tables, its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.rows, self.text, self.open, self.ids = [], [], "", [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += " " * (self.open[-1] == "small") + data

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, *start):
        """The first row that starts with these cells, or the rest of it."""
        return next(row[len(start) :] for row in self.rows if row[: len(start)] == list(start))


def write_run(folder, songs, extractor, seed=0, exchanged=False, curves=False):
    """A finished run of predictions that are labels and noise, written by what writes a real one."""
    rng = np.random.default_rng(seed)
    config = parse_config(["recipes/configs/toy.yaml", "--output_dir", str(folder), "--seed", "7"], description="")
    folder.mkdir(parents=True)
    inputs.save_inputs(config, songs, [])
    test = songs["test"]
    labels = np.stack([test[dimension] for dimension in DIMENSIONS], axis=1)
    systems = {name: (labels + rng.normal(0, noise, labels.shape)).clip(1, 9)
               for name, noise in {"model": 0.8, "ridge": 1.5, "mean": 3}.items()}  # fmt: skip
    table = predictions_table(test, systems).assign(valence_std=1.5, arousal_std=1.5, labels="repaired")
    if exchanged:
        table = table.assign(other_valence=table["arousal"], other_arousal=table["valence"])
    scores = score_systems(table)
    results = {"protocol": f"songs of a test, seed {seed}", "collections": collections_of(test)}
    results |= {"labels": "repaired", "epochs": 3.0, "train_runtime": 12.0}
    results |= {f"{name}_songs": len(side) for name, side in songs.items()}
    results |= {"synthetic_windows": 0, "bad_files": 0, "validation_mean_ccc": 0.5, **flat(scores)}
    results |= {"interval_level": 0.9, "interval_valence": 1.25, "interval_arousal": 1.5}
    results |= {"test_valence_coverage": 0.875, "test_arousal_coverage": 1.0}
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    if curves:
        pair = [rng.uniform(-1, 1, (6, 2)) for _ in range(4)]
        run_folder.write_table(
            folder, run_folder.CURVE_SCORES, score_curves(pair, [-curve for curve in pair]).reset_index()
        )
    song_plots.plot_residuals(folder, references(table), system_predictions(table, "model"))
    song_plots.plot_worst_songs(folder, table, test, extractor)
    log = [{"epoch": epoch, "loss": 1 / epoch, "eval_valence_ccc": epoch / 4} for epoch in (1.0, 2.0, 3.0)]
    plot_learning_curve(folder, TrainerState(epoch=3.0, max_steps=30, global_step=30, log_history=log), 0.25)
    run_folder.write_results(folder, results)
    return folder


@pytest.fixture(scope="module")
def songs(stored_songs):
    """All stored songs on the test side, a few of them on the others, too."""
    everything = concatenate_datasets(list(stored_songs.values()))
    return DatasetDict({**stored_songs, "test": everything})


@pytest.fixture(scope="module")
def run(songs, tiny_extractor, songs_root, tmp_path_factory):
    """A run with everything, whose songs and artist have hostile names; its page."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "whole", songs, tiny_extractor, exchanged=True, curves=True)
    write_audit(folder / "audit", audit(songs_root), HOSTILE[0])
    with (folder / "audit" / "audit.md").open("a") as file:
        file.write(f"\n{HOSTILE[1]} ![x](http://example.org/x.png) [x](http://example.org) <http://example.org>\n")
    table = pd.read_csv(folder / run_folder.PREDICTIONS)
    table["artist"] = ["NA", *HOSTILE] * 6
    table.loc[: len(HOSTILE) - 1, "audio"] = HOSTILE
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    return Page(write_page(folder)), folder


@pytest.fixture(scope="module")
def folds(songs, tiny_extractor, tmp_path_factory):
    """A cross-validation of two folds; its page."""
    folder = tmp_path_factory.mktemp("runs") / "folds"
    sides = [songs["test"].select(range(14)), songs["test"].select(range(14, 24))]
    for fold, side in enumerate(sides):
        write_run(folder / f"fold-{fold}", DatasetDict({**songs, "test": side}), tiny_extractor, seed=fold)
    table = cross_validation.pool(folder, 2)
    scores = score_systems(table)
    run_folder.write_table(folder, run_folder.PREDICTIONS, table)
    run_folder.write_table(folder, run_folder.SCORES, scores.reset_index())
    fold_scores = cross_validation.score_folds(table).rename_axis("fold").reset_index()
    run_folder.write_table(folder, run_folder.FOLD_SCORES, fold_scores)
    shutil.copy(folder / "fold-0" / "config.yaml", folder)
    results = {"protocol": "2-fold", "collections": [], "labels": "repaired", "folds": 2}
    results |= cross_validation.pooled_results(folder, 2)
    run_folder.write_results(folder, results | flat(scores))
    return Page(write_page(folder)), folder


def cells(row):
    """Cells of the table of scores, from a row of its CSV."""
    written = []
    for key in COLUMNS:
        interval = "" if np.isnan(row[f"{key}_low"]) else f" [{row[f'{key}_low']:z.3f}, {row[f'{key}_high']:z.3f}]"
        written.append(f"{row[key]:z.3f}{interval}")
    return written


class TestPage:
    def test_has_every_section_and_a_way_to_it(self, run, folds):
        for page in (run[0], folds[0]):
            assert [attributes["id"] for attributes in page.attributes("section")] == SECTIONS
            links = [attributes["href"] for attributes in page.attributes("a")]
            assert links == [f"#{name}" for name in SECTIONS]
            assert len(page.ids) == len(set(page.ids)) and 'class="missing"' not in page.source.split("<main>")[0]

    def test_nothing_is_missing_from_a_whole_run(self, run):
        assert 'class="missing"' not in run[0].source and len(run[0].attributes("img")) == 5

    def test_loads_nothing(self, run, folds):
        for page, folder in (run, folds):
            assert not {"iframe", "object", "embed", "base", "form", "video", "audio", "use"} & {
                e[0] for e in page.elements
            }
            for tag, attributes in page.elements:
                sources = [
                    attributes[name]
                    for name in ("src", "href", "srcset", "xlink:href", "action")
                    if name in attributes
                ]
                assert all(source.startswith(("#", "data:")) for source in sources), (tag, sources)
                assert not any(name.startswith("on") for name in attributes)
                assert tag != "script" or not attributes
            assert not re.search(r"@import|url\(|https?:", re.search(r"<style>.*?</style>", page.source, re.S)[0])
            assert (folder / "report.html").stat().st_size < 10e6

    def test_escapes_what_files_say(self, run):
        page = run[0]
        assert len(page.attributes("script")) == 1 and not page.attributes("b")[4:]
        assert all("onerror" not in attributes for _, attributes in page.elements)
        for name in HOSTILE:
            assert name in page.text and name not in page.source
        assert "http://example.org" in page.text  # of the audit, as text
        assert {row[1] for row in page.rows if len(row) == 7} >= {"NA"}  # an artist, and no missing value

    def test_shows_the_numbers_of_the_csv(self, run):
        page, folder = run
        scores = pd.read_csv(folder / run_folder.SCORES)
        assert set(scores["labels"]) == {"repaired", "distributed"}
        shown = [tuple(row) for row in page.rows]
        for _, row in scores.iterrows():
            assert (row["system"], *cells(row)) in shown
        model = scores.iloc[0]
        for key, title in (("valence_r2", "valence, R²"), ("arousal_ccc", "arousal, CCC")):
            assert f"{title}{model[key]:.2f} [{model[f'{key}_low']:.2f}, {model[f'{key}_high']:.2f}]" in page.text
        assert LEGEND in page.text
        assert comparison_line(scores.set_index(["labels", "system"])) in page.text.split("Contents")[0]
        curves = pd.read_csv(folder / run_folder.CURVE_SCORES, index_col="scored")
        assert page.row("all windows of all songs together") == [f"{value:z.3f}" for value in curves.loc["windows"]]

    def test_draws_scores_and_no_differences(self, run):
        drawn = re.findall(r'<svg class="forest".*?</svg>', run[0].source, re.S)
        assert len(drawn) == 8 and all(">model</text>" in svg and "model - " not in svg for svg in drawn)

    def test_says_what_the_intervals_hold(self, run):
        page = run[0]
        assert page.row("valence", "± 1.25", "90 %") == ["88 %"] and page.row("arousal", "± 1.50", "90 %") == ["100 %"]
        assert "split conformal" in page.text

    def test_counts_the_songs_of_each_side(self, run, folds):
        page, folder = run
        source = pd.read_csv(folder / "songs.csv")["source"][0]
        assert page.row(source) == ["16", "4", "24"]
        assert folds[0].row("fold 1", source) == ["16", "4", "10"]

    def test_draws_every_song_without_script(self, run):
        page, folder = run
        table = pd.read_csv(folder / run_folder.PREDICTIONS)
        drawn = {
            (circle["class"], circle["cx"], circle["cy"]) for circle in page.attributes("circle") if "cx" in circle
        }
        for song in table.itertuples():
            for kind, *place in (
                ("label", song.valence, song.arousal),
                ("guess", song.predicted_valence, song.predicted_arousal),
                ("guess", song.valence, song.predicted_valence),
                ("guess", song.arousal, song.predicted_arousal),
            ):
                assert (kind, f"{round(100 * place[0])}", f"{round(1000 - 100 * place[1])}") in drawn
        assert page.text.count("prediction: valence") == 3 * len(table)

    def test_lists_the_worst_songs_first(self, run):
        page, folder = run
        table = pd.read_csv(folder / run_folder.PREDICTIONS)
        far = np.linalg.norm(system_predictions(table, "model") - references(table), axis=1)
        head = ["song", "artist", "distance", "valence", "predicted", "arousal", "predicted"]
        listed = page.rows[page.rows.index(head) + 1 :]
        assert [row[0] for row in listed] == table["audio"][np.argsort(-far)[:20]].tolist()
        assert listed[0][2] == f"{far.max():.2f}"

    def test_gives_the_configuration_and_the_commands(self, run, folds):
        page, folder = run
        assert (folder / "config.yaml").read_text().strip() in page.text
        assert f"emotion-ft finetune {folder}/config.yaml --output_dir {folder}-again" in page.text
        assert "7, of the split" in page.text
        place = folds[1]
        assert f"emotion-ft cross_validate {place}/config.yaml --folds 2 --output {place}-again" in folds[0].text

    def test_is_made_for_every_reader(self, run, folds):
        for page, _ in (run, folds):
            assert all(len(attributes.get("alt", "")) > 20 for attributes in page.attributes("img"))
            assert all(attributes.get("scope") in ("row", "col", "colgroup") for attributes in page.attributes("th"))
            assert all("aria-label" in at or "aria-hidden" in at for at in page.attributes("svg"))
            assert "prefers-color-scheme: dark" in page.source and "@media print" in page.source
            assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.attributes("meta")

    def test_of_a_cross_validation_shows_its_folds(self, folds):
        page, folder = folds
        fold_scores = pd.read_csv(folder / run_folder.FOLD_SCORES)
        for _, row in fold_scores.iterrows():
            assert page.row(row["fold"], cells(row)[0])[:9] == cells(row)[1:]
        assert page.row("model, pooled") == cells(pd.read_csv(folder / run_folder.SCORES).iloc[0])
        assert len(page.attributes("details")) == 3  # two learning curves and the configuration
        assert len(pd.read_csv(folder / run_folder.PREDICTIONS)) == 24 and "on 24 songs" in page.text
        assert "(fold 1)" in page.text

    def test_leaves_out_what_is_not_there(self, run, tmp_path):
        folder = tmp_path / "bare"
        folder.mkdir()
        for name in (run_folder.PREDICTIONS, run_folder.SCORES):
            shutil.copy(run[1] / name, folder)
        results = json.loads((run[1] / "all_results.json").read_text())
        kept = ("protocol", "collections", "labels", "train_songs", "validation_songs", "test_songs")
        run_folder.write_results(folder, {name: results[name] for name in kept})
        page = Page(write_page(folder))
        assert [attributes["id"] for attributes in page.attributes("section")] == SECTIONS
        missing = re.findall(r'<p class="missing">(.*?)</p>', page.source)
        named = (
            "songs.csv",
            "audit",
            "curves",
            "intervals",
            "learning_curve",
            "residuals",
            "worst_songs",
            "config.yaml",
        )
        assert len(missing) == len(named) and not page.attributes("img")
        for name, sentence in zip(named, missing, strict=True):
            assert name in sentence and sentence.endswith(".")

    def test_no_data_root_is_why_there_is_no_audit(self, folds, tmp_path):
        folder = shutil.copytree(folds[1], tmp_path / "folds")
        text = (folder / "config.yaml").read_text()
        assert "has no audit" in folds[0].text
        (folder / "config.yaml").write_text(re.sub("data_root: .*", "data_root: null", text))
        assert "data_root is not set" in Page(write_page(folder)).text


def test_quadrants_add_up(run):
    table = pd.read_csv(run[1] / run_folder.PREDICTIONS)
    rows = {row["name"]: row for row in quadrant_errors(table)}
    inside = table[(table["valence"] < 5) & (table["arousal"] >= 5)]
    errors = inside["predicted_arousal"] - inside["arousal"]
    assert rows["V- A+"]["songs"] == len(inside)
    assert rows["V- A+"]["errors"][1] == pytest.approx(errors.mean())
    assert rows["V- A+"]["rmse"][1] == pytest.approx(np.sqrt((errors**2).mean()))
    assert rows["all"]["songs"] == len(table) == sum(row["songs"] for row in rows.values()) / 2


class TestUnfinished:
    def test_a_folder_without_a_run(self, tmp_path):
        missing = "lacks all_results.json, predictions.csv, scores.csv: .*emotion-ft finetune CONFIG --output_dir"
        with pytest.raises(UsageError, match=missing):
            write_page(tmp_path)
        with pytest.raises(UsageError, match=r"it is not there: .*emotion-ft finetune CONFIG --output_dir"):
            write_page(tmp_path / "nowhere")

    def test_a_cross_validation_with_folds_to_come(self, tmp_path):
        (tmp_path / run_folder.CROSS_VALIDATION).write_text("{}")
        with pytest.raises(UsageError, match=r"emotion-ft cross_validate CONFIG --output .* resumes it"):
            write_page(tmp_path)


class TestRecipe:
    def call(self, *arguments):
        with pytest.raises(SystemExit) as ended:
            report.main([str(argument) for argument in arguments])
        return ended.value.code or 0

    def test_names_the_page_and_its_size(self, run, capsys):
        assert self.call(run[1]) == 0
        assert re.fullmatch(rf"{run[1]}/report.html: \d\.\d MB\n", capsys.readouterr().out)

    def test_answers_in_one_sentence(self, tmp_path, capsys):
        assert self.call(tmp_path) == 1
        assert re.fullmatch(r"report: '.*' holds no finished run.*\.\n", capsys.readouterr().err)


def opened(folder, page, *additions, width=1280):
    """The page's elements after its scripts have run, and what the browser's console says.

    Its policy makes a console message of every request, too.
    """
    path = folder / "opened.html"
    path.write_text(page.source.replace("</body>", "".join(additions) + "</body>"), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--window-size={width},900",
    ]
    command = [CHROMIUM, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


POINT = """<script>
const song = document.querySelectorAll("svg.songs")[%d].querySelectorAll(".song")[%d];
song.scrollIntoView({behavior: "instant", block: "center"});
const box = song.querySelector(".guess").getBoundingClientRect();
const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, pointerType: "mouse"};
document.elementFromPoint(at.clientX, at.clientY).closest("svg").dispatchEvent(new PointerEvent("pointermove", at));
document.body.dataset.requests = performance.getEntriesByType("resource").length;
</script>"""
FIND = """<script>
const find = document.getElementById("find");
find.value = "%s";
find.dispatchEvent(new Event("input"));
const root = document.documentElement;
document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
</script>"""


@browser
class TestInABrowser:
    def test_pointing_at_a_song_shows_its_name_and_numbers(self, run, tmp_path):
        page, folder = run
        song = pd.read_csv(folder / run_folder.PREDICTIONS).iloc[0]
        dom, console = opened(tmp_path, page, POINT % (0, 0))
        assert not console and 'data-requests="0"' in dom
        assert dom.count('class="song on"') == len(re.findall(r'class="songs[^"]* pointed"', dom)) == 3
        tip = re.search(r'<div id="tip"[^>]*>(.*?)</div>', dom, re.S)
        assert "hidden" not in tip[0].split(">")[0]
        assert "&lt;script&gt;document.title='owned'&lt;/script&gt;.mp3" in tip[1]
        assert (
            f"prediction: valence {song['predicted_valence']:.2f}, arousal {song['predicted_arousal']:.2f}" in tip[1]
        )
        assert "<title>whole: fine-tuning run</title>" in dom

    def test_a_song_is_found_by_its_name_on_a_narrow_screen(self, folds, tmp_path):
        page, folder = folds
        song = pd.read_csv(folder / run_folder.PREDICTIONS).iloc[5]
        dom, console = opened(tmp_path, page, FIND % song["audio"], width=500)
        assert not console and 'data-overflow="0"' in dom
        assert f"label: valence {song['valence']:.2f}, arousal" in re.search(r'<div id="tip".*?</div>', dom, re.S)[0]
        for value in cells(pd.read_csv(folder / run_folder.FOLD_SCORES).iloc[0]):
            assert value.split(" ")[0] in dom

    def test_a_broken_script_and_a_request_are_noticed(self, folds, tmp_path):
        _, console = opened(tmp_path, folds[0], "<script>missing()</script>", '<img src="nothing.png">')
        assert any("missing is not defined" in line for line in console)
        assert any("nothing.png" in line and "Content Security Policy" in line for line in console)
