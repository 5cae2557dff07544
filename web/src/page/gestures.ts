/** From pointers and keys on the stage to what they mean: a click, a box, a look. */

import type { Box } from "../index";

export interface Place {
  readonly x: number;
  readonly y: number;
}

export interface Gestures {
  /** Where a pointer is, in the photo's pixels, inside the photo. */
  place(event: PointerEvent): Place;
  click(at: Place, label: 0 | 1, started: number): void;
  box(box: Box, started: number): void;
  /** While a box is drawn; undefined when it is not any more. */
  rubberBand(box: Box | undefined): void;
  /** A mouse that rests on the photo, undefined when it leaves. */
  hover(at: Place | undefined): void;
  /** What a plain click means. */
  mode(): 0 | 1;
}

const DRAG_PX = 6; // a hand that clicks may move so far
const LONG_PRESS_MS = 550;

export function listen(stage: HTMLElement, gestures: Gestures): void {
  let down: { event: PointerEvent; at: Place; dragging: boolean; press: ReturnType<typeof setTimeout> | undefined } | undefined;

  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || (event.button !== 0 && event.button !== 2)) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    const at = gestures.place(event);
    const press =
      event.pointerType === "mouse"
        ? undefined
        : setTimeout(() => {
            if (!down || down.dragging) return;
            down = undefined;
            gestures.click(at, 0, performance.now());
          }, LONG_PRESS_MS);
    down = { event, at, dragging: false, press };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    if (!down) return event.pointerType === "mouse" ? gestures.hover(gestures.place(event)) : undefined;
    const moved = Math.hypot(event.clientX - down.event.clientX, event.clientY - down.event.clientY);
    if (down.event.button === 0 && moved > DRAG_PX) down.dragging = true;
    if (down.dragging) gestures.rubberBand(between(down.at, gestures.place(event)));
  });
  stage.addEventListener("pointerup", (event) => {
    if (!down || !event.isPrimary) return;
    const { at, dragging, press, event: start } = down;
    clearTimeout(press);
    down = undefined;
    gestures.rubberBand(undefined);
    if (dragging) {
      const box = between(at, gestures.place(event));
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) gestures.box(box, event.timeStamp);
      return;
    }
    const background = start.button === 2 || start.shiftKey;
    const mode = gestures.mode();
    gestures.click(at, background ? 0 : mode, event.timeStamp);
  });
  stage.addEventListener("pointercancel", () => {
    clearTimeout(down?.press);
    down = undefined;
    gestures.rubberBand(undefined);
  });
  stage.addEventListener("pointerleave", () => gestures.hover(undefined));
}

export function between(a: Place, b: Place): Box {
  return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
}
