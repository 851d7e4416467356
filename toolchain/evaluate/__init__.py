"""Perplexity, tasks, ONNX and sensitivity of float models, quantized checkpoints and builds."""
