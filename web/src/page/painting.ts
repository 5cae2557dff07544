/** Masks and prompts over the photo. Objects differ in colour, and also in number and outline: colour is never alone. */

import type { Box, Mask, Size } from "../index";
import { currentObject, type Labels } from "./labels";

/** Okabe and Ito's colours, which people with colour blindness tell apart. */
const COLOURS = [
  [0, 114, 178],
  [230, 159, 0],
  [0, 158, 115],
  [204, 121, 167],
  [86, 180, 233],
  [213, 94, 0],
  [240, 228, 66],
] as const;
const FILL_ALPHA = 0.42;
const HATCH_PX = 8;
const SVG = "http://www.w3.org/2000/svg";

interface Style {
  readonly colour: readonly [number, number, number];
  /** Outline in picture pixels. */
  readonly outline: number;
  readonly hatched: boolean;
}

export function colourOf(id: number): readonly [number, number, number] {
  return COLOURS[(id - 1) % COLOURS.length]!;
}

const painted = new WeakMap<Mask, Map<string, OffscreenCanvas>>();

/** All masks, the current one last, and a preview. `scale`: picture pixels a screen pixel. */
export function paintMasks(
  context: CanvasRenderingContext2D,
  labels: Labels,
  preview: Mask | undefined,
  scale: number,
): void {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  const current = currentObject(labels);
  const thin = Math.max(1, Math.round(1.5 * scale));
  const others = labels.objects.filter((object) => object !== current);
  others.sort((a, b) => (b.mask?.area ?? 0) - (a.mask?.area ?? 0)); // small ones stay visible
  for (const { mask, id, proposed } of others)
    if (mask) draw(context, mask, { colour: colourOf(id), outline: thin, hatched: proposed });
  if (current?.mask) draw(context, current.mask, { colour: colourOf(current.id), outline: 2 * thin, hatched: false });
  if (preview) draw(context, preview, { colour: colourOf(labels.current), outline: thin, hatched: true });
}

function draw(context: CanvasRenderingContext2D, mask: Mask, style: Style): void {
  if (!mask.area) return;
  const key = JSON.stringify(style);
  const known = painted.get(mask) ?? new Map<string, OffscreenCanvas>();
  painted.set(mask, known);
  let canvas = known.get(key);
  if (!canvas) known.set(key, (canvas = maskCanvas(mask, style)));
  context.drawImage(canvas, mask.left, mask.top);
}

