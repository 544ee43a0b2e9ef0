"""The demo Space: what it is assembled from, and that it answers in a browser, offline and without emotion_ft."""

import ast
import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from playwright.sync_api import expect, sync_playwright

from emotion_ft.errors import UsageError
from emotion_ft.hub.repository import add_pipeline
from emotion_ft.hub.space import EXAMPLE, EXAMPLE_SECONDS, build_space
from emotion_ft.inference.loading import load_model
from emotion_ft.inference.predict import predict_file

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "hub_cards" / "space"
CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not on the PATH; `make test` installs it with apt-get"
)
RUN = """
import runpy, sys
sys.modules["emotion_ft"] = None

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if host not in ("127.0.0.1", "::1", "localhost", None):
            print("foreign host:", host, file=sys.stderr, flush=True)

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(*arguments):
    return [sys.executable, "-c", RUN, *map(str, arguments)]


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A Space as `build_space` leaves it. Shared: do not change it."""
    return build_space(tmp_path_factory.mktemp("built") / "space", "you/model", "0123abc")


@pytest.fixture(scope="module")
def run(model, tiny_extractor, tmp_path_factory):
    """The folder of a calibrated model that brings its pipeline."""
    folder = tmp_path_factory.mktemp("run")
    model = deepcopy(model)
    model.config.interval_halfwidths, model.config.interval_level = [0.5, 0.75], 0.9
    model.save_pretrained(folder)
    tiny_extractor.save_pretrained(folder)
    add_pipeline(folder)
    return folder


class TestBuild:
    def test_holds_the_app_its_card_and_an_example(self, space):
        files = {path.name for path in space.iterdir()}
        assert files == {"app.py", "requirements.txt", "README.md", "space.json", "example.mp3"}
        for name in ("app.py", "requirements.txt"):
            assert (space / name).read_bytes() == (SPACE / name).read_bytes()
        example = soundfile.info(space / "example.mp3")
        assert example.duration == pytest.approx(EXAMPLE_SECONDS, abs=0.1) and example.channels == 2

    def test_names_the_model(self, space, tmp_path):
        card = SpaceCard((space / "README.md").read_text())
        assert card.data.models == ["you/model"] and "(https://huggingface.co/you/model)" in card.text
        assert "`0123abc`" in card.text and "{" not in card.text
        newest = build_space(tmp_path, "somebody/other")
        assert "revision" not in SpaceCard((newest / "README.md").read_text()).text.split("`space.json`")[0]
        assert (newest / "example.mp3").read_bytes() == (space / "example.mp3").read_bytes()

    def test_its_card_starts_it_on_the_hub(self, space):
        data = SpaceCard((space / "README.md").read_text()).data
        gradio = next(line for line in requirements(space) if line.name == "gradio")
        assert data.sdk == "gradio" and gradio.specifier.contains(data.sdk_version)
        assert (space / data.app_file).is_file() and data.license == "apache-2.0"
        assert data.python_version >= "3.11" and len(data.short_description) <= 60

    def test_requires_what_it_imports_as_setup_cfg_does(self, space):
        files = [space / "app.py", *(ROOT / "emotion_ft" / "modeling").glob("*_ast_emotion.py")]
        imported = {name for file in files for name in imports(file)} - set(sys.stdlib_module_names)
        assert {"gradio", "soxr", "torchaudio"} <= imported and "emotion_ft" not in imported
        distributions = packages_distributions()
        required = requirements(space)
        brought = {Requirement(line).name for line in requires("transformers") if "extra ==" not in line}
        known = {canonicalize_name(name) for name in {line.name for line in required} | brought}
        assert {canonicalize_name(distributions[name][0]) for name in imported} <= known

        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        ours = setup["options"]["install_requires"] + setup["options.extras_require"]["space"]
        assert {str(line) for line in required} <= {
            str(Requirement(line)) for line in ours.splitlines() if line and line[0] != "#"
        }

    def test_refuses_folders_in_use_and_names_of_nothing(self, space, tmp_path):
        with pytest.raises(UsageError, match="is there already: choose a new or an empty folder"):
            build_space(space, "you/model")
        with pytest.raises(UsageError, match="'a/b/c' names no model on the Hub: expected you/name"):
            build_space(tmp_path, "a/b/c")
        assert not list(tmp_path.iterdir())


def requirements(space):
    return [Requirement(line) for line in (space / "requirements.txt").read_text().splitlines()]


