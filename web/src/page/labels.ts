/** What a person has made of a photo: objects, and every step back. Plain data; nothing here touches a page. */

import type { Answer, Box, Cells, CocoRle, Mask, Point } from "../index";

export interface LabelledObject {
  readonly id: number;
  readonly name: string;
  readonly points: readonly Point[];
  readonly box: Box | undefined;
  /** The four masks of the last prediction; empty for what was found or restored. */
  readonly answers: readonly Answer[];
  readonly choice: number;
  readonly predictedIou: number;
  readonly mask: Mask | undefined;
  readonly cells: Cells | undefined;
  /** Found by a search, not clicked. */
  readonly proposed: boolean;
  /** Of a file that was saved earlier; such an object can be named and removed, not changed. */
  readonly saved: SavedAnnotation | undefined;
}

export interface SavedAnnotation {
  readonly segmentation: CocoRle;
  readonly bbox: readonly number[];
  readonly area: number;
  readonly stability_score: number;
  readonly point_coords: readonly (readonly number[])[];
}

export interface Labels {
  readonly objects: readonly LabelledObject[];
  /** The object that clicks change. */
  readonly current: number;
}

const EMPTY_OBJECT = {
  name: "",
  points: [],
  box: undefined,
  answers: [],
  choice: 0,
  predictedIou: 0,
  mask: undefined,
  cells: undefined,
  proposed: false,
  saved: undefined,
} as const;

export function noLabels(): Labels {
  return { objects: [], current: 1 };
}

export function makeObject(id: number, given: Partial<LabelledObject> = {}): LabelledObject {
  return { ...EMPTY_OBJECT, ...given, id };
}

export function currentObject(labels: Labels): LabelledObject | undefined {
  return labels.objects.find(({ id }) => id === labels.current);
}

/** The object that a click belongs to: the current one, or a new one where that cannot be changed. */
export function editable(labels: Labels): LabelledObject {
  const object = currentObject(labels);
  return object && (object.points.length || object.box) ? object : makeObject(object ? nextId(labels) : labels.current);
}

/** With `object` in its place, or at the end, and current. */
export function withObject(labels: Labels, object: LabelledObject): Labels {
  const known = labels.objects.some(({ id }) => id === object.id);
  const objects = known
    ? labels.objects.map((other) => (other.id === object.id ? object : other))
    : [...labels.objects, object];
  return { objects, current: object.id };
}

export function withoutObject(labels: Labels, id: number): Labels {
  return { ...labels, objects: labels.objects.filter((object) => object.id !== id) };
}

export function renamed(labels: Labels, id: number, name: string): Labels {
  return { ...labels, objects: labels.objects.map((object) => (object.id === id ? { ...object, name } : object)) };
}

/** The next click begins another object. */
export function startObject(labels: Labels): Labels {
  return { ...labels, current: nextId(labels) };
}

export function nextId(labels: Labels): number {
  return Math.max(0, ...labels.objects.map(({ id }) => id)) + 1;
}

/** Labels, and the way back and forth. */
export class History {
  private states: Labels[] = [noLabels()];
  private place = 0;

  get now(): Labels {
    return this.states[this.place]!;
  }

  get canUndo(): boolean {
    return this.place > 0;
  }

  get canRedo(): boolean {
    return this.place < this.states.length - 1;
  }

  push(labels: Labels): void {
    this.states = [...this.states.slice(Math.max(0, this.place - MAX_STEPS), this.place + 1), labels];
    this.place = this.states.length - 1;
  }

  /** Change the present without a step: a name while it is typed. */
  replace(labels: Labels): void {
    this.states[this.place] = labels;
  }

  undo(): void {
    if (this.canUndo) this.place--;
  }

  redo(): void {
    if (this.canRedo) this.place++;
  }

  reset(labels: Labels = noLabels()): void {
    this.states = [labels];
    this.place = 0;
  }
}

const MAX_STEPS = 200; // a step holds logits of four masks
