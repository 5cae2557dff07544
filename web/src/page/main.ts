/** The page: the only file that joins the document, the engine and the labels. */

import { rleToMask, Segmenter, SegmenterError, type Answers, type Box, type ImageSet, type Mask, type Prompt } from "../index";
import { toCoco, toSa1b, type Sa1bDocument } from "./annotations";
import { fetchAnnotation, fetchPhoto, listPhotos, saveAnnotation, type FolderPhoto } from "./folder";
import { between, listen, type Place } from "./gestures";
import * as edit from "./labels";
import { Latest } from "./latest";
import { colourOf, paintMarks, paintMasks } from "./painting";
import { cutoutPng, maskPng, saveFile, scaledMask } from "./pictures";
import { Durations } from "./timings";

interface SiteSettings {
  readonly model: string;
  readonly examples: readonly { file: string; title: string }[];
  readonly folder: boolean;
  readonly webgpu: boolean;
}

interface OpenPhoto {
  readonly name: string;
  readonly file: Blob;
  readonly set: ImageSet;
}

// Semi-automatic: only what the model is this sure of is proposed.
const SURE = { predIouThresh: 0.85, stabilityScoreThresh: 0.85 };
const SURE_POINTS = 16;
const AUTOMATIC_POINTS = 32;
const KEY_STEP_PX = 4;
const KEY_STEP_SHIFT_PX = 24;

function element<T extends Element = HTMLElement>(id: string): T {
  return document.getElementById(id) as unknown as T;
}

const stage = element("stage");
const photoCanvas = element<HTMLCanvasElement>("photo");
const masksCanvas = element<HTMLCanvasElement>("masks");
const marks = element<SVGSVGElement>("marks");
const statusLine = element("status");

const history = new edit.History();
const clicks = new Durations();
let encodeMs: number | undefined;
let firstMaskMs: number | undefined;
let segmenter: Segmenter | undefined;
let modelError: unknown;
let photo: OpenPhoto | undefined;
let preview: Mask | undefined;
let rubberBand: Box | undefined;
let cross: Place | undefined;
let boxCorner: Place | undefined;
let searching = false;
let opened = 0; // how many photos were asked for: answers about an earlier one are dropped
let work: Promise<void> = Promise.resolve();
let folder: { photos: FolderPhoto[]; place: number } | undefined;
let unsaved = false;

const hover = new Latest<Place>(async (at) => {
  const asked = opened;
  if (!segmenter || !photo || !mayPreview()) return;
  const given: Prompt = { points: [{ ...at, label: 1 }] };
  const prediction = previewed(given, asked) ?? segmenter.predict(given);
  hovered = { at, asked, prediction };
  const { answers } = await prediction;
  if (asked !== opened || !mayPreview() || !hovering) return;
  preview = answers[0]!.mask;
  paint();
});
let hovering = false;
/** What the last preview asked: a click where the pointer rests is answered by it, and not asked again. */
let hovered: { at: Place; asked: number; prediction: Promise<Answers> } | undefined;

function previewed({ points, box, maskInput }: Prompt, asked: number): Promise<Answers> | undefined {
  const [click, ...more] = points ?? [];
  if (!hovered || hovered.asked !== asked || box || maskInput || more.length || click?.label !== 1) return undefined;
  return click.x === hovered.at.x && click.y === hovered.at.y ? hovered.prediction : undefined;
}

/** Only before the first click on an object: afterwards the mask is what was clicked. */
function mayPreview(): boolean {
  const object = edit.currentObject(history.now);
  return !searching && !(object && (object.points.length || object.box));
}

// Saying things.

function say(text: string): void {
  statusLine.textContent = text;
  statusLine.classList.remove("error");
}

function complain(error: unknown): void {
  if (error instanceof SegmenterError && error.kind === "cancelled") return say("Stopped.");
  const text = error instanceof Error ? error.message : String(error);
  statusLine.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  statusLine.classList.add("error");
}

/** One thing after the other, in the order in which a person asked for them; an error is said. */
function inTurn(task: () => Promise<void>): Promise<void> {
  work = work.then(task).catch(complain);
  return work;
}

// Showing things.

function pixelsPerScreenPixel(): number {
  return photo ? photo.set.size[1] / Math.max(1, stage.clientWidth) : 1;
}

