"""Training: from FP32 weights to one INT8 master checkpoint that serves every width. Needs torch."""
