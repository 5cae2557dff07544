import assert from "node:assert/strict";
import { test } from "node:test";
import { hasSimd } from "./segmenter";
import { readHeader } from "./photo";

const ascii = (text: string): number[] => Array.from(text, (character) => character.charCodeAt(0));

test("sizes are read from the first bytes", () => {
  const png = Uint8Array.from([...ascii("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13, ...ascii("IHDR"), 0, 0, 1, 0, 0, 0, 0, 200]);
  assert.deepEqual(readHeader(png), { format: "PNG", size: [200, 256] });
  const gif = Uint8Array.from([...ascii("GIF89a"), 44, 1, 200, 0]);
  assert.deepEqual(readHeader(gif), { format: "GIF", size: [200, 300] });
  const jpeg = Uint8Array.from([0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc2, 0, 17, 8, 0, 200, 1, 44, 3, 0, 0, 0]);
  assert.deepEqual(readHeader(jpeg), { format: "JPEG", size: [200, 300] });
  const webp = Uint8Array.from([...ascii("RIFF0000WEBPVP8X"), 10, 0, 0, 0, 0, 0, 0, 0, 43, 1, 0, 199, 0, 0]);
  assert.deepEqual(readHeader(webp), { format: "WebP", size: [200, 300] });
});

test("what is no picture has no header, and a short one no size", () => {
  assert.equal(readHeader(new TextEncoder().encode("<svg xmlns='http://www.w3.org/2000/svg'/>")), undefined);
  assert.equal(readHeader(new Uint8Array()), undefined);
  assert.deepEqual(readHeader(Uint8Array.from([...ascii("GIF89a")])), { format: "picture" });
});

test("the probe for WebAssembly SIMD is a valid module", () => {
  assert.equal(hasSimd(), true);
});
