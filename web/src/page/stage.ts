/** The photo on the screen, with masks and marks over it. */

import type { ImageSet } from "../index";
import { element, photoCanvas, stage } from "./dom";
import type { Place } from "./gestures";
import { paintMarks, paintMasks } from "./painting";
import { history, state } from "./state";

const masksCanvas = element<HTMLCanvasElement>("masks");
const marks = element<SVGSVGElement>("marks");

export function pixelsPerScreenPixel(): number {
  return state.photo ? state.photo.set.size[1] / Math.max(1, stage.clientWidth) : 1;
}

export function paint(): void {
  const { photo, preview, rubberBand, cross } = state;
  if (!photo) return;
  const scale = pixelsPerScreenPixel();
  paintMasks(masksCanvas.getContext("2d")!, history.now, preview, scale);
  paintMarks(marks, photo.set.size, { labels: history.now, rubberBand, cross }, scale);
}

export function showPhoto({ size: [height, width], view }: ImageSet): void {
  for (const id of ["frame", "tools", "panel", "open"]) element(id).hidden = false;
  element("welcome").hidden = true;
  for (const canvas of [photoCanvas, masksCanvas]) [canvas.width, canvas.height] = [width, height];
  photoCanvas.getContext("2d")!.drawImage(view, 0, 0);
  fitStage();
}

/** As large as the frame allows, in the photo's proportions. */
export function fitStage(): void {
  if (!state.photo) return;
  const [height, width] = state.photo.set.size;
  const frame = element("frame");
  frame.style.setProperty("--ratio", String(width / height));
  const factor = Math.min(frame.clientWidth / width, frame.clientHeight / height);
  stage.style.width = `${Math.max(1, Math.floor(width * factor))}px`;
  stage.style.height = `${Math.max(1, Math.floor(height * factor))}px`;
  paint();
}

/** Where on the photo a pointer is, in its pixels, never outside. */
export function placeOf(event: PointerEvent): Place {
  const box = stage.getBoundingClientRect();
  const { height, width } = photoCanvas; // still the last photo's while the next of a folder is on its way
  const x = ((event.clientX - box.left) / box.width) * width;
  const y = ((event.clientY - box.top) / box.height) * height;
  return { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
}
