/** Run lengths of masks, column by column, as COCO counts and compresses them. */

import type { Mask } from "./masks";

export interface CocoRle {
  readonly size: [height: number, width: number];
  readonly counts: string;
}

/** Alternating numbers of background and mask pixels down each column; the first may be 0. */
export function maskToCounts(mask: Mask): number[] {
  const [pictureHeight, pictureWidth] = mask.size;
  const counts: number[] = [];
  let position = 0; // pixels that are counted already
  let end = 0; // where the last run of the mask ended
  let start = -1; // where the present one began
  for (let x = 0; x < mask.width; x++) {
    position = (mask.left + x) * pictureHeight + mask.top;
    // A run that fills its column to the bottom goes on at the top of the next one.
    for (let y = 0, index = x; y < mask.height; y++, index += mask.width, position++) {
      if (mask.data[index]) {
        if (start < 0) start = position;
        continue;
      }
      if (start >= 0) {
        counts.push(start - end, position - start);
        end = position;
        start = -1;
      }
    }
    if (start >= 0 && (mask.top > 0 || mask.top + mask.height < pictureHeight || x === mask.width - 1)) {
      counts.push(start - end, position - start);
      end = position;
      start = -1;
    }
  }
  counts.push(pictureHeight * pictureWidth - end);
  if (counts.length > 1 && counts[counts.length - 1] === 0) counts.pop();
  return counts;
}

/**
 * COCO's compressed string: groups of 5 bits, low first, bit 6 for more, offset 48; from the fourth count on, the
 * difference to the count two before (rle.py reads it).
 */
export function countsToString(counts: readonly number[]): string {
  let text = "";
  counts.forEach((count, index) => {
    let value = index > 2 ? count - counts[index - 2]! : count;
    for (let more = true; more; ) {
      const group = value & 31;
      value >>= 5;
      more = group & 16 ? value !== -1 : value !== 0;
      text += String.fromCharCode(48 + (more ? group | 32 : group));
    }
  });
  return text;
}

export function maskToRle(mask: Mask): CocoRle {
  return { size: [mask.size[0], mask.size[1]], counts: countsToString(maskToCounts(mask)) };
}

/** The mask of a compressed string; its stability is not known. Throws RangeError where it does not fill the picture. */
export function rleToMask({ size, counts }: CocoRle): Mask {
  const [height, width] = size;
  const whole = new Uint8Array(height * width); // column by column
  let [position, inside] = [0, 0];
  let [top, left, bottom, right, area] = [height, width, -1, -1, 0];
  for (const count of stringToCounts(counts)) {
    if (count < 0 || position + count > whole.length) throw new RangeError("run lengths do not fit the picture");
    if (inside) {
      whole.fill(1, position, position + count);
      area += count;
    }
    position += count;
    inside ^= 1;
  }
  if (position !== whole.length) throw new RangeError("run lengths do not fill the picture");
  for (let x = 0, index = 0; x < width; x++)
    for (let y = 0; y < height; y++, index++) {
      if (!whole[index]) continue;
      if (x < left) left = x;
      right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
  const empty = bottom < 0;
  const box = empty
    ? { top: 0, left: 0, height: 0, width: 0 }
    : { top, left, height: bottom - top + 1, width: right - left + 1 };
  const data = new Uint8Array(box.height * box.width);
  for (let y = 0; y < box.height; y++)
    for (let x = 0; x < box.width; x++) data[y * box.width + x] = whole[(box.left + x) * height + box.top + y]!;
  return { data, ...box, size, area, stabilityScore: NaN };
}

function stringToCounts(text: string): number[] {
  const counts: number[] = [];
  let [value, shift] = [0, 0];
  for (const character of text) {
    const group = character.charCodeAt(0) - 48;
    if (group < 0 || group > 63 || shift > 25) throw new RangeError(`run lengths hold ${JSON.stringify(character)}`);
    value |= (group & 31) << shift;
    shift += 5;
    if (group & 32) continue;
    if (group & 16 && shift < 32) value |= -1 << shift; // the sign bit of the last group
    counts.push(value + (counts.length > 2 ? counts[counts.length - 2]! : 0));
    [value, shift] = [0, 0];
  }
  return counts;
}