function paint(): void {
  if (!photo) return;
  const scale = pixelsPerScreenPixel();
  paintMasks(masksCanvas.getContext("2d")!, history.now, preview, scale);
  paintMarks(marks, photo.set.size, { labels: history.now, rubberBand, cross }, scale);
}

function show(): void {
  paint();
  showTools();
  showObjects();
  showTimings();
}

function showTools(): void {
  const object = edit.currentObject(history.now);
  const set = (id: string, enabled: boolean): void => {
    element<HTMLButtonElement>(id).disabled = !enabled;
  };
  set("undo", history.canUndo);
  set("redo", history.canRedo);
  set("clear", Boolean(object));
  set("alternative", Boolean(object?.answers.length));
  set("new", Boolean(object));
  element("choice").textContent = object?.answers.length ? `${object.choice + 1}/${object.answers.length}` : "";
  const drawn = history.now.objects.some(({ mask }) => mask?.area);
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export]")) {
    const single = ["cutout", "mask"].includes(button.dataset["export"]!);
    button.disabled = single ? !object?.cells || !object.mask?.area : !drawn;
    button.title = single && drawn && button.disabled ? "Choose an object in the list first" : "";
  }
  element("everything").innerHTML = searching ? "Stop <kbd>Esc</kbd>" : "Find all <kbd>E</kbd>";
  stage.classList.toggle("busy", searching);
}

function showObjects(): void {
  const { objects, current } = history.now;
  element("no-objects").hidden = objects.length > 0;
  const list = element("objects");
  const typing = document.activeElement instanceof HTMLInputElement && list.contains(document.activeElement);
  if (typing && list.childElementCount === objects.length) return; // a name is being typed
  list.replaceChildren(
    ...objects.map((object) => {
      const row = document.createElement("li");
      row.classList.toggle("current", object.id === current);
      const number = document.createElement("button");
      const [red, green, blue] = colourOf(object.id);
      number.className = "number";
      number.type = "button";
      number.textContent = String(object.id);
      number.style.background = `rgb(${red} ${green} ${blue})`;
      number.style.color = red * 0.3 + green * 0.6 + blue * 0.1 > 140 ? "#000" : "#fff";
      number.ariaLabel = `Choose object ${object.id}`;
      if (object.id === current) number.ariaCurrent = "true";
      number.onclick = () => change({ ...history.now, current: object.id });
      const name = document.createElement("input");
      name.type = "text";
      name.value = object.name;
      name.placeholder = object.proposed ? "found; name it" : "name";
      name.ariaLabel = `Name of object ${object.id}`;
      name.maxLength = 100;
      name.oninput = () => {
        history.replace(edit.renamed(history.now, object.id, name.value));
        unsaved = true;
      };
      const size = document.createElement("span");
      size.className = "size";
      size.textContent = share(object.mask);
      size.title = `of the photo${object.predictedIou ? `; the model expects an IoU of ${object.predictedIou.toFixed(2)}` : ""}`;
      const remove = document.createElement("button");
      remove.className = "remove";
      remove.type = "button";
      remove.textContent = "✕";
      remove.ariaLabel = `Remove object ${object.id}`;
      remove.onclick = () => change(edit.withoutObject(history.now, object.id));
      row.append(number, name, size, remove);
      return row;
    }),
  );
  list.querySelector(".current")?.scrollIntoView({ block: "nearest" });
}

function share(mask: Mask | undefined): string {
  if (!mask?.area) return "empty";
  const percent = (100 * mask.area) / (mask.size[0] * mask.size[1]);
  return percent < 1 ? "< 1 %" : `${percent.toFixed(0)} %`;
}

function showTimings(): void {
  const ms = (value: number | undefined): string => (value === undefined ? "–" : `${Math.round(value)} ms`);
  const rows: [string, string][] = [
    ["Photo encoded in", ms(encodeMs)],
    ["Last click", ms(clicks.last)],
    ["9 of 10 clicks within", ms(clicks.percentile(90))],
  ];
  element("timings").replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [term, value];
      return [dt, dd];
    }),
  );
}

