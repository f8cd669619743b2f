"""Writing model files, ONNX and OpenVINO's, from a network's arrays, and verifying whatever is exported."""
