/** Files over HTTP: bounded, with progress, unpacked and hashed before anything reads them. */

import { sha256 } from "@noble/hashes/sha2.js";
import { SegmenterError } from "./errors";
import type { FileEntry } from "./manifest";

export type Progress = (loadedBytes: number, totalBytes: number) => void;

/** The bytes of a URL, at most `limit`. Throws SegmenterError of kind "model". */
export async function download(url: string, limit: number, progress?: Progress): Promise<Uint8Array> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "same-origin" });
  } catch (error) {
    throw new SegmenterError("model", `${url} cannot be fetched (${String(error)}). Is its server running?`);
  }
  if (!response.ok || !response.body)
    throw new SegmenterError("model", `${url} answers ${response.status}, expected 200. Check the folder's address.`);
  const parts: Uint8Array[] = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    loaded += value.length;
    if (loaded > limit) {
      void reader.cancel();
      throw new SegmenterError("model", `${url} has more than ${limit} bytes, expected at most that. Download it again.`);
    }
    parts.push(value);
    progress?.(loaded, limit);
  }
  return concatenate(parts, loaded);
}

/** A file of an artifact. Throws where its length or its hash is not the manifest's. */
export async function downloadChecked(
  url: string,
  entry: FileEntry,
  progress?: Progress,
): Promise<Uint8Array> {
  const data = await download(url, entry.bytes, progress);
  if (data.length !== entry.bytes)
    throw new SegmenterError("model", `${url} has ${data.length} bytes, expected ${entry.bytes}. Download it again.`);
  const hash = await hexDigest(data);
  if (hash !== entry.sha256)
    throw new SegmenterError(
      "model",
      `${url} is not the file that its manifest names (SHA-256 ${hash.slice(0, 12)}…, expected ` +
        `${entry.sha256.slice(0, 12)}…), so it is not run. Download the model's folder again.`,
    );
  return data;
}

/** Gunzip, unless a server already did (some answer `.gz` files with Content-Encoding). */
export async function gunzip(data: Uint8Array, limit: number): Promise<Uint8Array> {
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  return unpack(data, "gzip", limit);
}

/** Inflate at most `limit` bytes: what comes over a network may be made to unpack without end. */
export async function unpack(data: Uint8Array, format: CompressionFormat, limit: number): Promise<Uint8Array> {
  const stream = new Blob([data as BlobPart]).stream().pipeThrough(new DecompressionStream(format));
  const reader = stream.getReader();
  const parts: Uint8Array[] = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > limit) {
      void reader.cancel();
      throw new SegmenterError("model", `a compressed file unpacks to more than ${limit} bytes. Download it again.`);
    }
    parts.push(value);
  }
  return concatenate(parts, size);
}

export async function hexDigest(data: Uint8Array): Promise<string> {
  // Browsers have their own only on HTTPS and localhost; a phone that opens the page over a local network has not.
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await crypto.subtle.digest("SHA-256", data as BufferSource))
    : sha256(data);
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function concatenate(parts: Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