/** Fill, and an outline of white and the colour that is seen on any ground. */
function maskCanvas(mask: Mask, { colour, outline, hatched }: Style): OffscreenCanvas {
  const { width, height, data } = mask;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d")!;
  const picture = context.createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  const [red, green, blue] = colour;
  const rgb = (blue << 16) | (green << 8) | red;
  const fill = ((Math.round(FILL_ALPHA * 255) << 24) | rgb) >>> 0;
  const faint = ((Math.round(FILL_ALPHA * 90) << 24) | rgb) >>> 0;
  const edge = (0xff000000 | rgb) >>> 0;
  const depth = edgeDepth(mask, 2 * outline);
  for (let index = 0, y = 0; y < height; y++)
    for (let x = 0; x < width; x++, index++) {
      if (!data[index]) continue;
      const level = depth[index]!;
      if (level && level <= outline) pixels[index] = 0xffffffff;
      else if (level) pixels[index] = edge;
      else pixels[index] = hatched && (x + y) % (2 * HATCH_PX) < HATCH_PX ? faint : fill;
    }
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** For each pixel of the mask: 1 at its edge, 2 behind that, up to `most`; 0 further in. The photo's border is no edge. */
function edgeDepth({ data, width, height, left, top, size }: Mask, most: number): Uint8Array {
  const depth = new Uint8Array(width * height);
  const open = [top > 0, left > 0, top + height < size[0], left + width < size[1]];
  let front: number[] = [];
  for (let y = 0, index = 0; y < height; y++)
    for (let x = 0; x < width; x++, index++) {
      if (!data[index]) continue;
      const above = y ? !data[index - width] : open[0];
      const before = x ? !data[index - 1] : open[1];
      const below = y < height - 1 ? !data[index + width] : open[2];
      const after = x < width - 1 ? !data[index + 1] : open[3];
      if (above || before || below || after) {
        depth[index] = 1;
        front.push(index);
      }
    }
  for (let level = 2; level <= most; level++) {
    const next: number[] = [];
    const reach = (index: number): void => {
      if (data[index] && !depth[index]) {
        depth[index] = level;
        next.push(index);
      }
    };
    for (const index of front) {
      const x = index % width;
      if (index >= width) reach(index - width);
      if (index + width < depth.length) reach(index + width);
      if (x > 0) reach(index - 1);
      if (x < width - 1) reach(index + 1);
    }
    front = next;
  }
  return depth;
}

export interface Marks {
  readonly labels: Labels;
  readonly rubberBand: Box | undefined;
  readonly cross: { x: number; y: number } | undefined;
}

/** Points (+ in a circle, − in a square), the box, object numbers, the keyboard's cross. `scale` as above. */
export function paintMarks(svg: SVGSVGElement, size: Size, { labels, rubberBand, cross }: Marks, scale: number): void {
  svg.setAttribute("viewBox", `0 0 ${size[1]} ${size[0]}`);
  svg.replaceChildren();
  const add = (tag: string, attributes: Record<string, string | number>, text = ""): void => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    element.textContent = text;
    svg.append(element);
  };
  const drawBox = ([x0, y0, x1, y1]: Box, dashes: string): void => {
    const at = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: "none" };
    add("rect", { ...at, stroke: "#000", "stroke-width": 4 * scale });
    add("rect", { ...at, stroke: "#fff", "stroke-width": 2 * scale, "stroke-dasharray": dashes });
  };
  const object = currentObject(labels);
  if (object?.box) drawBox(object.box, "");
  if (rubberBand) drawBox(rubberBand, `${6 * scale} ${4 * scale}`);
  if (labels.objects.length > 1)
    for (const { id, mask } of labels.objects) if (mask?.area) drawNumber(add, id, mask, scale);
  for (const { x, y, label } of object?.points ?? []) {
    const shape = { fill: label ? "#0b6e4f" : "#9b1c1c", stroke: "#fff", "stroke-width": 2 * scale };
    const r = 8 * scale;
    if (label) add("circle", { cx: x, cy: y, r, ...shape });
    else add("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...shape });
    const arm = 4.5 * scale;
    const bars = `M${x - arm} ${y}h${2 * arm}${label ? `M${x} ${y - arm}v${2 * arm}` : ""}`;
    add("path", { d: bars, stroke: "#fff", "stroke-width": 2.4 * scale, fill: "none" });
  }
  if (cross) {
    const arm = 14 * scale;
    const d = `M${cross.x - arm} ${cross.y}h${2 * arm}M${cross.x} ${cross.y - arm}v${2 * arm}`;
    add("path", { d, stroke: "#000", "stroke-width": 4 * scale });
    add("path", { d, stroke: "#fff", "stroke-width": 2 * scale });
  }
}

type Add = (tag: string, attributes: Record<string, string | number>, text?: string) => void;

function drawNumber(add: Add, id: number, mask: Mask, scale: number): void {
  const { x, y } = insidePoint(mask);
  const [red, green, blue] = colourOf(id);
  const light = red * 0.3 + green * 0.6 + blue * 0.1 > 140;
  add("circle", { cx: x, cy: y, r: 10 * scale, fill: `rgb(${red} ${green} ${blue})`, stroke: "#fff", "stroke-width": 1.5 * scale });
  const text = { "text-anchor": "middle", "dominant-baseline": "central", "font-weight": 700, "font-family": "sans-serif" };
  add("text", { x, y, "font-size": 12 * scale, fill: light ? "#000" : "#fff", ...text }, String(id));
}

/** The middle of the longest run in the mask's middle rows: a point that lies on it. */
function insidePoint({ data, width, height, left, top }: Mask): { x: number; y: number } {
  let best = { length: 0, x: 0, y: 0 };
  for (const share of [0.5, 0.35, 0.65, 0.2, 0.8]) {
    const y = Math.floor(height * share);
    for (let x = 0, run = 0; x <= width; x++) {
      if (x < width && data[y * width + x]) run++;
      else {
        if (run > best.length) best = { length: run, x: x - run / 2, y };
        run = 0;
      }
    }
  }
  return { x: left + best.x, y: top + best.y + 0.5 };
}
