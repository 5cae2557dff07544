"""Distillation: a small student from a large teacher and photos, in two stages, each continued where it was killed.

`embeddings` teaches the student's encoder the teacher's image embeddings (MobileSAM, arXiv 2306.14289, section 3);
`masks` teaches the whole student the teacher's masks, prompts in the loop (EdgeSAM, arXiv 2312.06660). The teacher's
embeddings are computed once for both and kept on disk (embeddings.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sam_edge.errors import CheckpointError
from sam_edge.evaluate.provenance import file_sha256
from sam_edge.model.checkpoints import checkpoint_path, load_model
from sam_edge.model.sam import Sam
from sam_edge.train.distill_task import STAGES, DistillConfig, DistillTask
from sam_edge.train.embeddings import CacheKey, EmbeddingCache
from sam_edge.train.run import run_task
from sam_edge.train.students import read_student

__all__ = ["STAGES", "distill_stage"]


def distill_stage(
    stage: str,
    teacher: str,
    student: str,
    out: Path,
    *,
    settings: Mapping[str, Any],
    size: int | None = None,
    cache: Path | None = None,
    init: str = "",
    workers: int = 1,
    validate_every: int = 500,
    save_every_s: float = 180.0,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    on_photo: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Run one of STAGES into OUT/<stage>, continuing what is there; return the path of the student it ends with.

    `settings` are fields of DistillConfig. `size` is the input side in pixels of both models, their own without it.
    `masks` starts from the student of OUT/embeddings if there is one. Embeddings go to `cache`, OUT/cache without it.
    `say` gets lines for the user, `report` a dict of figures a step, `on_photo` (done, total) of photos encoded. Raises
    CheckpointError, DataError, OutputError.
    """
    teacher_model = load_model(teacher, size)
    teacher_sha256 = file_sha256(checkpoint_path(teacher))
    spec = teacher_model.spec
    if spec.high_res_channels:
        raise CheckpointError(
            f"{teacher} has features besides its image_embeddings, which are not kept; expected a teacher of SAM's "
            "family (vit_b, vit_l, vit_h, vit_t, nano_sam)."
        )
    student_config, start_from, start_sha256 = _first_student(stage, student, size, out)
    config = DistillConfig(
        stage=stage,
        student=student_config.to_dict(),
        teacher_sha256=teacher_sha256,
        teacher_image_size=spec.image_size,
        start_sha256=start_sha256,
        init_sha256=file_sha256(checkpoint_path(init)) if init and start_from is None else "",
        **settings,
    )
    shape = (spec.embedding_channels, spec.embedding_size, spec.embedding_size)
    name = re.sub(r"[^\w.-]", "_", spec.name)[:40]  # from a file: it must not lead out of the folder
    task = DistillTask(
        config,
        out / stage,
        EmbeddingCache(cache or out / "cache", CacheKey(name, teacher_sha256, spec.image_size, shape)),
        teacher_model,
        start_from=start_from,
        init=(init, load_model(init).state_dict()) if config.init_sha256 else None,
        say=say,
        on_photo=on_photo,
    )
    return run_task(
        task, out / stage, save_every_s=save_every_s, validate_every=validate_every, workers=workers, report=report
    )


def _first_student(stage: str, student: str, size: int | None, out: Path) -> tuple[Any, Sam | None, str]:
    """-> (configuration, the model if it has weights, SHA-256 of their file)."""
    config, model = read_student(student, size)
    earlier = out / "embeddings" / "last.safetensors"
    if stage == "masks" and earlier.is_file():
        taught = load_model(earlier)
        if taught.config != config:
            raise CheckpointError(
                f"{earlier} is a student of another configuration ({taught.config.name}, {taught.spec.image_size} px), "
                f"expected {config.name}, {config.encoder.image_size} px. Use another folder, or the --student it has."
            )
        return config, taught, file_sha256(earlier)
    return config, model, file_sha256(Path(student)) if model is not None else ""
