"""SA-1B tars read from front to back by many processes (WebDataset), each photo once an epoch.

An epoch's order of tars is drawn from (seed, epoch); the tars are dealt out to processes and to their loaders' workers,
and a worker shuffles within a buffer of undecoded photos. A worker goes on to its next epoch without waiting for the
others. A resumed run skips what it has had without decoding it; it needs the same numbers of processes and workers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from sam_edge.errors import DataError, SamEdgeError, first_line, require
from sam_edge.evaluate.dataset import (
    MAX_BROKEN_SHARE,
    MAX_JSON_BYTES,
    MAX_PHOTO_BYTES,
    PHOTO_SUFFIXES,
    Held,
    Record,
    open_records,
    too_many_broken,
)
from sam_edge.train.data import split_held_out
from sam_edge.train.task import Place

__all__ = ["SampleStream", "streamed_and_held_out"]

JUDGED_FROM = 100  # entries; before, one broken photo would already be more than the share
SHUFFLE_BUFFER = 128  # undecoded photos of a worker, about 100 MB of SA-1B
USTAR_OFFSET, USTAR = 257, b"ustar"


def streamed_and_held_out(paths: Sequence[str | Path], held_out_photos: int) -> tuple[list[Path], list[Record]]:
    """-> (all tars of files and folders, sorted within each; photos held out of the first, at most a third of it).

    Raises DataError where a path holds no uncompressed tar.
    """
    tars: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not found or not path.exists():
            raise DataError(f"{path}: no tar in it, expected SA-1B's tars. Leave --stream out for folders of photos.")
        tars.extend(found)
    for tar in tars:
        with tar.open("rb") as file:
            if file.read(512)[USTAR_OFFSET:][: len(USTAR)] != USTAR:  # a compressed one could inflate without a bound
                raise DataError(f"{tar}: not an uncompressed tar, expected jpg and json pairs in one. Pack it again.")
    if held_out_photos == 0:
        return tars, []
    records = open_records(tars[:1])
    return tars, split_held_out(records, min(held_out_photos, len(records) // 3))[1]


class SampleStream(IterableDataset[dict[str, Any]]):
    """This process's samples from batch `place.first_batch` on, without an end.

    `make` turns a record and its random generator into a sample, or None for a photo that has nothing to teach. Photos
    that cannot be read, or that lack annotations where they must be `annotated`, are left out and named in
    OUT/skipped.jsonl; more than 1 % of them is a DataError. `held_out`: `Record.where` of photos that are passed over.
    """

    def __init__(
        self,
        tars: Sequence[Path],
        make: Callable[[Record, np.random.Generator], dict[str, Any] | None],
        seed: int,
        place: Place,
        out: Path,
        held_out: frozenset[str] = frozenset(),
        annotated: bool = True,
    ) -> None:
        self.tars, self.make, self.seed, self.place = list(tars), make, seed, place
        self.held_out, self.annotated = held_out, annotated
        self.notes = out / "skipped.jsonl"
        readers = place.processes * max(1, place.workers)
        if len(tars) < readers:
            raise DataError(
                f"{len(tars)} tars cannot be shared by {place.processes} processes x {max(1, place.workers)} workers, "
                "expected at least one each. Use fewer --workers, or pack the photos into more tars."
            )
        require("webdataset", extra="train")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # A loader takes its first batch from its worker 0: on resuming, that one plays the worker whose turn it is.
        role = (self.place.first_batch + worker) % workers
        batches_before = (self.place.first_batch - role + workers - 1) // workers
        return _Reader(self, role, workers).samples(batches_before * self.place.share)

    def tars_of(self, epoch: int, role: int, workers: int) -> list[Path]:
        """The tars that one worker of this process reads in an epoch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.tars))
        mine = order[self.place.rank :: self.place.processes][role::workers]
        return [self.tars[i] for i in mine]