def imports(file):
    """Top-level names of everything that a file imports from elsewhere."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.stress
class TestCommand:
    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("nowhere/at/all", "neither a folder nor you/name on the Hub."),
            ("empty", "Unrecognized model in "),
            ("bare", "it brings no pipeline code; emotion_ft.hub.repository.add_pipeline adds it"),
            ("you/model", "We couldn't connect to "),
        ],
    )
    def test_a_model_that_cannot_be_loaded_is_one_sentence(self, model_dir, tmp_path, name, sentence):
        (tmp_path / "empty").mkdir()
        shutil.copytree(model_dir, tmp_path / "bare")
        done = subprocess.run(
            command(SPACE / "app.py", name), cwd=tmp_path, env=environment(HF_HUB_OFFLINE="1"),
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        said = done.stderr.splitlines()[-1]
        assert said.startswith(f"app: no model in '{name}': {sentence}") and "Traceback" not in done.stderr

    def test_helps_and_asks_which_model(self):
        done = subprocess.run(command(SPACE / "app.py", "--help"), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0 and "python app.py [MODEL] [--port PORT]" in done.stdout
        done = subprocess.run(command(SPACE / "app.py"), capture_output=True, text=True, timeout=200)
        assert done.returncode == 2 and "which model? Name a folder, or you/name on the Hub." in done.stderr


def environment(**changes):
    """Of a process that may look for the network and does not see this checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "PYTHONPATH")}
    return kept | changes


@contextmanager
def served(folder, *arguments):
    """The app's address while it runs, and the file of what it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said, address = folder / "log.txt", f"http://127.0.0.1:{port}/"
    with said.open("w") as log:
        process = subprocess.Popen(
            command(*arguments, "--port", port), cwd=folder, env=environment(GRADIO_TEMP_DIR=str(folder / "gradio")),
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(100):
                assert process.poll() is None, said.read_text()
                try:
                    urlopen(address, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield address, said
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def server(space, run, tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), space / "app.py", run) as (address, said):
        yield address
        assert "foreign host" not in said.read_text() and "Traceback" not in said.read_text()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield program
        program.close()


@pytest.fixture
def page(server, chromium):
    """The app's page in a fresh browser; a request to another host and an error in the console are faults."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, hosts, complaints = context.new_page(), set(), []
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server)
    page.get_by_text("Drop Audio Here").wait_for()
    yield page
    context.close()
    assert hosts - {None} == {"127.0.0.1"}
    # An <audio> of zero bytes asks for a range that is not there.
    assert not [complaint for complaint in complaints if "416 (Requested Range Not Satisfiable)" not in complaint]


@pytest.fixture(scope="module")
def song(space):
    """A song that people made, where there is one."""
    found = sorted((ROOT.parent / "shared" / "audio").glob("*.ogg"), key=lambda path: path.stat().st_size)
    return found[0] if found else space / "example.mp3"


def upload(page, path):
    page.locator("input[type=file]").set_input_files(path)


def expect_numbers(page, prediction):
    for name, halfwidth in (("valence", 0.5), ("arousal", 0.75)):
        value = getattr(prediction, name)
        expect(page.locator(f"#{name}")).to_have_text(f"{value:.2f}", timeout=30_000)
        expect(page.locator(f"#{name}_interval")).to_have_text(f"{value - halfwidth:.2f} to {value + halfwidth:.2f}")


