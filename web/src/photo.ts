/** From a file to pixels: the kind and the size are read from its first bytes, before a pixel is decoded. */

import { CONTRACT, type Size } from "./contract";
import { SegmenterError } from "./errors";

/** Decoded at most; larger photos are shrunk while they are decoded. Also what a canvas holds on small devices. */
export const WORK_PIXELS = 16_000_000;
/** Shown at most, and the size that masks have while one clicks. */
export const VIEW_PIXELS = 1_500_000;
const HEADER_BYTES = 1 << 18; // a JPEG's size stands behind its metadata

export type PhotoSource = Blob | ImageBitmap | ImageData;

export interface Photo {
  /** Pixels for the model, no alpha left. */
  readonly rgba: Uint8ClampedArray;
  readonly size: Size;
  /** Of the file itself, upright; `size` unless that was shrunk. */
  readonly originalSize: Size;
  /** For the screen, at `viewSize`. */
  readonly view: ImageBitmap;
  readonly viewSize: Size;
}

/** Decode, turn upright, lay over white, bound. Throws SegmenterError of kind "image". */
export async function readPhoto(source: PhotoSource): Promise<Photo> {
  if (source instanceof Blob) {
    const { bitmap, originalSize } = await decode(source);
    return fromBitmap(bitmap, originalSize);
  }
  const size: Size = [source.height, source.width];
  checkPixels(size);
  const bitmap = await createImageBitmap(source).catch(() => refuse("the pixels cannot be read"));
  return fromBitmap(await shrink(bitmap, WORK_PIXELS), size);
}

async function fromBitmap(bitmap: ImageBitmap, originalSize: Size): Promise<Photo> {
  const size: Size = [bitmap.height, bitmap.width];
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) refuse("this browser gives no memory to draw it");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const view = await shrink(bitmap, VIEW_PIXELS);
  return { rgba, size, originalSize, view, viewSize: [view.height, view.width] };
}

async function decode(file: Blob): Promise<{ bitmap: ImageBitmap; originalSize: Size }> {
  if (file.size === 0) refuse("the file is empty, expected a photo. Copy or download it again");
  if (file.size > CONTRACT.maxPhotoBytes) refuse(`the file has ${file.size} bytes, the limit is ${CONTRACT.maxPhotoBytes}`);
  const header = readHeader(new Uint8Array(await file.slice(0, HEADER_BYTES).arrayBuffer()));
  if (!header) refuse("this is no photo that a browser can read. Use JPEG, PNG, WebP, GIF, BMP or AVIF");
  const stored = header.size;
  if (stored) checkPixels(stored);
  const options: ImageBitmapOptions = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  if (stored && stored[0] * stored[1] > WORK_PIXELS) {
    // Width as stored: a photo that EXIF turns comes out somewhat larger or smaller, and is shrunk once more below.
    options.resizeWidth = Math.max(1, Math.floor(stored[1] * Math.sqrt(WORK_PIXELS / (stored[0] * stored[1]))));
    options.resizeQuality = "high";
  }
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, options);
  } catch {
    return refuse(`this ${header.format} is damaged, or too large for this browser. Copy or export it again`);
  }
  const shown: Size = [bitmap.height, bitmap.width];
  checkPixels(shown);
  const originalSize = stored && options.resizeWidth ? upright(stored, shown) : shown;
  return { bitmap: await shrink(bitmap, WORK_PIXELS), originalSize };
}

/** A crop of the photo's file in its own pixels, for exports; the photo is decoded anew. */
export async function cropPhoto(
  file: Blob,
  box: { left: number; top: number; width: number; height: number },
): Promise<ImageBitmap> {
  const options: ImageBitmapOptions = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  return createImageBitmap(file, box.left, box.top, box.width, box.height, options);
}

