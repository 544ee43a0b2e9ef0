"""The pipeline's code in a folder of ours, so that it is a whole repository of the Hub."""

from pathlib import Path

from ..inference.loading import load_model


def add_pipeline(folder: str | Path) -> None:
    """Let `pipeline("music-emotion", trust_remote_code=True)` work on a folder where emotion_ft is not installed.

    The pipeline's code and its name in `config.json` join the model's.
    """
    from ..modeling.pipeline_ast_emotion import MusicEmotionPipeline

    model, extractor = load_model(folder)
    MusicEmotionPipeline(model.cpu(), feature_extractor=extractor, device="cpu").save_pretrained(folder)
