from .config.parser import parse_config
from .config.settings import Config, SpecAugmentConfig, TrainingConfig
from .data.augment import EvaluationTransform, TrainingTransform, with_transform
from .data.collections.audit import audit
from .data.collections.csv_collection import load_collection_file, load_csv
from .data.collections.deam import find_deam, load_deam
from .data.features import store_log_mels
from .data.files import is_rendered
from .data.rendering.songs import render_deam
from .data.scale import from_unit, to_unit
from .gan.run import run_gan
from .hub.push import push
from .inference.loading import load_model
from .inference.predict import predict_file, predict_log_mel, predict_songs, read_log_mel
from .modeling import (
    ASTEmotionConfig,
    ASTEmotionFeatureExtractor,
    ASTForEmotionRegression,
    MelDiscriminator,
    MelGanConfig,
    MelGenerator,
)
from .modeling.pipeline_ast_emotion import MusicEmotionPipeline
from .reports.audit import write_audit
from .reports.song_plots import plot_curve, show_spectrogram
from .reports.tables import scores_markdown
from .scoring.comparison import compare_runs
from .scoring.metrics import EmotionMetric, score
from .studies.ablation import run_ablation
from .studies.cross_validation import run_cross_validation
from .studies.seeds import run_seeds
from .training.finetuning import run_finetuning
from .training.inputs import build_extractor, load_collection
from .training.trainer import EmotionTrainer

__version__: str

__all__ = [
    "ASTEmotionConfig",
    "ASTEmotionFeatureExtractor",
    "ASTForEmotionRegression",
    "Config",
    "EmotionMetric",
    "EmotionTrainer",
    "EvaluationTransform",
    "MelDiscriminator",
    "MelGanConfig",
    "MelGenerator",
    "MusicEmotionPipeline",
    "SpecAugmentConfig",
    "TrainingConfig",
    "TrainingTransform",
    "audit",
    "build_extractor",
    "compare_runs",
    "find_deam",
    "from_unit",
    "is_rendered",
    "load_collection",
    "load_collection_file",
    "load_csv",
    "load_deam",
    "load_model",
    "parse_config",
    "plot_curve",
    "predict_file",
    "predict_log_mel",
    "predict_songs",
    "push",
    "read_log_mel",
    "render_deam",
    "run_ablation",
    "run_cross_validation",
    "run_finetuning",
    "run_gan",
    "run_seeds",
    "score",
    "scores_markdown",
    "show_spectrogram",
    "store_log_mels",
    "to_unit",
    "with_transform",
    "write_audit",
]
