/**
 * Bilinear resizing with antialiasing on 8-bit values, to the last bit what Pillow's `Image.resize(..., BILINEAR)` gives:
 * first along rows, then along columns, each pass rounded to 8 bits, weights as whole numbers of 2^-22.
 */

import type { Size } from "./contract";

const WEIGHT_BITS = 22;
const HALF = 1 << (WEIGHT_BITS - 1);

interface Taps {
  /** First source index for each output index. */
  readonly first: Int32Array;
  readonly count: Int32Array;
  /** `most` weights for each output index. */
  readonly weights: Int32Array;
  readonly most: number;
}

/** [height, width] once the longest side is `side`, rounded half up; at least 1 each (image.py, resized_size). */
export function resizedSize([height, width]: Size, side: number): Size {
  const longest = Math.max(height, width);
  const resized = (length: number): number =>
    Math.max(1, Math.floor((2 * length * side + longest) / (2 * longest)));
  return [resized(height), resized(width)];
}

/** RGBA of `source` size to RGB of `target` size; alpha must be 255 already. */
export function resizeToRgb(rgba: Uint8ClampedArray, source: Size, target: Size): Uint8Array {
  const rows = resizeRows(rgba, source, target[1]);
  return resizeColumns(rows, source[0], target);
}

function triangleTaps(from: number, to: number): Taps {
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  const most = Math.ceil(filterScale) * 2 + 1;
  const taps = {
    first: new Int32Array(to),
    count: new Int32Array(to),
    weights: new Int32Array(to * most),
    most,
  };
  const exact = new Float64Array(most);
  for (let out = 0; out < to; out++) {
    const center = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - filterScale + 0.5));
    const count = Math.min(from, Math.trunc(center + filterScale + 0.5)) - first;
    let sum = 0;
    for (let tap = 0; tap < count; tap++) {
      exact[tap] = Math.max(0, 1 - Math.abs((tap + first - center + 0.5) / filterScale));
      sum += exact[tap]!;
    }
    for (let tap = 0; tap < count; tap++)
      taps.weights[out * most + tap] = Math.trunc((exact[tap]! / sum) * 2 ** WEIGHT_BITS + 0.5);
    taps.first[out] = first;
    taps.count[out] = count;
  }
  return taps;
}

/** Along each row: (H, W, 4) to (H, w, 3). */
function resizeRows(rgba: Uint8ClampedArray, [height, width]: Size, to: number): Uint8Array {
  const out = new Uint8Array(height * to * 3);
  const { first, count, weights, most } = triangleTaps(width, to);
  for (let y = 0, target = 0; y < height; y++) {
    for (let x = 0; x < to; x++, target += 3) {
      let source = (y * width + first[x]!) * 4;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let tap = x * most, end = tap + count[x]!; tap < end; tap++, source += 4) {
        const weight = weights[tap]!;
        red += weight * rgba[source]!;
        green += weight * rgba[source + 1]!;
        blue += weight * rgba[source + 2]!;
      }
      out[target] = clip(red >> WEIGHT_BITS);
      out[target + 1] = clip(green >> WEIGHT_BITS);
      out[target + 2] = clip(blue >> WEIGHT_BITS);
    }
  }
  return out;
}

/** Along each column: (H, w, 3) to (h, w, 3). */
function resizeColumns(rows: Uint8Array, from: number, [to, width]: Size): Uint8Array {
  const stride = width * 3;
  const out = new Uint8Array(to * stride);
  const { first, count, weights, most } = triangleTaps(from, to);
  const sums = new Int32Array(stride);
  for (let y = 0; y < to; y++) {
    sums.fill(HALF);
    for (let tap = 0; tap < count[y]!; tap++) {
      const weight = weights[y * most + tap]!;
      const source = (first[y]! + tap) * stride;
      for (let index = 0; index < stride; index++) sums[index]! += weight * rows[source + index]!;
    }
    for (let index = 0; index < stride; index++) out[y * stride + index] = clip(sums[index]! >> WEIGHT_BITS);
  }
  return out;
}

function clip(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}
