/** The page, joined together: what is shown after a change, what is listened to, what is loaded. */

import { Segmenter } from "../index";
import { element, helpText } from "./dom";
import { keepSite } from "./keep";
import { listenToKeys } from "./keyboard";
import { listenToFolder, openFolder } from "./labelling";
import { loadModel } from "./model";
import { showObjects } from "./objects";
import { listenForPhotos, showExamples } from "./opening";
import { listenToPointer } from "./pointer";
import { hoverMostQueued } from "./preview";
import { clearObject, newObject, otherMask, step } from "./prompting";
import { currentDocument, listenToExports } from "./saving";
import { toggleSearch } from "./search";
import { readSettings } from "./site";
import { check, showTimings } from "./speed";
import { fitStage, paint } from "./stage";
import { history, onChange, state, timings } from "./state";
import { complain, idle } from "./status";
import { showTools } from "./tools";

onChange(() => {
  paint();
  showTools();
  showObjects();
  showTimings();
});

const buttons: Record<string, () => void> = {
  undo: () => step("undo"),
  redo: () => step("redo"),
  clear: clearObject,
  alternative: () => void otherMask(),
  new: newObject,
  everything: () => void toggleSearch(),
  help: () => helpText.showModal(),
  check: () => void check(),
};
for (const [id, action] of Object.entries(buttons)) element(id).addEventListener("click", action);
listenForPhotos();
listenToPointer();
listenToKeys();
listenToExports();
listenToFolder();
new ResizeObserver(fitStage).observe(element("frame"));

const settings = readSettings();
state.ready = settings.then(loadModel);
void settings
  .then(({ examples, folder }) => {
    showExamples(examples);
    return folder ? openFolder() : undefined;
  })
  .catch(complain);
// After the model: the first visit's own downloads come first, and its copies are then in the browser's HTTP cache.
const kept = state.ready.then(async (segmenter) => (segmenter ? keepSite(await settings) : false));

/** For tests and for automation: what the page knows, and the engine. */
Object.assign(window, {
  samEdge: {
    ready: state.ready,
    kept,
    Segmenter,
    labels: () => history.now,
    photo: () => state.photo && { name: state.photo.name, size: state.photo.set.size, originalSize: state.photo.set.originalSize },
    document: () => currentDocument(),
    idle,
    timings: () => ({
      clicksMs: [...timings.clicks.values],
      encodeMs: timings.encodeMs,
      firstMaskMs: timings.firstMaskMs,
      hoverMostQueued: hoverMostQueued(),
    }),
  },
});
