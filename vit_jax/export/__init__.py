"""Models to take away: StableHLO and ONNX artefacts, and model cards."""
