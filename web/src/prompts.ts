/** From points, a box and an earlier mask, in the photo's pixels, to the decoder's tensors; every check is here. */

import { CONTRACT, LABELS, type Plane, type Size, type Tensor } from "./contract";
import { SegmenterError } from "./errors";
import type { ModelSpec } from "./manifest";
import { resizedSize } from "./resize";

export interface Point {
  readonly x: number;
  readonly y: number;
  /** 1: on the object; 0: beside it. */
  readonly label: 0 | 1;
}

/** x0, y0, x1, y1: corners in the photo's pixels, top left first. */
export type Box = readonly [x0: number, y0: number, x1: number, y1: number];

export interface Prompt {
  readonly points?: readonly Point[];
  readonly box?: Box;
  /** Low-resolution logits of an earlier prediction. */
  readonly maskInput?: Plane;
}

/** B prompts, each with the same number of points, as tensors. Throws SegmenterError of kind "prompt". */
export function buildPrompts(spec: ModelSpec, photo: Size, prompts: readonly Prompt[]): Record<string, Tensor> {
  const count = prompts.length;
  const slots = prompts.map((prompt) => promptSlots(spec, photo, prompt));
  const points = slots[0]?.length ?? 0;
  if (!points || slots.some((slot) => slot.length !== points))
    refuse("the prompts of one batch have different numbers of points. Give each as many.");
  const side = spec.imageSize / CONTRACT.maskStride;
  const coords = new Float32Array(count * points * 2);
  const labels = new Float32Array(count * points);
  const masks = new Float32Array(count * side * side);
  const hasMask = new Float32Array(count);
  slots.forEach((slot, prompt) =>
    slot.forEach(([x, y, label], index) => {
      coords.set([x, y], (prompt * points + index) * 2);
      labels[prompt * points + index] = label;
    }),
  );
  prompts.forEach(({ maskInput }, prompt) => {
    if (!maskInput) return;
    if (maskInput.height !== side || maskInput.width !== side || maskInput.data.length !== side * side)
      refuse(`maskInput is ${maskInput.height} x ${maskInput.width}, expected ${side} x ${side}: logits of ${spec.name}.`);
    if (!maskInput.data.every(Number.isFinite)) refuse("maskInput has NaN or infinite values.");
    masks.set(maskInput.data, prompt * side * side);
    hasMask[prompt] = 1;
  });
  const tensors: Tensor[] = [
    { data: coords, dims: [count, points, 2] },
    { data: labels, dims: [count, points] },
    { data: masks, dims: [count, 1, side, side] },
    { data: hasMask, dims: [count] },
  ];
  return Object.fromEntries(CONTRACT.promptInputs.map((name, index) => [name, tensors[index]!]));
}

/** SAM's order: the points, then the box's corners, or one padding point where there is no box. */
function promptSlots(spec: ModelSpec, photo: Size, prompt: Prompt): [number, number, number][] {
  const input = resizedSize(photo, spec.imageSize);
  const scaleX = input[1] / photo[1];
  const scaleY = input[0] / photo[0];
  const points = prompt.points ?? [];
  points.forEach((point) => checkPoint(point, photo));
  const slots = points.map(({ x, y, label }): [number, number, number] => [x * scaleX, y * scaleY, label]);
  if (prompt.box) {
    checkBox(prompt.box, photo);
    const [x0, y0, x1, y1] = prompt.box;
    slots.push([x0 * scaleX, y0 * scaleY, LABELS.boxTopLeft], [x1 * scaleX, y1 * scaleY, LABELS.boxBottomRight]);
  } else {
    slots.push([0, 0, points.length ? LABELS.padding : LABELS.empty]);
  }
  return slots;
}

function checkPoint({ x, y, label }: Point, [height, width]: Size): void {
  if (![LABELS.foreground, LABELS.background].includes(label))
    refuse(`a point has label ${String(label)}, expected 1 (on the object) or 0 (beside it).`);
  if (![x, y].every(Number.isFinite) || !(x >= 0 && x <= width && y >= 0 && y <= height))
    refuse(`point (${x}, ${y}) is outside the photo, expected x from 0 to ${width} and y from 0 to ${height}.`);
}

function checkBox(box: Box, [height, width]: Size): void {
  const [x0, y0, x1, y1] = box;
  if (box.length !== 4 || !box.every(Number.isFinite) || x1 <= x0 || y1 <= y0)
    refuse(`box (${box.join(", ")}) is empty or inverted, expected x0 < x1 and y0 < y1, top-left corner first.`);
  if (x0 >= width || y0 >= height || x1 <= 0 || y1 <= 0)
    refuse(`box (${box.join(", ")}) does not overlap the photo of ${width} x ${height} pixels.`);
}

function refuse(what: string): never {
  throw new SegmenterError("prompt", what);
}
