"""A run's figures, step by step: log.jsonl and TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sam_edge.errors import require

__all__ = ["Log"]


class Log:
    """Appends to log.jsonl and to TensorBoard's events in `out`; nothing unless `active` (the main process)."""

    def __init__(self, out: Path, active: bool) -> None:
        self.active = active
        if active:
            tensorboard = require("torch.utils.tensorboard", extra="train")
            self.events = tensorboard.SummaryWriter(str(out))
            self.file = (out / "log.jsonl").open("a", encoding="utf-8")

    def write(self, step: int, figures: dict[str, Any]) -> None:
        if not self.active:
            return
        for name, value in figures.items():
            self.events.add_scalar(name, value, step)
        self.file.write(json.dumps({"step": step, "time": time.time(), **figures}) + "\n")
        self.file.flush()
