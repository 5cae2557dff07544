/** Clicks and boxes become prompts, prompts become the current object's mask. */

import type { Box, Prompt } from "../index";
import type { Place } from "./gestures";
import * as edit from "./labels";
import { forgetHover, previewed } from "./preview";
import { paint } from "./stage";
import { change, changed, history, state, timings } from "./state";
import { inTurn, say } from "./status";

export function clickAt({ x, y }: Place, label: 0 | 1, started: number): void {
  void prompt((object) => ({ ...object, points: [...object.points, { x, y, label }] }), started);
}

export function boxAt(box: Box, started: number): void {
  void prompt((object) => ({ ...edit.makeObject(object.id, { name: object.name }), box }), started);
}

/** The current object with one more prompt, predicted anew from its mask so far. `started`: the event's time. */
function prompt(add: (object: edit.LabelledObject) => edit.LabelledObject, started: number): Promise<void> {
  forgetHover();
  const asked = state.opened;
  return inTurn(async () => {
    const { segmenter, photo } = state;
    if (!segmenter || !photo || asked !== state.opened) return;
    const before = edit.editable(history.now);
    const object = add(before);
    const given: Prompt = {
      points: object.points,
      ...(object.box ? { box: object.box } : {}),
      ...(before.answers.length ? { maskInput: before.answers[before.choice]!.logits } : {}),
    };
    const { answers } = await (previewed(given, asked) ?? segmenter.predict(given));
    if (asked !== state.opened) return;
    const { mask, cells, predictedIou } = answers[0]!;
    const drawn = { ...object, answers, choice: 0, mask, cells, predictedIou };
    history.push(edit.withObject(history.now, drawn));
    state.unsaved = true;
    state.preview = undefined;
    paint(); // the mask before the lists: it is what the time of a click ends with
    timings.clicks.add(performance.now() - started);
    timings.firstMaskMs ??= performance.now();
    changed();
    say(mask?.area ? hint(drawn) : "Nothing was found there. Click on the middle of an object.");
  });
}

function hint({ points, box }: edit.LabelledObject): string {
  const count = points.length + (box ? 1 : 0);
  if (count === 1)
    return matchMedia("(pointer: coarse)").matches
      ? "Too much? Choose “− Remove” and tap there. Too little? Tap on what is missing."
      : "Too much? Right-click there. Too little? Click on what is missing. M shows other masks.";
  return "Good? Save it to a file, or start a new object.";
}

export function otherMask(): Promise<void> {
  return inTurn(async () => {
    const { segmenter } = state;
    const object = edit.currentObject(history.now);
    if (!segmenter || !object?.answers.length) return;
    const choice = (object.choice + 1) % object.answers.length;
    const answer = object.answers[choice]!;
    const { mask, cells } = await segmenter.upscale(answer.logits);
    change(edit.withObject(history.now, { ...object, choice, mask, cells, predictedIou: answer.predictedIou }));
    say(`Mask ${choice + 1} of ${object.answers.length}.`);
  });
}

export function newObject(): void {
  if (!state.photo || !edit.currentObject(history.now)) return;
  change(edit.startObject(history.now));
  say("Click on the next object.");
}

export function clearObject(): void {
  if (edit.currentObject(history.now)) change(edit.withoutObject(history.now, history.now.current));
}

export function step(way: "undo" | "redo"): void {
  void inTurn(async () => {
    history[way]();
    state.preview = undefined;
    state.unsaved = true;
    changed();
  });
}
