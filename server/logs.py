"""Log records as JSON, one line each. Values are escaped, so nobody can forge a line through a header or a path."""

import json
import logging
import sys
import time

from server.exchange import PHASES

FIELDS = (
    "request_id", "trace_id", "method", "path", "model", "task", "precision_asked", "precision_served", "reason",
    "stage", "batch_images", "target_ms", *(f"{phase}_ms" for phase in PHASES), "total_ms", "status",
)  # fmt: skip
"""What a record may carry beside time, level and message, in this order."""


class JsonFormatter(logging.Formatter):
    """Gives a record as one line of JSON; time in UTC with milliseconds."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line.update({name: record.__dict__[name] for name in FIELDS if name in record.__dict__})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(level: str) -> None:
    """Send log records to standard error as JSON lines: ours from ``level`` on, others from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("server", "bitgear"):
        logging.getLogger(ours).setLevel(level.upper())