async function shrink(bitmap: ImageBitmap, pixels: number): Promise<ImageBitmap> {
  const factor = Math.sqrt(pixels / (bitmap.width * bitmap.height));
  if (factor >= 1) return bitmap;
  const smaller = await createImageBitmap(bitmap, {
    resizeWidth: Math.max(1, Math.floor(bitmap.width * factor)),
    resizeHeight: Math.max(1, Math.floor(bitmap.height * factor)),
    resizeQuality: "high",
  });
  bitmap.close();
  return smaller;
}

/** The stored size, turned if the decoded picture stands the other way. */
function upright([height, width]: Size, [shownHeight, shownWidth]: Size): Size {
  const ratio = Math.log(shownWidth / shownHeight);
  const turned = Math.abs(ratio - Math.log(height / width)) < Math.abs(ratio - Math.log(width / height));
  return turned ? [width, height] : [height, width];
}

function checkPixels([height, width]: Size): void {
  if (height < 1 || width < 1) refuse(`the picture is ${width} x ${height} pixels`);
  if (height * width > CONTRACT.maxPixels)
    refuse(
      `the photo has ${width} x ${height} = ${(height * width).toLocaleString("en")} pixels, expected at most ` +
        `${CONTRACT.maxPixels.toLocaleString("en")}. Shrink it first`,
    );
}

function refuse(what: string): never {
  throw new SegmenterError("image", `${what}.`);
}

export interface Header {
  readonly format: string;
  /** As stored, before EXIF turns it; absent where the first bytes do not tell. */
  readonly size?: Size;
}

/** Format and size of a picture from its first bytes; undefined for anything that is none. */
export function readHeader(bytes: Uint8Array): Header | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (offset: number, length: number): string =>
    String.fromCharCode(...bytes.subarray(offset, offset + length));
  try {
    if (text(0, 8) === "\x89PNG\r\n\x1a\n") return { format: "PNG", size: [view.getUint32(20), view.getUint32(16)] };
    if (text(0, 4) === "GIF8") return { format: "GIF", size: [view.getUint16(8, true), view.getUint16(6, true)] };
    if (text(0, 2) === "BM") return { format: "BMP", size: [Math.abs(view.getInt32(22, true)), view.getInt32(18, true)] };
    if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") return { format: "WebP", size: webpSize(view, text(12, 4)) };
    if (text(4, 8) === "ftypavif" || text(4, 8) === "ftypavis") return { format: "AVIF", size: avifSize(bytes, view) };
    if (bytes[0] === 0xff && bytes[1] === 0xd8) return { format: "JPEG", size: jpegSize(view) };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // shorter than its own header: the decoder will say so
    return { format: "picture" };
  }
  return undefined;
}

function jpegSize(view: DataView): Size | undefined {
  for (let offset = 2; offset + 9 < view.byteLength; ) {
    if (view.getUint8(offset) !== 0xff) return undefined;
    const marker = view.getUint8(offset + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return [view.getUint16(offset + 5), view.getUint16(offset + 7)];
    const alone = marker === 0xff || marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    offset += marker === 0xff ? 1 : alone ? 2 : 2 + view.getUint16(offset + 2);
  }
  return undefined;
}

function webpSize(view: DataView, chunk: string): Size | undefined {
  const three = (offset: number): number => view.getUint16(offset, true) | (view.getUint8(offset + 2) << 16);
  if (chunk === "VP8X") return [three(27) + 1, three(24) + 1];
  if (chunk === "VP8 ") return [view.getUint16(28, true) & 0x3fff, view.getUint16(26, true) & 0x3fff];
  if (chunk !== "VP8L") return undefined;
  const bits = view.getUint32(21, true);
  return [((bits >>> 14) & 0x3fff) + 1, (bits & 0x3fff) + 1];
}

function avifSize(bytes: Uint8Array, view: DataView): Size | undefined {
  for (let offset = 0; offset + 16 <= bytes.length; offset++)
    if (view.getUint32(offset) === 0x69737065) return [view.getUint32(offset + 12), view.getUint32(offset + 8)]; // "ispe"
  return undefined;
}
