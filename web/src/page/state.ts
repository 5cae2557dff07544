/** What the page knows: the engine, one photo, its labels, what is under way. Nothing here touches the document. */

import type { Box, ImageSet, Mask, Segmenter } from "../index";
import type { Place } from "./gestures";
import { History, type Labels } from "./labels";
import { Durations } from "./timings";

export interface OpenPhoto {
  readonly name: string;
  readonly file: Blob;
  readonly set: ImageSet;
}

interface State {
  /** The engine once it is loaded; undefined, with `modelError`, where it cannot be. */
  ready: Promise<Segmenter | undefined>;
  segmenter: Segmenter | undefined;
  modelError: unknown;
  photo: OpenPhoto | undefined;
  /** How many photos were asked for: answers about an earlier one are dropped. */
  opened: number;
  preview: Mask | undefined;
  rubberBand: Box | undefined;
  /** The keyboard's pointer, and the first corner of the box that it draws. */
  cross: Place | undefined;
  boxCorner: Place | undefined;
  searching: boolean;
  unsaved: boolean;
  /** Does the next visit work without a network? Undefined where nobody tried. */
  kept: boolean | undefined;
}

export const state: State = {
  ready: Promise.resolve(undefined),
  segmenter: undefined,
  modelError: undefined,
  photo: undefined,
  opened: 0,
  preview: undefined,
  rubberBand: undefined,
  cross: undefined,
  boxCorner: undefined,
  searching: false,
  unsaved: false,
  kept: undefined,
};

export const history = new History();

export const timings = {
  clicks: new Durations(),
  encodeMs: undefined as number | undefined,
  firstMaskMs: undefined as number | undefined,
};

// Whoever changes something does not know who shows it: so that imports point one way, main.ts says it here.
let show: () => void = () => undefined;

export function onChange(listener: () => void): void {
  show = listener;
}

/** Show everything anew. */
export function changed(): void {
  show();
}

/** One more step of the history. */
export function change(labels: Labels): void {
  history.push(labels);
  state.unsaved = true;
  state.preview = undefined;
  changed();
}
