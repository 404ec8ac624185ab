"""Other servers, each with ONNX Runtime: what runs in the environments of their own that ``make bench-serving`` makes.

Nothing of bitgear is there. Both get the picture as base64 in JSON, which is how each of them takes files.
"""
