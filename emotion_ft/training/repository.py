"""A folder of ours as a repository of the Hub: which of its files travel, and the pipeline's code among them."""

from pathlib import Path

from ..inference import load_model

CARD_NAME = "README.md"
PIPELINE = "pipeline_ast_emotion.py"
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
NEEDED = (CARD_NAME, "config.json", "preprocessor_config.json", "all_results.json")
# A list of what travels, not of what stays: checkpoints, lists of songs and whatever else a folder gathers stay.
SHARED = (
    *NEEDED,
    *WEIGHTS,
    "*_ast_emotion.py",
    "*_mel_gan.py",
    "config.yaml",
    "scores.csv",
    "curve_scores.csv",
    "quality.csv",
    "report.html",
    "plots/*.png",
    "audit/audit.md",
    "audit/plots/*.png",
    "splits/*.txt",
)


def add_pipeline(folder: str | Path) -> None:
    """Let `pipeline("music-emotion", trust_remote_code=True)` work on a folder where emotion_ft is not installed.

    The pipeline's code and its name in `config.json` join the model's.
    """
    from ..modeling.pipeline_ast_emotion import MusicEmotionPipeline  # imports all of transformers' pipelines

    model, extractor = load_model(folder)
    MusicEmotionPipeline(model.cpu(), feature_extractor=extractor, device="cpu").save_pretrained(folder)
