import assert from "node:assert/strict";
import { test } from "node:test";
import type { Plane, Size } from "./contract";
import { cropCells, upscaleMask, type Mask } from "./masks";
import { countsToString, maskToCounts, maskToRle, rleToMask } from "./rle";
import { suppress } from "./suppression";

/** Both bilinear steps on the whole plane, pixel by pixel: what the windowed code must equal. */
function reference(logits: Plane, side: number, input: Size, photo: Size): Uint8Array {
  const at = (plane: Plane, y: number, x: number): number => {
    const y0 = Math.min(Math.max(y, 0), plane.height - 1);
    const x0 = Math.min(Math.max(x, 0), plane.width - 1);
    return plane.data[y0 * plane.width + x0]!;
  };
  const resize = (plane: Plane, height: number, width: number): Plane => {
    const data = new Float32Array(height * width);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const [v, u] = [((y + 0.5) * plane.height) / height - 0.5, ((x + 0.5) * plane.width) / width - 0.5];
        const [y0, x0] = [Math.floor(v), Math.floor(u)];
        const above = at(plane, y0, x0) * (1 - u + x0) + at(plane, y0, x0 + 1) * (u - x0);
        const below = at(plane, y0 + 1, x0) * (1 - u + x0) + at(plane, y0 + 1, x0 + 1) * (u - x0);
        data[y * width + x] = above * (1 - v + y0) + below * (v - y0);
      }
    return { data, height, width };
  };
  const whole = resize(logits, side, side);
  const cut = new Float32Array(input[0] * input[1]);
  for (let y = 0; y < input[0]; y++) cut.set(whole.data.subarray(y * side, y * side + input[1]), y * input[1]);
  const out = resize({ data: cut, height: input[0], width: input[1] }, photo[0], photo[1]);
  return Uint8Array.from(out.data, (value) => (value > 0 ? 1 : 0));
}

function whole(mask: Mask): Uint8Array {
  const data = new Uint8Array(mask.size[0] * mask.size[1]);
  for (let y = 0; y < mask.height; y++)
    data.set(mask.data.subarray(y * mask.width, (y + 1) * mask.width), (mask.top + y) * mask.size[1] + mask.left);
  return data;
}

let seed = 1;
function random(): number {
  seed = (seed * 48271) % 2147483647;
  return seed / 2147483647;
}

const CASES: [Size, Size][] = [
  [[64, 64], [64, 64]],
  [[43, 64], [97, 145]],
  [[64, 21], [190, 61]],
  [[64, 50], [31, 24]],
  [[1, 64], [1, 500]],
];

for (const [input, photo] of CASES)
  test(`a window of logits gives the mask of all of them, photo ${photo.join(" x ")}`, () => {
    for (let round = 0; round < 20; round++) {
      const data = Float32Array.from({ length: 256 }, () => -20 + 12 * random());
      const [cy, cx] = [Math.floor(16 * random()), Math.floor(16 * random())];
      for (let cell = 0; cell < 12; cell++) {
        const [y, x] = [Math.min(15, cy + Math.floor(3 * random())), Math.min(15, cx + Math.floor(5 * random()))];
        data[y * 16 + x] = 30 * random();
      }
      const logits = { data, height: 16, width: 16 };
      const expected = reference(logits, 64, input, photo);
      const got = whole(upscaleMask(cropCells(logits, input), input, photo));
      const different = expected.reduce((sum, value, index) => sum + (value === got[index] ? 0 : 1), 0);
      assert.ok(different <= 1, `${different} pixels differ`); // float32 against float64 at the threshold
    }
  });

test("logits below every level give an empty mask", () => {
  const logits = { data: new Float32Array(256).fill(-9), height: 16, width: 16 };
  const mask = upscaleMask(cropCells(logits, [64, 64]), [64, 64], [100, 100]);
  assert.deepEqual([mask.area, mask.width, Number.isNaN(mask.stabilityScore)], [0, 0, true]);
  assert.deepEqual(maskToCounts(mask), [10_000]);
});

test("run lengths go there and back, at borders, too", () => {
  for (let round = 0; round < 200; round++) {
    const size: Size = [1 + Math.floor(9 * random()), 1 + Math.floor(9 * random())];
    const height = 1 + Math.floor(size[0] * random() * 0.999);
    const width = 1 + Math.floor(size[1] * random() * 0.999);
    const data = Uint8Array.from({ length: height * width }, () => (random() < 0.7 ? 1 : 0));
    const area = data.reduce((sum, value) => sum + value, 0);
    const top = Math.floor((size[0] - height + 1) * random() * 0.999);
    const left = Math.floor((size[1] - width + 1) * random() * 0.999);
    const mask = { data, top, left, height, width, size, area, stabilityScore: 1 };
    const counts = maskToCounts(mask);
    assert.equal(counts.reduce((sum, count) => sum + count, 0), size[0] * size[1]);
    assert.ok(counts.slice(1).every((count) => count > 0));
    assert.deepEqual(whole(rleToMask(maskToRle(mask))), whole(mask));
  }
});

test("COCO's string of a long run", () => {
  assert.equal(countsToString([6, 1, 40, 4, 5, 4, 5, 4, 21]), "61X13mN000`0"); // the example of COCO's maskApi.c
  assert.throws(() => rleToMask({ size: [2, 2], counts: "~" }), RangeError);
  assert.throws(() => rleToMask({ size: [2, 2], counts: "9" }), RangeError);
});

test("suppression keeps the best of two alike, and both of two apart", () => {
  const boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]];
  assert.deepEqual(suppress(boxes, [0.5, 0.9, 0.7], 0.7), [1, 2]);
  assert.deepEqual(suppress([[3, 3, 3, 3], [3, 3, 3, 3]], [1, 1], 0.7), [0, 1]);
});
