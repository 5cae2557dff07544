/** A photo comes in: chosen, dropped, pasted, or one of the examples. */

import { SegmenterError } from "../index";
import { element } from "./dom";
import { forgetHover } from "./preview";
import { stopSearch } from "./search";
import { showEngine } from "./speed";
import { showPhoto } from "./stage";
import { changed, history, state, timings } from "./state";
import { complain, inTurn, say } from "./status";

export interface Example {
  readonly file: string;
  readonly title: string;
}

export async function open(name: string, file: Blob): Promise<void> {
  const asked = ++state.opened;
  forgetHover();
  if (state.searching) void stopSearch();
  await inTurn(async () => {
    if (asked !== state.opened) return;
    say(state.segmenter ? "Reading the photo…" : "Loading the model…");
    const segmenter = await state.ready;
    if (!segmenter) throw state.modelError;
    if (asked !== state.opened) return;
    say("Reading the photo…");
    const set = await segmenter.setImage(file);
    if (asked !== state.opened) return set.view.close();
    state.photo = { name, file, set };
    timings.encodeMs = set.timings.encodeMs;
    history.reset();
    [state.preview, state.cross, state.boxCorner, state.unsaved] = [undefined, undefined, undefined, false];
    showPhoto(set);
    changed();
    void segmenter.refreshState().then(showEngine); // a lost device changes where it runs
    const [height, width] = set.originalSize;
    const shrunk = set.size[0] === height ? "" : ` (${(width * height * 1e-6).toFixed(0)} megapixels; shown smaller, saved whole)`;
    say(`Click on an object, or drag a box around one.${shrunk}`);
    window.dispatchEvent(new Event("photo-ready"));
  });
}

/** The button's dialog, what is dropped anywhere on the page, and what is pasted. */
export function listenForPhotos(): void {
  const file = element<HTMLInputElement>("file");
  for (const id of ["pick", "open"]) element(id).addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    openFiles(file.files, "");
    file.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData }) => openTransfer(clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    openTransfer(event.dataTransfer);
  });
}

function openTransfer(transfer: DataTransfer | null): void {
  openFiles(transfer?.files, transfer?.getData("text/uri-list") ?? "");
}

function openFiles(files: FileList | undefined | null, address: string): void {
  const file = files?.[0];
  if (file) void open(file.name || "pasted.png", file);
  else if (address)
    complain(new SegmenterError("image", "that is the address of a picture, not the picture: this page fetches nothing. Save it first, then drop the file."));
}

export function showExamples(examples: readonly Example[]): void {
  element("examples").replaceChildren(
    ...examples.map(({ file, title }) => {
      const button = document.createElement("button");
      const picture = document.createElement("img");
      button.type = "button";
      [picture.src, picture.alt] = [file, ""];
      button.append(picture, title);
      button.onclick = () => void openExample(file);
      return button;
    }),
  );
}

async function openExample(file: string): Promise<void> {
  try {
    const response = await fetch(file);
    if (!response.ok) throw new SegmenterError("image", `the example is missing (${response.status}).`);
    await open(file.split("/").pop()!, await response.blob());
  } catch (error) {
    complain(error);
  }
}
