"""What tasks are measured by."""

MAIN_METRIC = {"classify": "top1", "detect": "map50_95", "segment": "miou"}
"""What precisions are compared by, 0..1, by task."""

SHOWN = {"top1": "top-1", "map50_95": "mAP50-95", "miou": "mIoU"}
"""What these are called on a page."""

METRIC_NAMES = SHOWN | {"map50": "mAP50", "pixel_accuracy": "pixel accuracy"}
"""What all that is measured is called there."""
