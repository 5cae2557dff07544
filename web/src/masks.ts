/**
 * From low-resolution logits to a mask at the photo's size, computed only where the mask can be.
 *
 * Two bilinear steps with pixel centres at halves, as masks.py: to the model's side S, cropped to what the photo fills,
 * then to the photo. A pixel above a level has a cell above it beside it, so the rest is never computed.
 */

import { CONTRACT, type Plane, type Size } from "./contract";

/** A part of the low-resolution logits: all that lies above the lowest level anybody asks for, and a margin. */
export interface Cells extends Plane {
  readonly top: number;
  readonly left: number;
}

/** A mask: 1 inside, 0 outside, in the rows and columns of its own box; the top-left pixel lies at (left, top). */
export interface Mask {
  readonly data: Uint8Array;
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  /** [height, width] of the picture that the mask lies on. */
  readonly size: Size;
  readonly area: number;
  /** Area at threshold + 1 by area at threshold - 1; NaN where both are empty. */
  readonly stabilityScore: number;
}

export const STABILITY_OFFSET = 1; // logits; segment-anything's
const MARGIN_CELLS = 2; // two bilinear steps read at most so far
const LOWEST = CONTRACT.maskThreshold - STABILITY_OFFSET;

/** Cut out what matters of (S/4, S/4) logits; nothing above the lowest level gives 0 x 0 cells. */
export function cropCells(logits: Plane, inputSize: Size): Cells {
  const rows = Math.min(logits.height, Math.ceil(inputSize[0] / CONTRACT.maskStride) + 1);
  const columns = Math.min(logits.width, Math.ceil(inputSize[1] / CONTRACT.maskStride) + 1);
  let [top, left, bottom, right] = [rows, columns, -1, -1];
  for (let y = 0; y < rows; y++) {
    const row = y * logits.width;
    for (let x = 0; x < columns; x++) {
      if (!(logits.data[row + x]! > LOWEST)) continue;
      if (y < top) top = y;
      bottom = y;
      if (x < left) left = x;
      if (x > right) right = x;
    }
  }
  if (bottom < 0) return { data: new Float32Array(0), top: 0, left: 0, height: 0, width: 0 };
  top = Math.max(0, top - MARGIN_CELLS);
  left = Math.max(0, left - MARGIN_CELLS);
  const height = Math.min(logits.height, bottom + MARGIN_CELLS + 1) - top;
  const width = Math.min(logits.width, right + MARGIN_CELLS + 1) - left;
  const data = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const start = (top + y) * logits.width + left;
    data.set(logits.data.subarray(start, start + width), y * width);
  }
  return { data, top, left, height, width };
}

/** The mask of `cells` on a photo of [height, width] pixels whose resized image has `inputSize`. */
export function upscaleMask(cells: Cells, inputSize: Size, photo: Size): Mask {
  const empty = { data: new Uint8Array(0), left: 0, top: 0, width: 0, height: 0, size: photo, area: 0 };
  if (!cells.data.length) return { ...empty, stabilityScore: NaN };
  const y = axis(cells.top, cells.height, inputSize[0], photo[0]);
  const x = axis(cells.left, cells.width, inputSize[1], photo[1]);
  const atModelSize = sample(cells, y.toModel, x.toModel);
  const logits = sample(atModelSize, y.toPhoto, x.toPhoto);
  return measure(logits, y.first, x.first, photo);
}

/** For each output index along one axis: the index before it, the one after it, and the weight of the latter. */
interface Steps {
  readonly before: Int32Array;
  readonly after: Int32Array;
  readonly weight: Float32Array;
}

interface Axis {
  readonly toModel: Steps;
  readonly toPhoto: Steps;
  /** The photo's first pixel that is computed. */
  readonly first: number;
}

/** Both steps along one axis, for the pixels that cells `start` to `start + count` can reach. */
function axis(start: number, count: number, inputLength: number, photoLength: number): Axis {
  const stride = CONTRACT.maskStride;
  const firstModel = Math.max(0, start * stride);
  const endModel = Math.min(inputLength, (start + count) * stride);
  const scale = inputLength / photoLength;
  const first = Math.max(0, Math.floor(firstModel / scale));
  const end = Math.min(photoLength, Math.ceil(endModel / scale));
  const toPhoto = steps(first, end, scale, inputLength - 1, firstModel, endModel - 1);
  const toModel = steps(firstModel, endModel, 1 / stride, Infinity, start, start + count - 1);
  return { toModel, toPhoto, first };
}

/** Output pixels first..end at a scale; source indices end at `last`, and are stored from `offset` to `highest` only. */
function steps(
  first: number,
  end: number,
  scale: number,
  last: number,
  offset: number,
  highest: number,
): Steps {
  const count = Math.max(0, end - first);
  const before = new Int32Array(count);
  const after = new Int32Array(count);
  const weight = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    const position = (first + index + 0.5) * scale - 0.5;
    const floor = Math.floor(position);
    const inside = floor >= 0 && floor < last;
    weight[index] = inside ? position - floor : 0;
    const source = Math.min(Math.max(floor, 0), last);
    before[index] = Math.min(Math.max(source, offset), highest) - offset;
    after[index] = Math.min(Math.max(inside ? source + 1 : source, offset), highest) - offset;
  }
  return { before, after, weight };
}

/** Bilinear sampling, first along rows, then along columns. */
function sample(plane: Plane, y: Steps, x: Steps): Plane {
  const [height, width] = [y.before.length, x.before.length];
  const rows = new Float32Array(plane.height * width);
  for (let row = 0; row < plane.height; row++) {
    const source = row * plane.width;
    const target = row * width;
    for (let column = 0; column < width; column++) {
      const a = plane.data[source + x.before[column]!]!;
      const b = plane.data[source + x.after[column]!]!;
      rows[target + column] = a + (b - a) * x.weight[column]!;
    }
  }
  const data = new Float32Array(height * width);
  for (let row = 0; row < height; row++) {
    const above = y.before[row]! * width;
    const below = y.after[row]! * width;
    const weight = y.weight[row]!;
    const target = row * width;
    for (let column = 0; column < width; column++) {
      const a = rows[above + column]!;
      data[target + column] = a + (rows[below + column]! - a) * weight;
    }
  }
  return { data, height, width };
}

/** Compare with the threshold, cut to the mask's own box, count. */
function measure(logits: Plane, firstRow: number, firstColumn: number, size: Size): Mask {
  const threshold = CONTRACT.maskThreshold;
  let [top, left, bottom, right, inner, outer, area] = [logits.height, logits.width, -1, -1, 0, 0, 0];
  for (let y = 0, index = 0; y < logits.height; y++) {
    for (let x = 0; x < logits.width; x++, index++) {
      const value = logits.data[index]!;
      if (!(value > LOWEST)) continue;
      outer++;
      if (!(value > threshold)) continue;
      area++;
      if (value > threshold + STABILITY_OFFSET) inner++;
      if (y < top) top = y;
      bottom = y;
      if (x < left) left = x;
      if (x > right) right = x;
    }
  }
  const stabilityScore = inner / outer;
  if (bottom < 0) return { data: new Uint8Array(0), left: 0, top: 0, width: 0, height: 0, size, area: 0, stabilityScore };
  const [height, width] = [bottom - top + 1, right - left + 1];
  const data = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const source = (top + y) * logits.width + left;
    for (let x = 0; x < width; x++) data[y * width + x] = logits.data[source + x]! > threshold ? 1 : 0;
  }
  return { data, left: firstColumn + left, top: firstRow + top, width, height, size, area, stabilityScore };
}