function showEngine(): void {
  if (!segmenter) return;
  const { backend, threads, notes, spec } = segmenter.state;
  const where = backend === "webgpu" ? "on the GPU (WebGPU)" : `on the CPU, ${threads} thread${threads > 1 ? "s" : ""}`;
  const slower =
    backend === "wasm" && !crossOriginIsolated
      ? " One thread only, so slower: this site's server does not isolate the page (COOP and COEP headers). `sam-edge web` does."
      : "";
  const lost = notes.filter((note) => note.includes("no longer")).join(" ");
  element("engine").textContent = `Model ${spec.name} ${where}.${slower} ${lost}`.trim();
}

// Changing things.

function change(labels: edit.Labels): void {
  history.push(labels);
  unsaved = true;
  preview = undefined;
  show();
}

/** A click or a box: the current object with one more prompt, predicted anew from its mask so far. */
function prompt(add: (object: edit.LabelledObject) => edit.LabelledObject, started: number): Promise<void> {
  hover.cancel();
  const asked = opened;
  return inTurn(async () => {
    if (!segmenter || !photo || asked !== opened) return;
    const before = edit.editable(history.now);
    const object = add(before);
    const given: Prompt = {
      points: object.points,
      ...(object.box ? { box: object.box } : {}),
      ...(before.answers.length ? { maskInput: before.answers[before.choice]!.logits } : {}),
    };
    const { answers } = await (previewed(given, asked) ?? segmenter.predict(given));
    if (asked !== opened) return;
    const { mask, cells, predictedIou } = answers[0]!;
    const drawn = { ...object, answers, choice: 0, mask, cells, predictedIou };
    history.push(edit.withObject(history.now, drawn));
    unsaved = true;
    preview = undefined;
    paint();
    clicks.add(performance.now() - started);
    firstMaskMs ??= performance.now();
    show();
    say(mask?.area ? hint(drawn) : "Nothing was found there. Click on the middle of an object.");
  });
}

function hint({ points, box }: edit.LabelledObject): string {
  const count = points.length + (box ? 1 : 0);
  if (count === 1)
    return matchMedia("(pointer: coarse)").matches
      ? "Too much? Choose “− Remove” and tap there. Too little? Tap on what is missing."
      : "Too much? Right-click there. Too little? Click on what is missing. M shows other masks.";
  return "Good? Save it to a file, or start a new object.";
}

function clickAt({ x, y }: Place, label: 0 | 1, started: number): void {
  void prompt((object) => ({ ...object, points: [...object.points, { x, y, label }] }), started);
}

function boxAt(box: Box, started: number): void {
  void prompt((object) => ({ ...edit.makeObject(object.id, { name: object.name }), box }), started);
}

function otherMask(): Promise<void> {
  return inTurn(async () => {
    const object = edit.currentObject(history.now);
    if (!segmenter || !object?.answers.length) return;
    const choice = (object.choice + 1) % object.answers.length;
    const answer = object.answers[choice]!;
    const { mask, cells } = await segmenter.upscale(answer.logits);
    change(edit.withObject(history.now, { ...object, choice, mask, cells, predictedIou: answer.predictedIou }));
    say(`Mask ${choice + 1} of ${object.answers.length}.`);
  });
}

function clearObject(): void {
  if (edit.currentObject(history.now)) change(edit.withoutObject(history.now, history.now.current));
}

function step(way: "undo" | "redo"): void {
  void inTurn(async () => {
    history[way]();
    preview = undefined;
    unsaved = true;
    show();
  });
}

/** Search the whole photo; what is found becomes objects beside those that are there. */
async function search(options: { pointsPerSide: number; predIouThresh?: number; stabilityScoreThresh?: number }): Promise<void> {
  if (!segmenter || !photo || searching) return;
  const asked = opened;
  const bar = element<HTMLProgressElement>("everything-progress");
  searching = true;
  preview = undefined;
  bar.hidden = false;
  show();
  try {
    const found = await segmenter.everything(options, (done, total) => {
      [bar.value, bar.max] = [done, total];
      say(`Searching: ${done} of ${total} points. Esc stops.`);
    });
    if (asked !== opened) return;
    const first = edit.nextId(history.now);
    const objects = found.map(({ mask, cells, predictedIou, point: [x, y] }, index) =>
      edit.makeObject(first + index, { mask, cells, predictedIou, proposed: true, points: [{ x, y, label: 1 }] }),
    );
    change(edit.startObject({ ...history.now, objects: [...history.now.objects, ...objects] }));
    say(`${found.length} objects found. Remove what is wrong, click on what is missing; choose one in the list to save it alone.`);
  } finally {
    searching = false;
    bar.hidden = true;
    show();
  }
}

