"""Waveforms to standardised log-mel windows, with the settings that travel in `preprocessor_config.json`."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torchaudio.compliance import kaldi
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import TensorType, logging

logger = logging.get_logger(__name__)

# Far below what is heard: what a window shows ends `top_db` below its loudest band, whatever the song's gain.
LOG_FLOOR = 1e-14
# What models saved by the first version were trained with: an absolute floor.
ABSOLUTE_FLOOR = {"log_floor": 1e-6, "top_db": None}
# Seconds of a song per window, beyond the first `num_windows`, and the most windows there are.
SECONDS_PER_WINDOW, MOST_WINDOWS = 15, 64
# AST was pretrained with AudioSet's mean and standard deviation and frames of 25 ms every 10 ms (Gong et al. 2021).
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
AST_SETTINGS = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "num_mel_bins": 128, "max_length": 1024}


# As close as torchaudio gets to soxr's HQ, which resamples files; its defaults differ by up to 4 standard deviations
# in the highest bands.
RESAMPLING = {"lowpass_filter_width": 64, "rolloff": 0.955, "resampling_method": "sinc_interp_kaiser", "beta": 14.77}


@lru_cache(maxsize=8)
def _mel_spectrogram(**settings) -> MelSpectrogram:
    # Slaney's scale and norm are librosa's defaults; on the HTK scale, several of 128 bands would fall between two
    # bins of a 1024-point FFT and be empty.
    return MelSpectrogram(**settings, center=False, power=2.0, norm="slaney", mel_scale="slaney")


class ASTEmotionFeatureExtractor(SequenceFeatureExtractor):
    """Log-mel windows for `ASTForEmotionRegression`.

    Two front ends, chosen by name:

    - "mel", the default: power mel spectrogram (`torchaudio.transforms.MelSpectrogram`, Slaney scale and norm, centred
      frames with reflected edges, as `librosa.feature.melspectrogram`), natural log, then over each window: what is
      more than `top_db` below its maximum is raised to that (as `librosa.power_to_db`), and
      `(x - mean) / (std + 1e-8)`. So gain changes nothing, and silence becomes zeros. Shorter music is repeated.
    - "ast": what AST was pretrained on: Kaldi filter banks, 25 ms every 10 ms, 1024 frames, AudioSet's mean and
      standard deviation, shorter music padded; equal to `transformers.ASTFeatureExtractor`, and so not free of gain.
      It fixes all settings below but `num_windows`.

    Args:
        front_end: "mel" or "ast".
        sampling_rate: of the waveforms that the front end sees, in Hz.
        n_fft: FFT and Hann window length, in samples.
        hop_length: samples from one frame to the next.
        num_mel_bins: mel bands.
        f_min, f_max: edges of the bands, in Hz.
        max_length: frames per window; 501 is 10 s at the default rate and hop.
        num_windows: windows per song, at least, whose predictions are averaged; longer songs have one every 15 s, at
            most 64.
        top_db: range of a window below its loudest band, in dB; None for no such floor ("mel" only).
        log_floor: power that is added before the logarithm ("mel" only).
    """

    model_input_names = ["input_values"]  # noqa: RUF012

    def __init__(
        self,
        front_end: Literal["mel", "ast"] = "mel",
        sampling_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 320,
        num_mel_bins: int = 128,
        f_min: float = 50.0,
        f_max: float = 8000.0,
        max_length: int = 501,
        num_windows: int = 5,
        top_db: float | None = 80.0,
        log_floor: float = LOG_FLOOR,
        feature_size: int = 1,
        padding_value: float = 0.0,
        **kwargs,
    ):
        if front_end not in ("mel", "ast"):
            raise ValueError(f"front_end must be 'mel' or 'ast', got {front_end!r}.")
        if front_end == "ast":
            sampling_rate, n_fft, hop_length, num_mel_bins, max_length = AST_SETTINGS.values()
            f_min, f_max, top_db = 20.0, 8000.0, None
        if not 0 <= f_min < f_max <= sampling_rate / 2:
            raise ValueError(f"0 <= f_min < f_max <= {sampling_rate / 2} Hz must hold, got {f_min} and {f_max}.")
        if not 0 < hop_length <= n_fft:
            raise ValueError(f"hop_length must be in 1..n_fft={n_fft} samples, got {hop_length}.")
        if num_windows < 1 or max_length < 1:
            raise ValueError(f"num_windows and max_length must be positive, got {num_windows} and {max_length}.")
        if not log_floor > 0 or (top_db is not None and not top_db > 0):
            raise ValueError(f"log_floor and top_db must be positive, got {log_floor} and {top_db}.")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.front_end: str = front_end
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_mel_bins = num_mel_bins
        self.f_min = f_min
        self.f_max = f_max
        self.max_length = max_length
        self.num_windows = num_windows
        self.top_db = top_db
        self.log_floor = log_floor

    @classmethod
    def from_dict(cls, feature_extractor_dict, **kwargs):
        """As in every feature extractor; settings saved by the first version keep its absolute floor."""
        saved = ABSOLUTE_FLOOR | feature_extractor_dict if "top_db" not in feature_extractor_dict else None
        return super().from_dict(saved or feature_extractor_dict, **kwargs)

    @property
    def edge(self) -> int:
        """Samples reflected at both ends, so that frame t is centred on sample t * hop_length ("mel" only)."""
        return self.n_fft // 2 if self.front_end == "mel" else 0

    @property
    def min_samples(self) -> int:
        """The shortest waveform that has a frame, in samples."""
        return self.edge + 1 if self.front_end == "mel" else self.n_fft

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop_length

    def _frames(self, samples: torch.Tensor) -> torch.Tensor:
        """(samples,) -> (frames, mels), every frame lying wholly inside the samples."""
        if self.front_end == "ast":
            return kaldi.fbank(
                samples[None],
                sample_frequency=self.sampling_rate,
                window_type="hanning",
                num_mel_bins=self.num_mel_bins,
            )
        mel = _mel_spectrogram(
            sample_rate=self.sampling_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            n_mels=self.num_mel_bins,
            f_min=self.f_min,
            f_max=self.f_max,
        )
        return torch.log(mel(samples).T + self.log_floor)

    @torch.no_grad()
    def iter_log_mel(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Log-mel of a waveform that comes in pieces, for long files in flat memory.

        Args:
            pieces: consecutive parts (samples,) of one mono waveform at `sampling_rate`, of any lengths.

        Yields:
            (frames, mels) float32, natural log, not standardised; joined, they are what the whole waveform gives.

        Raises:
            ValueError: when the waveform has fewer than `min_samples` samples.
        """
        buffer, started = torch.empty(0), False
        for piece in pieces:
            buffer = torch.cat([buffer, torch.as_tensor(piece, dtype=torch.float32)])
            if not started and len(buffer) >= self.min_samples:
                buffer = torch.cat([buffer[1 : self.edge + 1].flip(0), buffer])
                started = True
            # The samples that the right edge may reflect stay in the buffer.
            frames = (len(buffer) - self.n_fft - self.edge) // self.hop_length
            if started and frames > 0:
                yield self._frames(buffer[: (frames - 1) * self.hop_length + self.n_fft]).numpy()
                buffer = buffer[frames * self.hop_length :]
        if not started:
            raise ValueError(f"too short: {len(buffer)} samples, but the first frame needs {self.min_samples}.")
        if self.edge:
            buffer = torch.cat([buffer, buffer[-self.edge - 1 : -1].flip(0)])
        if len(buffer) >= self.n_fft:
            yield self._frames(buffer).numpy()

    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """(samples,) mono at `sampling_rate` -> (frames, mels) float32, natural log, not standardised."""
        return np.concatenate(list(self.iter_log_mel([waveform])))

    def window(self, log_mel: np.ndarray, start: int) -> np.ndarray:
        """Cut one window and standardise it.

        Args:
            log_mel: (frames, mels) of a whole excerpt.
            start: first frame; what lies past the end is filled by repeating the rest ("mel"), or padded ("ast").

        Returns:
            (max_length, mels) float32; "mel": zero mean and unit variance.
        """
        cut = log_mel[start : start + self.max_length].astype(np.float32)
        if self.front_end == "ast":
            return (np.pad(cut, ((0, self.max_length - len(cut)), (0, 0))) - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)
        if len(cut) < self.max_length:
            cut = cut[np.arange(self.max_length) % len(cut)]
        return self.standardise(cut)

    def standardise(self, log_mel: np.ndarray) -> np.ndarray:
        """(frames, mels) -> float32 of zero mean and unit variance, floored at `top_db` below the maximum."""
        # Shifting by one of the values first makes a constant window exact zeros, where rounding of the mean would
        # otherwise be blown up by a standard deviation of rounding.
        values = log_mel.astype(np.float32) - log_mel.max().astype(np.float32)
        if self.top_db is not None:
            np.maximum(values, np.float32(-self.top_db * np.log(10) / 10), out=values)
        values -= values.mean()
        return values / (np.sqrt(np.mean(np.square(values))) + np.float32(1e-8))

    def window_starts(self, frames: int, num_windows: int | None = None) -> np.ndarray:
        """First frames (windows,) of windows spread evenly over an excerpt, from its start to its end.

        There are `num_windows`; None: as many as the excerpt's length asks for (see the class).
        """
        wanted = min(int(frames / self.frame_rate / SECONDS_PER_WINDOW), MOST_WINDOWS)
        count = num_windows or max(self.num_windows, wanted)
        span = max(frames - self.max_length, 0)
        return np.linspace(0, span, count).round().astype(int) if count > 1 else np.array([span // 2])

    def windows(self, log_mel: np.ndarray, num_windows: int | None = None) -> np.ndarray:
        """(frames, mels) -> (windows, max_length, mels): those of `window_starts`, each standardised by itself."""
        return np.stack([self.window(log_mel, s) for s in self.window_starts(len(log_mel), num_windows)])

    def curve_starts(self, frames: int, step: float) -> np.ndarray:
        """First frames (windows,) of overlapping windows, one every `step` seconds.

        Steps of less than a frame count as a frame: they would only repeat the same windows, millions of times.
        """
        last = max(frames - self.max_length, 0)
        return np.unique(np.round(np.arange(0, last + 0.5, max(step * self.frame_rate, 1))).astype(int))

    def __call__(
        self,
        waveforms: np.ndarray | list[float] | list[np.ndarray] | torch.Tensor,
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """Waveforms to the model's input: the first `max_length` frames of each, filled as by `window` when shorter.

        Args:
            waveforms: one mono waveform (samples,), a batch (batch, samples) or a list of waveforms of any lengths.
            sampling_rate: of the waveforms, in Hz; they are resampled when it is not the front end's. Without it, they
                are taken to be at the front end's rate, with a warning.
            return_tensors: "pt" or "np".

        Returns:
            `input_values` (batch, max_length, mels), float32.

        Raises:
            ValueError: for a waveform that is not one-dimensional, not finite, or too short for a single frame.
        """
        if sampling_rate is None:
            sampling_rate = self.sampling_rate
            logger.warning_once(f"sampling_rate was not given: the waveforms are taken to be at {sampling_rate} Hz.")
        if len(waveforms) == 0:
            raise ValueError("no waveform: got an empty list or array.")
        is_batch = isinstance(waveforms, list | tuple) and np.ndim(waveforms[0]) > 0
        if isinstance(waveforms, np.ndarray | torch.Tensor) and waveforms.ndim == 2:
            is_batch = True
        values = []
        for index, waveform in enumerate(waveforms if is_batch else [waveforms]):
            waveform = torch.as_tensor(np.asarray(waveform), dtype=torch.float32)
            if waveform.ndim != 1:
                raise ValueError(f"waveform {index} must be mono, (samples,), got shape {tuple(waveform.shape)}.")
            if not torch.isfinite(waveform).all():
                raise ValueError(f"waveform {index} holds NaN or infinite samples.")
            if sampling_rate != self.sampling_rate:
                waveform = resample(waveform, sampling_rate, self.sampling_rate, **RESAMPLING)
            values.append(self.window(self.log_mel(waveform), 0))
        return BatchFeature({"input_values": np.stack(values)}, tensor_type=return_tensors)


ASTEmotionFeatureExtractor.register_for_auto_class()
