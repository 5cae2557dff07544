/** A photo's pixels to the encoder's tensor, by the manifest's numbers. */

import { CONTRACT, type Size, type Tensor } from "./contract";
import type { ModelSpec } from "./manifest";
import { resizedSize, resizeToRgb } from "./resize";

/** RGBA (H, W) to image (1, 3, S, S) and the [h, w] of it that the photo fills; zeros right and below. */
export function preprocess(
  rgba: Uint8ClampedArray,
  size: Size,
  spec: ModelSpec,
): { image: Tensor; inputSize: Size } {
  const inputSize = resizedSize(size, spec.imageSize);
  const [height, width] = inputSize;
  const rgb = resizeToRgb(rgba, size, inputSize);
  const side = spec.imageSize;
  const data = new Float32Array(3 * side * side);
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(spec.pixelMean[channel]!);
    const std = Math.fround(spec.pixelStd[channel]!);
    const levels = Float32Array.from({ length: 256 }, (_, level) => Math.fround(level - mean) / std);
    for (let y = 0; y < height; y++) {
      const row = (channel * side + y) * side;
      for (let x = 0; x < width; x++) data[row + x] = levels[rgb[(y * width + x) * 3 + channel]!]!;
    }
  }
  return { image: { data, dims: [1, 3, side, side] }, inputSize };
}

/** Name -> tensor, as the encoder takes it. */
export function encoderFeeds(image: Tensor): Record<string, Tensor> {
  return { [CONTRACT.image]: image };
}
