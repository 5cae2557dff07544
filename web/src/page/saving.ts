/** The labels of a photo as files that a person keeps. */

import { SegmenterError } from "../index";
import { toCoco, toSa1b, type Sa1bDocument } from "./annotations";
import { photoCanvas } from "./dom";
import { currentObject } from "./labels";
import { cutoutPng, maskPng, saveFile } from "./pictures";
import { history, state } from "./state";
import { inTurn, say } from "./status";

export function currentDocument(): Promise<Sa1bDocument> {
  const { name, set } = state.photo!;
  return toSa1b(state.segmenter!, name, set.originalSize, set.size, history.now.objects);
}

export function listenToExports(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export]"))
    button.addEventListener("click", () => void inTurn(() => exportAs(button.dataset["export"]!)));
}

async function exportAs(kind: string): Promise<void> {
  const { segmenter, photo } = state;
  if (!segmenter || !photo) return;
  const { name, file, set } = photo;
  const stem = name.replace(/\.[^.]*$/, "");
  const object = currentObject(history.now);
  const part = object ? `.${object.name.replace(/[^\p{L}\p{N}_-]+/gu, "-") || `object-${object.id}`}` : "";
  if (kind === "cutout" || kind === "mask") {
    if (!object?.cells) throw new SegmenterError("prompt", "no object is chosen. Click on one first.");
    const content =
      kind === "mask"
        ? await maskPng(segmenter, object.cells, set.originalSize)
        : await cutoutPng(segmenter, object.cells, file, photoCanvas, set.originalSize);
    saveFile(`${stem}${part}.${kind}.png`, content);
  } else {
    const document = await currentDocument();
    const content = JSON.stringify(kind === "coco" ? toCoco(document) : document);
    saveFile(`${stem}${kind === "coco" ? ".coco" : ""}.json`, new Blob([content], { type: "application/json" }));
  }
  say("Saved to your downloads.");
}
