/** Find everything: what a search of the whole photo finds becomes objects beside those that are there. */

import { element } from "./dom";
import * as edit from "./labels";
import { change, changed, history, state } from "./state";
import { complain, say } from "./status";

export interface SearchOptions {
  readonly pointsPerSide: number;
  readonly predIouThresh?: number;
  readonly stabilityScoreThresh?: number;
}

export async function search(options: SearchOptions): Promise<void> {
  const { segmenter, photo, opened: asked } = state;
  if (!segmenter || !photo || state.searching) return;
  const bar = element<HTMLProgressElement>("everything-progress");
  state.searching = true;
  state.preview = undefined;
  bar.hidden = false;
  changed();
  try {
    const found = await segmenter.everything(options, (done, total) => {
      [bar.value, bar.max] = [done, total];
      say(`Searching: ${done} of ${total} points. “Stop” ends it.`);
    });
    if (asked !== state.opened) return;
    const first = edit.nextId(history.now);
    const objects = found.map(({ mask, cells, predictedIou, point: [x, y] }, index) =>
      edit.makeObject(first + index, { mask, cells, predictedIou, proposed: true, points: [{ x, y, label: 1 }] }),
    );
    change(edit.startObject({ ...history.now, objects: [...history.now.objects, ...objects] }));
    say(`${found.length} objects found. Remove what is wrong, click on what is missing; choose one in the list to save it alone.`);
  } finally {
    state.searching = false;
    bar.hidden = true;
    changed();
  }
}

export async function stopSearch(): Promise<void> {
  await state.segmenter?.stop();
}

/** The button, which says “Stop” meanwhile. */
export async function toggleSearch(): Promise<void> {
  if (state.searching) return stopSearch();
  await search({ pointsPerSide: Number(element<HTMLSelectElement>("grid").value) }).catch(complain);
}