// Photos.

async function open(name: string, file: Blob): Promise<void> {
  const asked = ++opened;
  hover.cancel();
  if (searching) void segmenter?.stop();
  await inTurn(async () => {
    if (asked !== opened) return;
    say(segmenter ? "Reading the photo…" : "Loading the model…");
    const engine = await ready;
    if (!engine) throw modelError;
    if (asked !== opened) return;
    say("Reading the photo…");
    const set = await engine.setImage(file);
    if (asked !== opened) return set.view.close();
    photo = { name, file, set };
    encodeMs = set.timings.encodeMs;
    history.reset();
    [preview, cross, boxCorner, unsaved] = [undefined, undefined, undefined, false];
    showPhoto(set);
    const [height, width] = set.originalSize;
    const shrunk = set.size[0] === height ? "" : ` (${(width * height * 1e-6).toFixed(0)} megapixels; shown smaller, saved whole)`;
    say(`Click on an object, or drag a box around one.${shrunk}`);
    window.dispatchEvent(new Event("photo-ready"));
  });
}

function showPhoto({ size: [height, width], view }: ImageSet): void {
  for (const id of ["frame", "tools", "panel", "open"]) element(id).hidden = false;
  element("welcome").hidden = true;
  for (const canvas of [photoCanvas, masksCanvas]) [canvas.width, canvas.height] = [width, height];
  photoCanvas.getContext("2d")!.drawImage(view, 0, 0);
  fitStage();
  show();
  void segmenter?.refreshState().then(showEngine);
}

/** As large as the frame allows, in the photo's proportions. */
function fitStage(): void {
  if (!photo) return;
  const [height, width] = photo.set.size;
  const frame = element("frame");
  frame.style.setProperty("--ratio", String(width / height));
  const factor = Math.min(frame.clientWidth / width, frame.clientHeight / height);
  stage.style.width = `${Math.max(1, Math.floor(width * factor))}px`;
  stage.style.height = `${Math.max(1, Math.floor(height * factor))}px`;
  paint();
}

