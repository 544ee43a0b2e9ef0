"""What travels to the Hub with a model: the networks, the feature extractor, the pipeline and the audio reader.

The public classes are imported on first use, all of them at once, as `auto_classes` registers them with transformers;
until then, importing this package costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
