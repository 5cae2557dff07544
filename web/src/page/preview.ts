/** What a click would give, under a mouse that rests; and the click that is answered by it. */

import type { Answers, Prompt } from "../index";
import type { Place } from "./gestures";
import { currentObject } from "./labels";
import { Latest } from "./latest";
import { paint } from "./stage";
import { history, state } from "./state";

let hovering = false;
/** What the last preview asked: a click where the pointer rests is answered by it, and not asked again. */
let hovered: { at: Place; asked: number; prediction: Promise<Answers> } | undefined;

const latest = new Latest<Place>(async (at) => {
  const { segmenter, photo, opened: asked } = state;
  if (!segmenter || !photo || !mayPreview()) return;
  const given: Prompt = { points: [{ ...at, label: 1 }] };
  const prediction = previewed(given, asked) ?? segmenter.predict(given);
  hovered = { at, asked, prediction };
  const { answers } = await prediction;
  if (asked !== state.opened || !mayPreview() || !hovering) return;
  state.preview = answers[0]!.mask;
  paint();
});

/** A mouse that moved over the photo, or left it. */
export function hover(at: Place | undefined): void {
  hovering = at !== undefined;
  if (at && mayPreview()) return latest.ask(at);
  latest.cancel();
  if (!state.preview) return;
  state.preview = undefined;
  paint();
}

/** Something else was asked for: what waits is not looked at any more. */
export function forgetHover(): void {
  latest.cancel();
}

/** The answer to this very prompt, where the preview has asked it already. */
export function previewed({ points, box, maskInput }: Prompt, asked: number): Promise<Answers> | undefined {
  const [click, ...more] = points ?? [];
  if (!hovered || hovered.asked !== asked || box || maskInput || more.length || click?.label !== 1) return undefined;
  return click.x === hovered.at.x && click.y === hovered.at.y ? hovered.prediction : undefined;
}

/** The most previews that ever ran or waited together. */
export function hoverMostQueued(): number {
  return latest.mostQueued;
}

/** Only before the first click on an object: afterwards the mask is what was clicked. */
function mayPreview(): boolean {
  const object = currentObject(history.now);
  return !state.searching && !(object && (object.points.length || object.box));
}