function openFiles(files: FileList | undefined | null, address: string): void {
  const file = files?.[0];
  if (file) void open(file.name || "pasted.png", file);
  else if (address)
    complain(new SegmenterError("image", "that is the address of a picture, not the picture: this page fetches nothing. Save it first, then drop the file."));
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

// Files.

async function exportAs(kind: string): Promise<void> {
  if (!segmenter || !photo) return;
  const { name, file, set } = photo;
  const stem = name.replace(/\.[^.]*$/, "");
  const object = edit.currentObject(history.now);
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

function currentDocument(): Promise<Sa1bDocument> {
  const { name, set } = photo!;
  return toSa1b(segmenter!, name, set.originalSize, set.size, history.now.objects);
}

// The folder that is being labelled.

function gear(): string {
  return element<HTMLSelectElement>("gear").value;
}

async function openFolder(): Promise<void> {
  const photos = await listPhotos();
  if (!photos.length) return complain(new SegmenterError("image", "this folder has no photo. Put some into it and reload."));
  folder = { photos, place: Math.max(0, photos.findIndex(({ labelled }) => !labelled)) };
  element("folder").hidden = false;
  await openPlace(folder.place);
}

async function openPlace(place: number): Promise<void> {
  if (!folder || !folder.photos[place]) return;
  folder.place = place;
  const { name, labelled } = folder.photos[place];
  const done = folder.photos.filter((one) => one.labelled).length;
  element("folder-place").textContent = `${name}${labelled ? " ✓" : ""} · ${place + 1} of ${folder.photos.length} · ${done} done`;
  element<HTMLButtonElement>("previous").disabled = place === 0;
  element<HTMLButtonElement>("next").disabled = place === folder.photos.length - 1;
  photo = undefined;
  try {
    await open(name, await fetchPhoto(name));
    if (!photo || folder.place !== place) return;
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
  if (!document || !photo) return;
  const { size } = photo.set;
  const objects = document.annotations.map((annotation, index) =>
    edit.makeObject(index + 1, {
      name: annotation.category ?? "",
      predictedIou: annotation.predicted_iou,
      mask: scaledMask(rleToMask(annotation.segmentation), size),
      saved: annotation,
    }),
  );
  history.reset({ objects, current: objects.length + 1 });
  unsaved = false;
  show();
  say(`${objects.length} objects of the saved file. Name, remove or add some, and save again.`);
}

async function saveAndGoOn(): Promise<void> {
  if (!folder || !photo || searching) return;
  const { photos, place } = folder;
  const name = photos[place]!.name;
  await saveAnnotation(name, await currentDocument());
  unsaved = false;
  photos[place] = { name, labelled: true };
  const later = photos.findIndex(({ labelled }, index) => index > place && !labelled);
  const next = later >= 0 ? later : photos.findIndex(({ labelled }) => !labelled);
  if (next >= 0) return openPlace(next);
  await openPlace(place);
  say("Every photo of this folder is labelled.");
}

function go(way: -1 | 1): void {
  if (!folder || !folder.photos[folder.place + way]) return;
  if (unsaved && !confirm("This photo's labels are not saved. Leave them?")) return;
  void openPlace(folder.place + way);
}

// Listening.

function onKey(event: KeyboardEvent): void {
  if (event.target instanceof HTMLInputElement && event.target.type === "text") {
    if (event.key === "Enter" || event.key === "Escape") event.target.blur();
    return;
  }
  if (element<HTMLDialogElement>("help-text").open || event.altKey) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const actions: Record<string, () => void> = command
    ? { z: () => step(event.shiftKey ? "redo" : "undo"), y: () => step("redo") }
    : {
        m: () => void otherMask(),
        n: newObject,
        e: () => void toggleSearch(),
        s: () => void saveAndGoOn().catch(complain),
        "?": () => element<HTMLDialogElement>("help-text").showModal(),
        escape: () => (searching ? void segmenter?.stop() : boxCorner ? dropCorner() : clearObject()),
      };
  const action = actions[key] ?? (command ? undefined : stageKey(event));
  if (!action) return;
  event.preventDefault();
  action();
}

/** Keys that need the photo: the cross and what it clicks. */
function stageKey(event: KeyboardEvent): (() => void) | undefined {
  if (!photo || document.activeElement !== stage) return undefined;
  const [height, width] = photo.set.size;
  const here = cross ?? { x: width / 2, y: height / 2 };
  const distance = (event.shiftKey ? KEY_STEP_SHIFT_PX : KEY_STEP_PX) * pixelsPerScreenPixel();
  const moves: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (move)
    return () => {
      const x = Math.min(width - 1, Math.max(0, here.x + move[0] * distance));
      const y = Math.min(height - 1, Math.max(0, here.y + move[1] * distance));
      cross = { x, y };
      rubberBand = boxCorner && between(boxCorner, cross);
      paint();
    };
  if (event.key === "Enter" || event.key === " ") return () => clickAt(here, event.shiftKey ? 0 : 1, event.timeStamp);
  if (event.key.toLowerCase() === "b")
    return () => {
      if (!boxCorner) {
        boxCorner = cross = here;
        say("First corner set. Move the cross to the opposite one and press B.");
        return paint();
      }
      const box = between(boxCorner, here);
      dropCorner();
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) boxAt(box, event.timeStamp);
    };
  return undefined;
}

function dropCorner(): void {
  [boxCorner, rubberBand] = [undefined, undefined];
  paint();
}

function newObject(): void {
  if (!photo || !edit.currentObject(history.now)) return;
  change(edit.startObject(history.now));
  say("Click on the next object.");
}

async function toggleSearch(): Promise<void> {
  if (searching) return void (await segmenter?.stop());
  await search({ pointsPerSide: Number(element<HTMLSelectElement>("grid").value) }).catch(complain);
}

function listenToAll(): void {
  const onClick = (id: string, action: () => void): void => element(id).addEventListener("click", action);
  const file = element<HTMLInputElement>("file");
  for (const id of ["pick", "open"]) onClick(id, () => file.click());
  file.addEventListener("change", () => {
    openFiles(file.files, "");
    file.value = "";
  });
  onClick("undo", () => step("undo"));
  onClick("redo", () => step("redo"));
  onClick("clear", clearObject);
  onClick("alternative", () => void otherMask());
  onClick("new", newObject);
  onClick("everything", () => void toggleSearch());
  onClick("help", () => element<HTMLDialogElement>("help-text").showModal());
  onClick("save", () => void saveAndGoOn().catch(complain));
  onClick("previous", () => go(-1));
  onClick("next", () => go(1));
  onClick("check", () => void check());
  element("gear").addEventListener("change", () => {
    if (photo && !history.now.objects.length && gear() !== "assisted") void openPlace(folder!.place);
  });
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export]"))
    button.addEventListener("click", () => void inTurn(() => exportAs(button.dataset["export"]!)));
  document.addEventListener("keydown", onKey);
  document.addEventListener("paste", (event) => openFiles(event.clipboardData?.files, event.clipboardData?.getData("text/uri-list") ?? ""));
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
    openFiles(event.dataTransfer?.files, event.dataTransfer?.getData("text/uri-list") ?? "");
  });
  window.addEventListener("beforeunload", (event) => {
    if (folder && unsaved && history.now.objects.length) event.preventDefault();
  });
  new ResizeObserver(fitStage).observe(element("frame"));
  listen(stage, {
    place(event) {
      const box = stage.getBoundingClientRect();
      const [height, width] = photo!.set.size;
      const x = ((event.clientX - box.left) / box.width) * width;
      const y = ((event.clientY - box.top) / box.height) * height;
      return { x: Math.min(width, Math.max(0, x)), y: Math.min(height, Math.max(0, y)) };
    },
    click: clickAt,
    box: boxAt,
    rubberBand(box) {
      rubberBand = box;
      if (box) preview = undefined;
      paint();
    },
    hover(at) {
      hovering = at !== undefined;
      if (at && mayPreview()) return hover.ask(at);
      hover.cancel();
      if (!preview) return;
      preview = undefined;
      paint();
    },
    mode: () => (document.querySelector<HTMLInputElement>('input[name="mode"]:checked')!.value === "1" ? 1 : 0),
  });
}

