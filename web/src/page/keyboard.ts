/** Keys: commands anywhere, and on the photo a cross that clicks and draws boxes. */

import { helpText, stage } from "./dom";
import { between, type Place } from "./gestures";
import { save } from "./labelling";
import { boxAt, clearObject, clickAt, newObject, otherMask, step } from "./prompting";
import { stopSearch, toggleSearch } from "./search";
import { paint, pixelsPerScreenPixel } from "./stage";
import { state } from "./state";
import { say } from "./status";

const STEP_PX = 4;
const STEP_SHIFT_PX = 24;
const MOVES: Readonly<Record<string, readonly [number, number]>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

type Action = () => void;

export function listenToKeys(): void {
  document.addEventListener("keydown", onKey);
}

function onKey(event: KeyboardEvent): void {
  if (event.target instanceof HTMLInputElement && event.target.type === "text") {
    if (event.key === "Enter" || event.key === "Escape") event.target.blur();
    return;
  }
  if (helpText.open || event.altKey) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const actions: Record<string, Action> = command
    ? { z: () => step(event.shiftKey ? "redo" : "undo"), y: () => step("redo") }
    : {
        m: () => void otherMask(),
        n: newObject,
        e: () => void toggleSearch(),
        s: save,
        "?": () => helpText.showModal(),
        escape: () => (state.searching ? void stopSearch() : state.boxCorner ? dropCorner() : clearObject()),
      };
  const action = actions[key] ?? (command ? undefined : stageKey(event));
  if (!action) return;
  event.preventDefault();
  action();
}

/** Keys that need the photo: the cross and what it clicks. */
function stageKey(event: KeyboardEvent): Action | undefined {
  if (!state.photo || document.activeElement !== stage) return undefined;
  const [height, width] = state.photo.set.size;
  const here = state.cross ?? { x: width / 2, y: height / 2 };
  const move = MOVES[event.key];
  if (move)
    return () => {
      const distance = (event.shiftKey ? STEP_SHIFT_PX : STEP_PX) * pixelsPerScreenPixel();
      const x = Math.min(width - 1, Math.max(0, here.x + move[0] * distance));
      const y = Math.min(height - 1, Math.max(0, here.y + move[1] * distance));
      state.cross = { x, y };
      state.rubberBand = state.boxCorner && between(state.boxCorner, state.cross);
      paint();
    };
  if (event.key === "Enter" || event.key === " ") return () => clickAt(here, event.shiftKey ? 0 : 1, event.timeStamp);
  if (event.key.toLowerCase() === "b") return () => corner(here, event.timeStamp);
  return undefined;
}

/** The first corner of a box, or the second, which draws it. */
function corner(here: Place, started: number): void {
  if (!state.boxCorner) {
    state.boxCorner = state.cross = here;
    say("First corner set. Move the cross to the opposite one and press B.");
    return paint();
  }
  const box = between(state.boxCorner, here);
  dropCorner();
  if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) boxAt(box, started);
}

function dropCorner(): void {
  [state.boxCorner, state.rubberBand] = [undefined, undefined];
  paint();
}
