"""The two stages of distillation as tasks of a run (run.py).

`embeddings` teaches the student's encoder the teacher's image embeddings (MobileSAM, arXiv 2306.14289, section 3);
`masks` teaches the whole student the teacher's masks, prompts in the loop (EdgeSAM, arXiv 2312.06660). The teacher's
embeddings are computed once for both and kept on disk (embeddings.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from sam_edge.errors import DataError, SamEdgeError, first_line
from sam_edge.evaluate.dataset import MAX_BROKEN_SHARE, Record, open_records, too_many_broken
from sam_edge.model.config import ModelConfig
from sam_edge.model.nano import NanoEncoder
from sam_edge.model.registry import build_model
from sam_edge.model.sam import Sam
from sam_edge.train.data import split_held_out
from sam_edge.train.distill_data import DistillBatch, DistillDataset, collate_distill
from sam_edge.train.distill_step import DISTILL_MIX, EmbeddingStep, MaskStep
from sam_edge.train.embeddings import EmbeddingCache
from sam_edge.train.loop import parameter_groups
from sam_edge.train.losses import LossWeights
from sam_edge.train.prompting import PromptMix
from sam_edge.train.step import draw_corrections
from sam_edge.train.stream import SampleStream, streamed_and_held_out
from sam_edge.train.students import adopt_decoder, check_fits, take_what_fits
from sam_edge.train.task import Place, RunConfig
from sam_edge.train.unit_scale import bring_to_unit_scale

__all__ = ["STAGES", "DistillConfig", "DistillTask"]

STAGES = ("embeddings", "masks")
NOT_IN_EMBEDDINGS = ("skip_4.", "skip_8.", "pixel_path.")  # parts of encoders
HELD_OUT_SEED = 1 << 40  # samples of held-out photos are the same at every validation


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """Everything that decides a stage's result; see RunConfig for what every run has.

    `student` is ModelConfig's plain data, `teacher_image_size` the teacher's input side in pixels. `start_sha256` is of
    the checkpoint that the student starts from, "" for fresh weights; `init_sha256` of one whose tensors are taken
    where they fit.
    """

    stage: str
    student: dict[str, Any]
    teacher_sha256: str
    teacher_image_size: int
    start_sha256: str = ""
    init_sha256: str = ""
    truth_share: float = 0.3
    correction_shares: tuple[float, ...] = (0.4, 0.4, 0.2)
    mix: PromptMix = field(default=DISTILL_MIX)


class DistillTask:
    """One stage. `start_from` is the student with weights of its own, None for a fresh one; `init` (name, weights)."""

    prepares_for_long = True

    def __init__(
        self,
        config: DistillConfig,
        out: Path,
        cache: EmbeddingCache,
        teacher: Sam,
        *,
        start_from: Sam | None = None,
        init: tuple[str, dict[str, torch.Tensor]] | None = None,
        say: Callable[[str], None] = lambda line: None,
        on_photo: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.config, self.out, self.cache, self.teacher = config, out, cache, teacher
        self.student_config = ModelConfig.from_dict(config.student)
        self.start_from, self.init, self.say, self.on_photo = start_from, init, say, on_photo
        if config.stage == "embeddings":
            check_fits(self.student_config, teacher.spec)
        self.tars = streamed_and_held_out(config.data, 0)[0] if config.stream else []
        self.records = open_records(config.data, annotated=False)
        self.train_records: Sequence[Record] = []
        self.held_out: Sequence[Record] = []

    def empty_model(self) -> Sam:
        return build_model(self.student_config)

    def start(self) -> Sam:
        """The student, with the teacher's prompt encoder and mask decoder where it has no weights and configs agree."""
        model = self.empty_model()
        if self.start_from is not None:
            model.load_state_dict(self.start_from.state_dict())
        elif self.init is not None:
            self.say(take_what_fits(model, self.init[1], self.init[0]))
        if self.config.stage == "embeddings" or self.start_from is None:
            self.say(adopt_decoder(model, self.teacher))
        if isinstance(model.image_encoder, NanoEncoder):
            if self.start_from is None and self.init is None:
                bring_to_unit_scale(model.image_encoder.trunk, self.records, model.spec)
            model.image_encoder.trunk.freeze(self.config.frozen_blocks)
        for name, parameter in model.image_encoder.named_parameters():
            needed = self.config.stage == "masks" or not name.startswith(NOT_IN_EMBEDDINGS)
            parameter.requires_grad_(parameter.requires_grad and needed)
        for part in (model.prompt_encoder, model.mask_decoder):
            part.requires_grad_(self.config.stage == "masks")
        return model.train()

    def prepare(self, accelerator: Any) -> None:
        """Compute the embeddings that are missing, each process some shards, and split off the held-out photos."""
        self.teacher.to(accelerator.device).requires_grad_(False)
        plan: list[Any] = [None]
        if accelerator.is_main_process:
            self.cache.open(self.say)
            photos, broken = self._hashed()
            plan = [(photos, broken, self.cache.missing([photos[i] for i in sorted(photos)]))]
        if accelerator.num_processes > 1:
            plan = _from_main_process(plan)
        photos, broken, shards = plan[0]
        readable = sorted(photos)
        mine = shards[accelerator.process_index :: accelerator.num_processes]
        done, total = 0, sum(len(positions) for _, positions in mine)

        def on_photo() -> None:
            nonlocal done
            done += 1
            self.on_photo(done, total)

        for number, positions in mine:
            chosen = [self.records[readable[i]] for i in positions]
            self.cache.compute(number, chosen, self.teacher, on_photo)
        accelerator.wait_for_everyone()
        self.cache.refresh()
        self._drop_broken(photos, broken)
        self.teacher.image_encoder = nn.Identity()  # its work is done, and ViT-H's is 2.5 GB

    def _hashed(self) -> tuple[dict[int, str], dict[int, str]]:
        """Position of each record -> SHA-256 of its photo's bytes, and why others cannot be used."""
        photos, broken = {}, {}
        for i, record in enumerate(self.records):
            try:
                if self.config.stage == "masks":
                    replace(record).objects()  # of a copy: a record keeps what it has parsed
                photos[i] = hashlib.sha256(record.photo_bytes()).hexdigest()
            except SamEdgeError as error:
                broken[i] = first_line(error)
        return photos, broken

    def _drop_broken(self, photos: dict[int, str], broken: dict[int, str]) -> None:
        for i, photo in photos.items():
            if photo in self.cache.broken:
                broken[i] = self.cache.broken[photo]
        for reason in broken.values():
            self.say(f"skipped {reason}")
        if too_many_broken(len(broken), len(self.records)):
            raise DataError(
                f"{len(broken)} of {len(self.records)} photos cannot be used, expected at most {MAX_BROKEN_SHARE:.0%} "
                f"({next(iter(broken.values())).rstrip('.')}). Remove them, or fetch their tars again."
            )
        good = [record for i, record in enumerate(self.records) if i not in broken]
        self.train_records, self.held_out = split_held_out(good, min(self.config.held_out_photos, len(good) // 3))

    def step_module(self, model: Sam, device: torch.device) -> nn.Module:
        if self.config.stage == "embeddings":
            return EmbeddingStep(model)
        self.teacher.to(device)
        config = self.config
        weights = LossWeights(config.focal_weight)
        return MaskStep(model, self.teacher, config.mix, config.truth_share, weights, config.loss_stride)

    def parameter_groups(self, model: Sam) -> list[dict[str, Any]]:
        return parameter_groups(model, self.config.trunk_lr_scale, self.config.weight_decay)

    def corrections(self, step: int) -> int:
        config = self.config
        if config.stage == "embeddings":
            return 0
        return draw_corrections(config.correction_shares, np.random.default_rng([config.seed, step, 1]))

    def data(self, place: Place) -> Dataset[Any] | IterableDataset[Any]:
        dataset = self._dataset(self.train_records)
        if not self.config.stream:
            return dataset
        held_out = frozenset(record.where for record in self.held_out)
        make = dataset.of_record
        return SampleStream(self.tars, make, self.config.seed, place, self.out, held_out, annotated=False)

    def _dataset(self, records: Sequence[Record]) -> DistillDataset:
        config = self.config
        objects = config.objects_per_photo if config.stage == "masks" else 0
        size = self.student_config.encoder.image_size
        return DistillDataset(records, self.cache, size, objects, config.seed)

    def collate(self, samples: list[Any]) -> DistillBatch:
        return collate_distill(samples)

    @torch.no_grad()
    def validate(self, model: Sam) -> tuple[dict[str, float], float]:
        """The step's own figures over the held-out photos; the score is the agreement with the teacher."""
        device = self.teacher.device
        step = self.step_module(model, device)
        dataset = self._dataset(self.held_out)
        each = []
        for number, record in enumerate(self.held_out):
            sample = dataset.of_record(record, np.random.default_rng([HELD_OUT_SEED, number]))
            batch = collate_distill([sample])
            corrections = 1 if self.config.stage == "masks" else 0
            each.append(step(DistillBatch(*(t.to(device) for t in batch)), corrections)[1])
        names = dict.fromkeys(name for figures in each for name in figures)
        means = {name: float(np.mean([figures[name] for figures in each if name in figures])) for name in names}
        score = means["cosine"] if self.config.stage == "embeddings" else means["teacher_iou"]
        return {f"held_out_{name}": value for name, value in means.items()}, score


def _from_main_process(plan: list[Any]) -> list[Any]:
    torch.distributed.broadcast_object_list(plan, src=0)
    return plan