@browser
@pytest.mark.stress
class TestInABrowser:
    def test_a_song_gets_the_numbers_of_predict_file(self, page, run, song):
        upload(page, song)
        prediction = predict_file(*load_model(run), song, curve_step=0.5)
        expect_numbers(page, prediction)
        pictures = page.locator(".song img")
        expect(pictures).to_have_count(2)
        texts = [picture.get_attribute("alt") for picture in pictures.all()]
        assert f"valence {prediction.valence:.2f} and arousal {prediction.arousal:.2f}" in texts[0]
        low, high = prediction.curve.arousal.min(), prediction.curve.arousal.max()
        assert f"arousal from {low:.1f} to {high:.1f}" in texts[1]
        assert all(picture.evaluate("image => image.naturalWidth > 200") for picture in pictures.all())
        assert "90 % of songs" in page.locator(".song p").inner_text()

    def test_the_example_is_heard_and_cleared_away(self, page, space, run):
        page.get_by_text(f"rendered from valence {EXAMPLE['valence']:g} and arousal {EXAMPLE['arousal']:g}").click()
        expect_numbers(page, predict_file(*load_model(run), space / "example.mp3", curve_step=0.5))
        page.get_by_label("Clear").click()
        expect(page.locator("#valence")).to_have_count(0)
        expect(page.get_by_text("Drop Audio Here")).to_be_visible()

    @pytest.mark.parametrize(
        ("name", "write", "sentence"),
        [
            ("broken.ogg", lambda path: path.write_bytes(bytes(range(256)) * 40), "cannot be decoded: "),
            ("empty.mp3", lambda path: path.write_bytes(b""), "empty: zero bytes."),
            ("letter.mp3", lambda path: path.write_text("Dear listener,\n" * 99), "cannot be decoded: no audio"),
            ("short.wav", lambda path: soundfile.write(path, np.zeros(4000), 8000), "too short: 0.50 s, at least 1 s"),
            ("hour.flac", lambda path: write_hour(path), "too long: 60:00 by its header."),
            ("stream.flac", lambda path: write_stream(path), "its header does not say how long it is."),
            ("<i>tilted</i>.wav", lambda path: path.write_bytes(b"RIFF"), "cannot be decoded: "),
        ],
    )  # fmt: skip
    def test_what_cannot_be_heard_is_answered_in_a_sentence(self, page, tmp_path, name, write, sentence):
        path = tmp_path / name.replace("/", "")
        write(path)
        upload(page, path)
        refused = page.locator(".refused[role=alert]")
        expect(refused).to_contain_text(sentence, timeout=20_000)
        said = refused.inner_text()
        assert said.endswith("of up to 20 minutes and 256 MB.") and str(path.parent) not in said
        assert re.match(r"[\w<>]+\.\w+: ", said) and "Traceback" not in page.content()

    def test_a_large_file_is_not_sent(self, page, tmp_path):
        with open(tmp_path / "large.wav", "wb") as file:
            file.truncate(257 * 2**20)
        upload(page, tmp_path / "large.wav")
        expect(page.get_by_text("exceed the maximum allowed size")).to_be_visible(timeout=20_000)

    def test_a_phone_needs_no_sideways_scrolling(self, page, song, tmp_path):
        page.set_viewport_size({"width": 360, "height": 740})
        upload(page, shutil.copy(song, tmp_path / f"{'a_long_name_' * 9}{song.suffix}"))
        page.locator("#valence").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        boxes = [item.bounding_box() for item in page.locator(".song dd, .song figure").all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in boxes) and len(boxes) == 6
        assert min(box["width"] for box in boxes[-2:]) > 280


def write_hour(path):
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000))


def write_stream(path):
    """A FLAC without its number of samples, the last 36 bits of the eight bytes at 18 (RFC 9639, 8.2)."""
    soundfile.write(path, np.zeros(16000), 8000)
    header = bytearray(path.read_bytes())
    header[21:26] = bytes([header[21] & 0xF0, 0, 0, 0, 0])
    path.write_bytes(header)


@pytest.mark.stress
class TestClient:
    def test_gets_the_numbers_as_json(self, server, run, song):
        prediction = predict_file(*load_model(run), song, curve_step=0.5)
        heard = Client(server, verbose=False).predict(handle_file(song), api_name="/predict")
        assert set(heard) == {"valence", "arousal", "valence_interval", "arousal_interval", "curve"}
        assert [heard["valence"], heard["arousal"]] == pytest.approx([*prediction[:2]], abs=1e-4)
        for name, values in prediction.curve._asdict().items():
            assert heard["curve"][name] == pytest.approx(values, abs=1e-4)

    def test_a_long_song_has_a_coarse_curve(self, server, tmp_path):
        rng = np.random.default_rng(0)
        soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(400 * 8000), 8000, subtype="PCM_U8")
        heard = Client(server, verbose=False).predict(handle_file(tmp_path / "long.wav"), api_name="/predict")
        assert np.diff(heard["curve"]["time"]) == pytest.approx(400 / 120, abs=0.02)
        assert 110 < len(heard["curve"]["time"]) <= 120

    def test_is_refused_in_a_sentence(self, server, tmp_path):
        write_hour(tmp_path / "hour.flac")
        client = Client(server, verbose=False)
        with pytest.raises(AppError, match=r"^hour.flac: too long: 60:00 by its header\. Songs are taken as MP3"):
            client.predict(handle_file(tmp_path / "hour.flac"), api_name="/predict")
        with pytest.raises(AppError, match=r"^No song: one audio file is needed\."):
            client.predict(None, api_name="/predict")
