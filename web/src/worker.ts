/** The worker: the engine behind messages, so that the page never freezes. */

import { openWasm, openWebGpu } from "./backend";
import type { Size } from "./contract";
import { Engine, fetchModel } from "./engine";
import { SegmenterError } from "./errors";
import { findEverything, maskBox } from "./everything";
import { readPhoto } from "./photo";
import type { EngineState, MethodName, Methods, Reply, Request } from "./protocol";
import { maskToRle } from "./rle";

declare const self: DedicatedWorkerGlobalScope;

type Report = (done: number, total: number) => void;
type Handlers = { [M in MethodName]: (given: Methods[M][0], report: Report) => Promise<Methods[M][1]> };

let engine: Engine | undefined;
let sizes: { photo: Size; view: Size; original: Size } | undefined;
let stopAsked = false;

const handlers: Handlers = {
  async load({ modelUrl, runtimeUrl, threads, backend }, report) {
    const model = await fetchModel(modelUrl, report);
    const wasm = openWasm(runtimeUrl, threads);
    const backends = backend === "wasm" ? [wasm] : [openWebGpu(runtimeUrl, backend === "webgpu"), wasm];
    engine = await Engine.open(model, backends);
    return state();
  },

  async setImage({ source }) {
    const start = performance.now();
    const photo = await readPhoto(source);
    const decodePhotoMs = performance.now() - start;
    const timings = await loaded().setImage(photo.rgba, photo.size);
    sizes = { photo: photo.size, view: photo.viewSize, original: photo.originalSize };
    const { view, viewSize: size, originalSize } = photo;
    return { originalSize, size, view, timings: { ...timings, decodePhotoMs } };
  },

  async predict({ prompt, masks }) {
    const { photo, view } = opened();
    const [scaleX, scaleY] = [photo[1] / view[1], photo[0] / view[0]];
    const scaled = {
      maskInput: prompt.maskInput,
      points: prompt.points?.map(({ x, y, label }) => ({ x: times(x, scaleX), y: times(y, scaleY), label })),
      box: prompt.box && scaleBox(prompt.box, scaleX, scaleY),
    };
    const start = performance.now();
    const [candidates] = await loaded().decode([scaled]);
    const decoded = performance.now();
    const answers = candidates!.map((candidate) => {
      if (!masks.includes(candidate.index)) return { ...candidate, mask: undefined, cells: undefined };
      const cells = loaded().crop(candidate.logits);
      return { ...candidate, cells, mask: loaded().upscale(cells, view) };
    });
    return { answers, timings: { decodeMs: decoded - start, postprocessMs: performance.now() - decoded } };
  },

  async everything(options, report) {
    const { photo, view } = opened();
    stopAsked = false;
    return findEverything(loaded(), photo, view, options, async (done, total) => {
      report(done, total);
      await nextTask(); // clicks and "stop" come in between
      return !stopAsked;
    });
  },

  async stop() {
    stopAsked = true;
    return null;
  },

  async upscale({ logits }) {
    const cells = loaded().crop(logits);
    return { cells, mask: loaded().upscale(cells, opened().view) };
  },

  async rle({ cells, original }) {
    const mask = loaded().upscale(cells, original ? opened().original : opened().view);
    return { rle: maskToRle(mask), bbox: maskBox(mask), area: mask.area };
  },

  async maskAt({ cells, original }) {
    return loaded().upscale(cells, original ? opened().original : opened().view);
  },

  async selfCheck() {
    return { ...(await loaded().selfCheck()), tolerance: loaded().manifest.embeddingTolerance };
  },

  async state() {
    return state();
  },
};

function state(): EngineState {
  const { manifest, backendName, threads, notes } = loaded();
  return { spec: manifest.spec, backend: backendName, threads, notes };
}

function loaded(): Engine {
  if (!engine) throw new SegmenterError("model", "no model is loaded.");
  return engine;
}

function opened(): NonNullable<typeof sizes> {
  if (!sizes) throw new SegmenterError("prompt", "no photo is set. Call setImage first.");
  return sizes;
}

function scaleBox([x0, y0, x1, y1]: readonly number[], x: number, y: number): [number, number, number, number] {
  return [times(x0!, x), times(y0!, y), times(x1!, x), times(y1!, y)];
}

/** What is no number stays none: to JavaScript null times 2 is 0, a place in the photo. */
function times(value: number, factor: number): number {
  return typeof value === "number" ? value * factor : NaN;
}

/** After the messages that have already arrived. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}

self.onmessage = async ({ data: request }: MessageEvent<Request>) => {
  const { id, method } = request;
  const reply = (message: Reply, transfer: Transferable[] = []): void => self.postMessage(message, transfer);
  try {
    const handler = handlers[method] as (given: unknown, report: Report) => Promise<unknown>;
    const result = await handler(request.arguments, (done, total) => reply({ id, progress: [done, total] }));
    reply({ id, result }, method === "setImage" ? [(result as { view: ImageBitmap }).view] : []);
  } catch (error) {
    const kind = error instanceof SegmenterError ? error.kind : "browser";
    reply({ id, error: { kind, message: error instanceof Error ? error.message : String(error) } });
  }
};