/** The golden photos of the model, computed here. */
function check(): Promise<void> {
  return inTurn(async () => {
    if (!segmenter) return;
    say("Computing the reference photos…");
    const { embedding, maskIou, tolerance } = await segmenter.selfCheck();
    const same = embedding <= tolerance && maskIou >= 0.99;
    if (same) say(`This browser draws the reference's masks (smallest IoU ${maskIou.toFixed(4)}).`);
    else complain(new SegmenterError("model", `this browser computes something else (smallest mask IoU ${maskIou.toFixed(3)}). Do not trust its masks; try another one.`));
  });
}

async function loadModel({ model, webgpu }: SiteSettings): Promise<Segmenter | undefined> {
  try {
    segmenter = await Segmenter.load(new URL(model, document.baseURI), {
      workerUrl: new URL("worker.js", document.baseURI),
      backend: webgpu ? "auto" : "wasm",
      onProgress: (loaded, total) => {
        if (!photo) say(`Loading the model: ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
      },
    });
    showEngine();
    if (!photo) say("Ready. Choose a photo.");
    return segmenter;
  } catch (error) {
    modelError = error;
    complain(error);
    return undefined;
  }
}

async function start(): Promise<SiteSettings> {
  listenToAll();
  const settings = (await (await fetch("site.json")).json()) as SiteSettings;
  element("examples").replaceChildren(
    ...settings.examples.map(({ file, title }) => {
      const button = document.createElement("button");
      const picture = document.createElement("img");
      button.type = "button";
      [picture.src, picture.alt] = [file, ""];
      button.append(picture, title);
      button.onclick = () => void openExample(file);
      return button;
    }),
  );
  return settings;
}

const settings = start();
const ready = settings.then(loadModel);
void settings.then(({ folder: labelling }) => (labelling ? openFolder() : undefined)).catch(complain);

/** For tests and for automation: what the page knows, and the engine. */
Object.assign(window, {
  samEdge: {
    ready,
    Segmenter,
    labels: () => history.now,
    photo: () => photo && { name: photo.name, size: photo.set.size, originalSize: photo.set.originalSize },
    document: () => currentDocument(),
    idle: () => work,
    timings: () => ({ clicksMs: [...clicks.values], encodeMs, firstMaskMs, hoverMostQueued: hover.mostQueued }),
  },
});
