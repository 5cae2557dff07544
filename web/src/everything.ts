/** All masks of a photo from a grid of points: SamAutomaticMaskGenerator's steps and thresholds (everything.py). */

import type { Size } from "./contract";
import type { Engine } from "./engine";
import { SegmenterError } from "./errors";
import type { Cells, Mask } from "./masks";
import { suppress } from "./suppression";

export interface EverythingOptions {
  /** Points along each side of the grid. */
  readonly pointsPerSide: number;
  /** Masks at or below it are dropped; the model's own by default. */
  readonly predIouThresh?: number;
  /** Masks below it are dropped; the model's own by default. */
  readonly stabilityScoreThresh?: number;
  readonly boxNmsThresh?: number;
}

export interface Found {
  readonly mask: Mask;
  readonly cells: Cells;
  readonly predictedIou: number;
  /** The point that was asked, x and y in the pixels of `size`. */
  readonly point: readonly [number, number];
}

const POINTS_PER_BATCH = 4; // larger batches leave the cache, and make a click wait longer
const BOX_NMS_THRESH = 0.7; // segment-anything's

interface Kept {
  readonly cells: Cells;
  readonly box: readonly [number, number, number, number];
  readonly predictedIou: number;
  readonly point: readonly [number, number];
}

/** Masks at `size`, in the order of suppression. `progress` may return false to stop: throws kind "cancelled". */
export async function findEverything(
  engine: Engine,
  photo: Size,
  size: Size,
  options: EverythingOptions,
  progress: (done: number, total: number) => Promise<boolean>,
): Promise<Found[]> {
  const { spec } = engine.manifest;
  const side = options.pointsPerSide;
  if (!Number.isInteger(side) || side < 1 || side > 128)
    throw new SegmenterError("prompt", `pointsPerSide is ${side}, expected 1 to 128.`);
  const limits = {
    iou: options.predIouThresh ?? spec.predIouThresh,
    stability: options.stabilityScoreThresh ?? spec.stabilityScoreThresh,
  };
  const grid = Array.from({ length: side }, (_, index) => (index + 0.5) / side);
  const points = grid.flatMap((y) => grid.map((x) => [x * photo[1], y * photo[0]] as const));
  const kept: Kept[] = [];
  for (let first = 0; first < points.length; first += POINTS_PER_BATCH) {
    const batch = points.slice(first, first + POINTS_PER_BATCH);
    const answers = await engine.decode(batch.map(([x, y]) => ({ points: [{ x, y, label: 1 as const }] })));
    answers.forEach((candidates, index) => {
      for (const { logits, predictedIou } of candidates.slice(1)) {
        if (limits.iou > 0 && !(predictedIou > limits.iou)) continue; // before anything is upscaled
        const cells = engine.crop(logits);
        const mask = engine.upscale(cells, size);
        if (limits.stability > 0 && !(mask.stabilityScore >= limits.stability)) continue; // NaN does not pass
        const [x, y] = batch[index]!;
        const point = [(x * size[1]) / photo[1], (y * size[0]) / photo[0]] as const;
        kept.push({ cells, box: maskBox(mask), predictedIou, point });
      }
    });
    if (!(await progress(Math.min(points.length, first + POINTS_PER_BATCH), points.length)))
      throw new SegmenterError("cancelled", "stopped before the end.");
  }
  const order = suppress(
    kept.map(({ box }) => box),
    kept.map(({ predictedIou }) => predictedIou),
    options.boxNmsThresh ?? BOX_NMS_THRESH,
  );
  return order.map((index) => {
    const { cells, predictedIou, point } = kept[index]!;
    return { mask: engine.upscale(cells, size), cells, predictedIou, point };
  });
}

/** xyxy of the outermost mask pixels, both inclusive; zeros for an empty mask (boxes.py, mask_to_box). */
export function maskBox({ left, top, width, height }: Mask): [number, number, number, number] {
  return width ? [left, top, left + width - 1, top + height - 1] : [0, 0, 0, 0];
}
