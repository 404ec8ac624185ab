"""Other servers, with ONNX Runtime or OpenVINO: what runs in the environments that ``make bench-serving`` makes.

Nothing of bitgear is there. Both get the picture as base64 in JSON, which is how each of them takes files.
"""