class _Reader:
    """One worker's walk through the epochs; `seen` and `broken` count its entries."""

    def __init__(self, stream: SampleStream, role: int, workers: int) -> None:
        self.stream, self.role, self.workers = stream, role, workers
        self.seen, self.broken = 0, 0
        self.passed_over = _noted(stream.notes)
        self.counts: dict[Path, int] = {}  # of samples in a tar, learnt while skipping

    def samples(self, skip: int) -> Iterator[dict[str, Any]]:
        epoch = 0
        while skip and skip >= (count := sum(self._count(tar) for tar in self._tars(epoch))):
            if count == 0:
                break  # nothing in these tars; said below, at the end of the epoch
            skip, epoch = skip - count, epoch + 1
        while True:
            before = self.seen - self.broken
            for record in self.epoch(epoch):
                if skip and record.where not in self.passed_over:
                    skip -= 1
                elif (sample := self._sample(record, epoch)) is not None:
                    yield sample
            self._judge()
            if self.seen - self.broken == before:
                raise DataError(
                    f"{self._tars(epoch)[0]}: no photo with objects in it or in its neighbours; expected some."
                )
            epoch += 1

    def epoch(self, epoch: int) -> Iterator[Record]:
        """The worker's photos of one epoch, undecoded, shuffled."""
        webdataset = require("webdataset", extra="train")
        shuffle = webdataset.detshuffle(SHUFFLE_BUFFER, SHUFFLE_BUFFER // 2, self._number(epoch), epoch=-1)
        return shuffle.run(self._records(self._tars(epoch)))  # type: ignore[no-any-return]

    def _tars(self, epoch: int) -> list[Path]:
        return self.stream.tars_of(epoch, self.role, self.workers)

    def _number(self, epoch: int) -> int:
        return zlib.crc32(f"{self.stream.seed} {epoch}".encode())

    def _records(self, tars: Sequence[Path]) -> Iterator[Record]:
        webdataset = require("webdataset", extra="train")
        files = webdataset.tariterators.tar_file_expander(self._opened(tars), handler=self._unreadable)
        for entry in webdataset.tariterators.group_by_keys(files, keys=_split_name, handler=self._unreadable):
            where = f"{entry['__url__']}:{entry['__key__']}{'.json' if 'json' in entry else ''}"
            if where not in self.stream.held_out:
                self.seen += 1
                if (record := self._record(entry, where)) is not None:
                    yield record

    def _opened(self, tars: Sequence[Path]) -> Iterator[dict[str, Any]]:
        for tar in tars:
            with tar.open("rb") as file:
                yield {"url": str(tar), "stream": file}
                if _has_content(file):  # tarfile takes a damaged header for the end
                    self._note(f"{tar}", "a damaged header hides what follows it", is_broken=True)

    def _record(self, entry: dict[str, Any], where: str) -> Record | None:
        photo = next((entry[s] for suffix in PHOTO_SUFFIXES if (s := suffix[1:]) in entry), None)
        annotation = entry.get("json")
        if photo is None or (annotation is None and self.stream.annotated):
            self._note(where, "a photo or its annotation is not there", is_broken=True)
        elif len(photo) > MAX_PHOTO_BYTES or len(annotation or b"") > MAX_JSON_BYTES:
            self._note(where, "the photo or its annotation is too large", is_broken=True)
        else:
            source = Path(entry["__url__"]).stem.rpartition("-")[0] or Path(entry["__url__"]).stem
            return Record(
                Path(entry["__key__"]).name, source, where, Held(photo), Held(annotation) if annotation else None
            )
        return None

    def _sample(self, record: Record, epoch: int) -> dict[str, Any] | None:
        name = f"{Path(record.where.partition('.tar:')[0]).name} {record.name}"  # where the tars lie changes nothing
        rng = np.random.default_rng([self.stream.seed, epoch, zlib.crc32(name.encode())])
        try:
            sample = self.stream.make(record, rng)
        except SamEdgeError as error:
            self._note(record.where, first_line(error), is_broken=True)
            return None
        if sample is None:
            self._note(record.where, "no objects", is_broken=False)
        return sample

    def _unreadable(self, error: Exception) -> bool:
        """WebDataset's handler: go on after an error of the tar itself."""
        where = next((str(part) for part in reversed(error.args) if str(part).endswith(".tar")), "a tar")
        self._note(where, first_line(error), is_broken=True)
        return True

    def _note(self, where: str, why: str, is_broken: bool) -> None:
        if where not in self.passed_over:
            self.passed_over.add(where)
            self.stream.notes.parent.mkdir(parents=True, exist_ok=True)
            note = {"where": where, "why": why.removeprefix(f"{where}: "), "broken": is_broken}
            with self.stream.notes.open("a", encoding="utf-8") as file:  # one short line: workers' do not mix
                file.write(json.dumps(note) + "\n")
        self.broken += is_broken
        if self.seen >= JUDGED_FROM:
            self._judge()

    def _judge(self) -> None:
        if too_many_broken(self.broken, self.seen):
            raise DataError(
                f"{self.broken} of {self.seen} entries of the tars cannot be read, expected at most "
                f"{MAX_BROKEN_SHARE:.0%}. They are named in {self.stream.notes}; fetch their tars again."
            )

    def _count(self, tar: Path) -> int:
        if tar not in self.counts:
            seen, broken = self.seen, self.broken
            self.counts[tar] = sum(record.where not in self.passed_over for record in self._records([tar]))
            self.seen, self.broken = seen, broken
        return self.counts[tar]


def _split_name(name: str) -> tuple[str | None, str | None]:
    """ "folder/sa_1.v2.jpg" -> ("folder/sa_1.v2", "jpg"): WebDataset itself would cut at the first dot."""
    stem, _, suffix = name.rpartition(".")
    return (stem, suffix) if stem else (None, None)


def _has_content(file: BinaryIO) -> bool:
    """Whether anything but padding follows."""
    return any(any(block) for block in iter(lambda: file.read(1 << 20), b""))


def _noted(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {str(json.loads(line)["where"]) for line in lines if line.endswith("}")}
