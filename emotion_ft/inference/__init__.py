"""A trained model at work: on audio files and stored songs, in torch or in ONNX."""
