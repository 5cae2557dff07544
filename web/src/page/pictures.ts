/** A mask and a cutout as PNG files. */

import { SegmenterError, type Cells, type Mask, type Segmenter, type Size } from "../index";
import { cropPhoto, WORK_PIXELS } from "../photo";

/** Black and white, the photo's size; smaller where a canvas could not hold it. */
export async function maskPng(segmenter: Segmenter, cells: Cells, originalSize: Size): Promise<Blob> {
  const mask = await segmenter.maskAt(cells, originalSize[0] * originalSize[1] <= WORK_PIXELS);
  const [height, width] = mask.size;
  const { canvas, context } = surface(width, height);
  context.fillRect(0, 0, width, height);
  const pixels = context.getImageData(mask.left, mask.top, mask.width, mask.height);
  new Uint32Array(pixels.data.buffer).set(Array.from(mask.data, (inside) => (inside ? 0xffffffff : 0xff000000)));
  context.putImageData(pixels, mask.left, mask.top);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The object alone on transparency, cut to its box, in the photo file's own pixels. */
export async function cutoutPng(
  segmenter: Segmenter,
  cells: Cells,
  file: Blob,
  view: CanvasImageSource,
  originalSize: Size,
): Promise<Blob> {
  const original = originalSize[0] * originalSize[1] <= WORK_PIXELS;
  const mask = await segmenter.maskAt(cells, original);
  const { canvas, context } = surface(mask.width, mask.height);
  if (original) context.drawImage(await cropPhoto(file, mask), 0, 0);
  else context.drawImage(view, -mask.left, -mask.top);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  mask.data.forEach((inside, index) => {
    if (!inside) pixels.data[index * 4 + 3] = 0;
  });
  context.putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function surface(width: number, height: number): { canvas: OffscreenCanvas; context: OffscreenCanvasRenderingContext2D } {
  if (!width || !height) throw new SegmenterError("prompt", "the mask is empty: there is nothing to save. Click elsewhere.");
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (!context) throw new SegmenterError("browser", "this browser gives no memory for the picture.");
  return { canvas, context };
}

/** Hand a file to the person. */
export function saveFile(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Every second pixel of a mask of another size: to show what was saved at the photo's own. */
export function scaledMask(mask: Mask, size: Size): Mask {
  if (mask.size[0] === size[0] && mask.size[1] === size[1]) return mask;
  const [scaleY, scaleX] = [mask.size[0] / size[0], mask.size[1] / size[1]];
  const [left, top] = [Math.floor(mask.left / scaleX), Math.floor(mask.top / scaleY)];
  const width = Math.min(size[1] - left, Math.ceil(mask.width / scaleX));
  const height = Math.min(size[0] - top, Math.ceil(mask.height / scaleY));
  const data = new Uint8Array(width * height);
  let area = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const row = Math.floor((top + y + 0.5) * scaleY) - mask.top;
      const column = Math.floor((left + x + 0.5) * scaleX) - mask.left;
      const inside = row >= 0 && row < mask.height && column >= 0 && column < mask.width;
      area += data[y * width + x] = inside ? mask.data[row * mask.width + column]! : 0;
    }
  return { ...mask, data, left, top, width, height, size, area };
}
