/** The public face: a model in a worker, one photo at a time, any number of prompts. */

import type { Plane } from "./contract";
import { SegmenterError } from "./errors";
import type { EverythingOptions, Found } from "./everything";
import type { Cells, Mask } from "./masks";
import type { PhotoSource } from "./photo";
import type { Prompt } from "./prompts";
import type { Answers, EngineState, ImageSet, LoadOptions, MethodName, Methods, Reply } from "./protocol";

export interface SegmenterOptions {
  /** The folder of onnxruntime-web's files; by default `ort/` beside the worker's script. */
  readonly runtimeUrl?: string;
  /** The worker's script; by default `worker.js` beside this module. */
  readonly workerUrl?: string | URL;
  /** 0, the default: up to 4 where the page is cross-origin isolated, else 1. */
  readonly threads?: number;
  /** "auto": WebGPU on a GPU that passes the self-check, else WebAssembly; "webgpu": on any adapter that passes it. */
  readonly backend?: LoadOptions["backend"];
  /** Called while the model's files arrive. */
  readonly onProgress?: (loadedBytes: number, totalBytes: number) => void;
}

export interface PredictOptions extends Prompt {
  /** Which of the four masks to draw: 0 is the single mask (the default), 1 to 3 are the alternatives. */
  readonly masks?: readonly number[];
}

type Pending = {
  resolve: (result: never) => void;
  reject: (error: SegmenterError) => void;
  progress: ((done: number, total: number) => void) | undefined;
};

const MAX_THREADS = 4;
// A module with one SIMD instruction: (func (drop (v128.const i32x4 0 0 0 0))).
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 23, 1, 21, 0, 253, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
  0, 0, 0, 0, 0, 0, 26, 11,
]);

export class Segmenter {
  private readonly pending = new Map<number, Pending>();
  private lastId = 0;

  private constructor(private readonly worker: Worker) {
    worker.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
    worker.onerror = (event) => this.fail(`the worker stopped (${event.message || "its script cannot be loaded"}).`);
  }

  private static state: WeakMap<Segmenter, EngineState> = new WeakMap();

  /**
   * Load an artifact folder (`manifest.json`, two graphs, `golden.npz`) and start the engine.
   * Throws SegmenterError: "browser" without WebAssembly SIMD, "model" for files that are not what their manifest says.
   */
  static async load(url: string | URL, options: SegmenterOptions = {}): Promise<Segmenter> {
    if (!hasSimd())
      throw new SegmenterError(
        "browser",
        "this browser has no WebAssembly SIMD, which the model needs. Chrome and Edge 91, Firefox 89, Safari 16.4 or " +
          "newer have it.",
      );
    const workerUrl = new URL(options.workerUrl ?? "./worker.js", import.meta.url);
    const segmenter = new Segmenter(new Worker(workerUrl, { type: "module", name: "segmenter" }));
    const isolated = globalThis.crossOriginIsolated === true;
    const wanted = options.threads || Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1);
    try {
      const state = await segmenter.call(
        "load",
        {
          modelUrl: folder(url),
          runtimeUrl: folder(options.runtimeUrl ?? new URL("ort/", workerUrl)),
          threads: isolated ? wanted : 1,
          backend: options.backend ?? "auto",
        },
        options.onProgress,
      );
      Segmenter.state.set(segmenter, state);
    } catch (error) {
      segmenter.dispose();
      throw error;
    }
    return segmenter;
  }

  /** The model, where it runs, and why not elsewhere; as it was when last asked. */
  get state(): EngineState {
    return Segmenter.state.get(this)!;
  }

  /** Ask the worker: a lost WebGPU device changes it. */
  async refreshState(): Promise<EngineState> {
    const state = await this.call("state", {});
    Segmenter.state.set(this, state);
    return state;
  }

  /** Decode and encode a photo: a file, pixels, or an element that shows one. Throws SegmenterError "image". */
  async setImage(source: PhotoSource | HTMLImageElement | HTMLCanvasElement): Promise<ImageSet> {
    return this.call("setImage", { source: await sendable(source) });
  }

  /** Masks for points, a box and an earlier mask, in pixels of `ImageSet.size`. Throws SegmenterError "prompt". */
  async predict({ masks = [0], ...prompt }: PredictOptions): Promise<Answers> {
    return this.call("predict", { prompt, masks });
  }

  /** All masks that a grid of points finds. */
  async everything(
    options: Partial<EverythingOptions> = {},
    onProgress?: (done: number, total: number) => void,
  ): Promise<readonly Found[]> {
    return this.call("everything", { pointsPerSide: 32, ...options }, onProgress);
  }

  /** End `everything` early; it then throws SegmenterError "cancelled". */
  async stop(): Promise<void> {
    await this.call("stop", {});
  }

  /** Draw logits of an earlier answer. */
  async upscale(logits: Plane): Promise<{ mask: Mask; cells: Cells }> {
    return this.call("upscale", { logits });
  }

  /** A mask as COCO's run lengths, at the file's own size or at `ImageSet.size`. */
  async rle(cells: Cells, original = true): Promise<Methods["rle"][1]> {
    return this.call("rle", { cells, original });
  }

  /** A mask at the file's own size or at `ImageSet.size`. */
  async maskAt(cells: Cells, original = true): Promise<Mask> {
    return this.call("maskAt", { cells, original });
  }

  /** Does this browser compute what the reference computed? See `GoldenResult`. */
  async selfCheck(): Promise<Methods["selfCheck"][1]> {
    return this.call("selfCheck", {});
  }

  /** End the worker. */
  dispose(): void {
    this.worker.terminate();
    this.fail("the segmenter was disposed of.");
  }

  private call<M extends MethodName>(
    method: M,
    given: Methods[M][0],
    progress?: (done: number, total: number) => void,
  ): Promise<Methods[M][1]> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, progress });
      try {
        this.worker.postMessage({ id, method, arguments: given });
      } catch (error) {
        this.pending.delete(id);
        reject(tainted(error));
      }
    });
  }

  private receive(reply: Reply): void {
    const pending = this.pending.get(reply.id);
    if (!pending) return;
    if ("progress" in reply) return pending.progress?.(...reply.progress);
    this.pending.delete(reply.id);
    if ("error" in reply) pending.reject(new SegmenterError(reply.error.kind, reply.error.message));
    else pending.resolve(reply.result as never);
  }

  private fail(why: string): void {
    for (const { reject } of this.pending.values()) reject(new SegmenterError("browser", why));
    this.pending.clear();
  }
}

/** Does this browser have WebAssembly SIMD? */
export function hasSimd(): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(SIMD_PROBE);
}

async function sendable(source: PhotoSource | HTMLImageElement | HTMLCanvasElement): Promise<PhotoSource> {
  if (source instanceof Blob || source instanceof ImageBitmap || source instanceof ImageData) return source;
  try {
    return await createImageBitmap(source);
  } catch (error) {
    throw tainted(error);
  }
}

/** A picture of another site can be shown but not read; browsers say so in several ways. */
function tainted(error: unknown): SegmenterError {
  const reason = error instanceof Error ? error.message : String(error);
  return new SegmenterError(
    "image",
    `the picture's pixels cannot be read (${reason}). A picture of another site may be shown, not read: save it as a ` +
      "file first, or serve it with CORS and crossorigin.",
  );
}

function folder(url: string | URL): string {
  const { href } = new URL(url, globalThis.location?.href ?? import.meta.url);
  return href.endsWith("/") ? href : `${href}/`;
}
