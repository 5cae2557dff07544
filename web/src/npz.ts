/** golden.npz: a zip of .npy arrays, as NumPy writes them. */

import { unpack } from "./download";
import { SegmenterError } from "./errors";

export interface NpyArray {
  readonly data: Float32Array | Uint8Array;
  readonly shape: readonly number[];
}

const ARRAYS: Record<string, (bytes: ArrayBuffer) => Float32Array | Uint8Array> = {
  "<f4": (bytes) => new Float32Array(bytes),
  "|u1": (bytes) => new Uint8Array(bytes),
};

/** Name (without ".npy") -> array; at most `limit` unpacked bytes. Throws SegmenterError of kind "model". */
export async function readNpz(zip: Uint8Array, limit: number): Promise<Record<string, NpyArray>> {
  const arrays: Record<string, NpyArray> = {};
  let left = limit;
  try {
    for (const entry of centralDirectory(zip)) {
      const data = entry.method === 8 ? await unpack(entry.data, "deflate-raw", left) : entry.data;
      left -= data.length;
      if (left < 0) throw new Error(`more than ${limit} bytes`);
      arrays[entry.name.replace(/\.npy$/, "")] = readNpy(data);
    }
  } catch (error) {
    throw new SegmenterError("model", `golden.npz cannot be read (${String(error)}). Download the model again.`);
  }
  return arrays;
}

function* centralDirectory(zip: Uint8Array): Generator<{ name: string; method: number; data: Uint8Array }> {
  const view = new DataView(zip.buffer, zip.byteOffset, zip.byteLength);
  let end = zip.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("no end of central directory");
  let offset = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(offset, true) !== 0x02014b50) throw new Error("no central directory");
    const method = view.getUint16(offset + 10, true);
    const packed = view.getUint32(offset + 20, true);
    const nameLength = view.getUint16(offset + 28, true);
    const name = new TextDecoder().decode(zip.subarray(offset + 46, offset + 46 + nameLength));
    const local = view.getUint32(offset + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if ((method !== 0 && method !== 8) || start + packed > zip.length) throw new Error(`entry ${name}`);
    yield { name, method, data: zip.subarray(start, start + packed) };
    offset += 46 + nameLength + view.getUint16(offset + 30, true) + view.getUint16(offset + 32, true);
  }
}

function readNpy(bytes: Uint8Array): NpyArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = bytes[6]! > 1;
  const start = (long ? 12 : 10) + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const type = /'descr': '([^']+)'/.exec(header)?.[1] ?? "";
  const shape = /'shape': \(([\d, ]*)\)/.exec(header)?.[1];
  const make = ARRAYS[type];
  if (!make || shape === undefined || !/'fortran_order': False/.test(header)) throw new Error(`array ${header}`);
  return { data: make(bytes.slice(start).buffer), shape: shape.split(",").filter((size) => size.trim()).map(Number) };
}
