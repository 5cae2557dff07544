/** Mouse, pen and fingers on the photo. */

import { stage } from "./dom";
import { listen } from "./gestures";
import { hover } from "./preview";
import { boxAt, clickAt } from "./prompting";
import { paint, placeOf } from "./stage";
import { state } from "./state";

export function listenToPointer(): void {
  listen(stage, {
    place: placeOf,
    click: clickAt,
    box: boxAt,
    rubberBand(box) {
      state.rubberBand = box;
      if (box) state.preview = undefined;
      paint();
    },
    hover,
    mode: () => (document.querySelector<HTMLInputElement>('input[name="mode"]:checked')!.value === "1" ? 1 : 0),
  });
}
