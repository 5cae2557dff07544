/** Labelling a folder: photo after photo, in one of three gears, saved beside each. */

import { rleToMask, SegmenterError } from "../index";
import type { Sa1bDocument } from "./annotations";
import { element } from "./dom";
import { fetchAnnotation, fetchPhoto, listPhotos, saveAnnotation, type FolderPhoto } from "./folder";
import { makeObject } from "./labels";
import { open } from "./opening";
import { scaledMask } from "./pictures";
import { currentDocument } from "./saving";
import { search } from "./search";
import { changed, history, state } from "./state";
import { complain, say } from "./status";

// Semi-automatic: only what the model is this sure of is proposed.
const SURE = { predIouThresh: 0.85, stabilityScoreThresh: 0.85 };
const SURE_POINTS = 16;
const AUTOMATIC_POINTS = 32;

let folder: { photos: FolderPhoto[]; place: number } | undefined;

export async function openFolder(): Promise<void> {
  const photos = await listPhotos();
  if (!photos.length) return complain(new SegmenterError("image", "this folder has no photo. Put some into it and reload."));
  folder = { photos, place: Math.max(0, photos.findIndex(({ labelled }) => !labelled)) };
  element("folder").hidden = false;
  await openPlace(folder.place);
}

export function listenToFolder(): void {
  element("save").addEventListener("click", save);
  element("previous").addEventListener("click", () => go(-1));
  element("next").addEventListener("click", () => go(1));
  element("gear").addEventListener("change", () => {
    if (state.photo && !history.now.objects.length && gear() !== "assisted") void openPlace(folder!.place);
  });
  window.addEventListener("beforeunload", (event) => {
    if (folder && state.unsaved && history.now.objects.length) event.preventDefault();
  });
}

/** Write what there is, and go on; without a folder nothing happens. */
export function save(): void {
  void saveAndGoOn().catch(complain);
}

function gear(): string {
  return element<HTMLSelectElement>("gear").value;
}

async function openPlace(place: number): Promise<void> {
  if (!folder || !folder.photos[place]) return;
  folder.place = place;
  const { name, labelled } = folder.photos[place];
  const done = folder.photos.filter((one) => one.labelled).length;
  element("folder-place").textContent = `${name}${labelled ? " ✓" : ""} · ${place + 1} of ${folder.photos.length} · ${done} done`;
  element<HTMLButtonElement>("previous").disabled = place === 0;
  element<HTMLButtonElement>("next").disabled = place === folder.photos.length - 1;
  state.photo = undefined;
  try {
    await open(name, await fetchPhoto(name));
    if (!state.photo || folder.place !== place) return;
    if (labelled) restore(await fetchAnnotation(name));
    else if (gear() === "semi") await search({ ...SURE, pointsPerSide: gearPoints(SURE_POINTS) });
    else if (gear() === "automatic") await labelAndGoOn();
  } catch (error) {
    complain(error);
  }
}

/** `?points=` in the address: a coarser grid than `most` for the gears that search by themselves. */
function gearPoints(most: number): number {
  const asked = Number(new URLSearchParams(location.search).get("points"));
  return Number.isInteger(asked) && asked > 0 ? Math.min(asked, most) : most;
}

async function labelAndGoOn(): Promise<void> {
  await search({ pointsPerSide: gearPoints(AUTOMATIC_POINTS) });
  if (gear() === "automatic") await saveAndGoOn();
}

function restore(document: Sa1bDocument | null): void {
  if (!document || !state.photo) return;
  const { size } = state.photo.set;
  const objects = document.annotations.map((annotation, index) =>
    makeObject(index + 1, {
      name: annotation.category ?? "",
      predictedIou: annotation.predicted_iou,
      mask: scaledMask(rleToMask(annotation.segmentation), size),
      saved: annotation,
    }),
  );
  history.reset({ objects, current: objects.length + 1 });
  state.unsaved = false;
  changed();
  say(`${objects.length} objects of the saved file. Name, remove or add some, and save again.`);
}

async function saveAndGoOn(): Promise<void> {
  if (!folder || !state.photo || state.searching) return;
  const { photos, place } = folder;
  const name = photos[place]!.name;
  await saveAnnotation(name, await currentDocument());
  state.unsaved = false;
  photos[place] = { name, labelled: true };
  const later = photos.findIndex(({ labelled }, index) => index > place && !labelled);
  const next = later >= 0 ? later : photos.findIndex(({ labelled }) => !labelled);
  if (next >= 0) return openPlace(next);
  await openPlace(place);
  say("Every photo of this folder is labelled.");
}

function go(way: -1 | 1): void {
  if (!folder || !folder.photos[folder.place + way]) return;
  if (state.unsaved && !confirm("This photo's labels are not saved. Leave them?")) return;
  void openPlace(folder.place + way);
}
