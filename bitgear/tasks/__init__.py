"""What surrounds a network for each task: preprocessing, postprocessing and the metric, shared by all that run it."""
