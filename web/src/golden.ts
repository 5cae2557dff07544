/** The self-check: a backend must give the float32 reference's values on the artifact's golden photos. */

import type { Backend } from "./backend";
import { CONTRACT, type Size, type Tensor, type Tensors } from "./contract";
import { SegmenterError } from "./errors";
import { embeddingShapes, type Manifest } from "./manifest";
import { cropCells, upscaleMask } from "./masks";
import { readNpz, type NpyArray } from "./npz";
import { encoderFeeds, preprocess } from "./preprocess";

export interface GoldenResult {
  /** Largest difference of an encoder output, in standard deviations of the stored values. */
  readonly embedding: number;
  /** Smallest IoU with a stored mask. */
  readonly maskIou: number;
  /** The least that two photos' embeddings differ by, in the same unit as `embedding`. */
  readonly change: number;
}

const MIN_MASK_IOU = 0.99;

/** Run all golden photos. */
export async function compareGolden(backend: Backend, manifest: Manifest, file: Uint8Array): Promise<GoldenResult> {
  const fields = await readNpz(file, CONTRACT.golden.maxUnpackedBytes);
  const photos = new Set(Object.keys(fields).map((name) => name.split("/")[0]!));
  const found = { embedding: 0, maskIou: 1, change: Infinity };
  let previous: Float32Array | undefined;
  for (const photo of [...photos].sort()) {
    const field = (name: string): NpyArray => {
      const array = fields[`${photo}/${name}`];
      if (!array) throw new SegmenterError("model", `golden.npz has no ${photo}/${name}. Download the model again.`);
      return array;
    };
    const { embeddings, values, inputSize, size } = await encodeGolden(backend, manifest, field("image"));
    values.forEach((got, index) => {
      const stored = field(`embedding_${index}`).data as Float32Array;
      found.embedding = worst(found.embedding, largest(got, stored) / deviation(stored));
    });
    const first = values[0]!;
    if (previous) found.change = Math.min(found.change, largest(first, previous) / deviation(previous));
    previous = first;
    found.maskIou = Math.min(found.maskIou, await maskIou(backend, embeddings, field, inputSize, size));
  }
  return found;
}

/** Throws SegmenterError of kind "model" where the result is not the reference's. `tolerance`: for embeddings. */
export function checkGolden(found: GoldenResult, tolerance: number): void {
  if (!(found.embedding <= tolerance))
    refuse(`its embeddings differ by ${found.embedding.toPrecision(2)} standard deviations, expected ${tolerance}`);
  if (!(found.change >= CONTRACT.golden.minChange)) refuse("it gives the same embedding for different photos");
  if (!(found.maskIou >= MIN_MASK_IOU)) refuse(`a mask has IoU ${found.maskIou.toFixed(3)} with the stored one`);
}

async function encodeGolden(
  backend: Backend,
  manifest: Manifest,
  picture: NpyArray,
): Promise<{ embeddings: Tensors; values: Float32Array[]; inputSize: Size; size: Size }> {
  const size: Size = [picture.shape[0]!, picture.shape[1]!];
  const rgba = new Uint8ClampedArray(size[0] * size[1] * 4).fill(255);
  for (let pixel = 0; pixel < size[0] * size[1]; pixel++)
    for (let channel = 0; channel < 3; channel++) rgba[pixel * 4 + channel] = picture.data[pixel * 3 + channel]!;
  const { image, inputSize } = preprocess(rgba, size, manifest.spec);
  const embeddings = await backend.run("encoder", encoderFeeds(image));
  const { numValues, valueStep } = CONTRACT.golden;
  const values = embeddingShapes(manifest.spec).map(({ name }) => {
    const { data } = embeddings[name]!;
    return Float32Array.from({ length: numValues }, (_, index) => data[(index * valueStep) % data.length]!);
  });
  return { embeddings, values, inputSize, size };
}

async function maskIou(
  backend: Backend,
  embeddings: Tensors,
  field: (name: string) => NpyArray,
  inputSize: Size,
  size: Size,
): Promise<number> {
  const prompts = CONTRACT.promptInputs.map((name): [string, Tensor] => {
    const { data, shape } = field(name);
    return [name, { data: data as Float32Array, dims: shape }];
  });
  const outputs = await backend.run("decoder", { ...embeddings, ...Object.fromEntries(prompts) });
  const logits = outputs[CONTRACT.predictionOutputs[0]!]!;
  const [count, masks, height, width] = logits.dims as [number, number, number, number];
  const stored = field("masks"); // (B, H, ceil(W / 8)), bits
  let smallest = 1;
  for (let prompt = 0; prompt < count; prompt++) {
    const start = prompt * masks * height * width;
    const plane = { data: logits.data.subarray(start, start + height * width), height, width };
    const mask = upscaleMask(cropCells(plane, inputSize), inputSize, size);
    let [both, expected] = [0, 0];
    const rowBytes = stored.shape[2]!;
    for (let y = 0; y < size[0]; y++)
      for (let x = 0; x < size[1]; x++) {
        const byte = stored.data[(prompt * size[0] + y) * rowBytes + (x >> 3)]!;
        if (!((byte >> (7 - (x & 7))) & 1)) continue;
        expected++;
        const [row, column] = [y - mask.top, x - mask.left];
        if (row >= 0 && row < mask.height && column >= 0 && column < mask.width)
          both += mask.data[row * mask.width + column]!;
      }
    const either = expected + mask.area - both;
    smallest = Math.min(smallest, either ? both / either : 1);
  }
  return smallest;
}

function largest(got: Float32Array, expected: Float32Array): number {
  return got.reduce((most, value, index) => worst(most, Math.abs(value - expected[index]!)), 0);
}

/** The larger of two, NaN where either is. */
function worst(a: number, b: number): number {
  return Number.isNaN(a) || Number.isNaN(b) ? NaN : Math.max(a, b);
}

function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) + 1e-30;
}

function refuse(what: string): never {
  throw new SegmenterError("model", `the model computes something else here: ${what}. Use another browser.`);
}
