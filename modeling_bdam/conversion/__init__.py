"""Other formats in and out: checkpoints of CLIP baselines, ONNX."""
