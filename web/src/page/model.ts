/** The engine: the model of this site, loaded into its worker. */

import { Segmenter } from "../index";
import type { SiteSettings } from "./site";
import { showEngine } from "./speed";
import { state } from "./state";
import { complain, say } from "./status";

export async function loadModel({ model, webgpu }: SiteSettings): Promise<Segmenter | undefined> {
  try {
    const segmenter = await Segmenter.load(new URL(model, document.baseURI), {
      workerUrl: new URL("worker.js", document.baseURI),
      backend: webgpu ? "auto" : "wasm",
      onProgress: (loaded, total) => {
        if (!state.photo) say(`Loading the model: ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
      },
    });
    state.segmenter = segmenter;
    showEngine();
    if (!state.photo) say("Ready. Choose a photo.");
    return segmenter;
  } catch (error) {
    state.modelError = error;
    complain(error);
    return undefined;
  }
}
