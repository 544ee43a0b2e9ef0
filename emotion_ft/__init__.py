"""Fine-tune the Audio Spectrogram Transformer to predict how music feels: valence and arousal.

`__init__.pyi` lists the public names. They are imported on first use, so that `import emotion_ft` and `--help` stay
fast; transformers' Auto classes and `pipeline("music-emotion")` know the models as soon as this package is imported.
"""

import lazy_loader

from .modeling.registration import register_lazily

_public_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("emotion_ft")
    return _public_name(name)


register_lazily()
