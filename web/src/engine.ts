/** One model and one photo: encode once, decode for each prompt. Runs in the worker; knows neither DOM nor messages. */

import type { Backend, BackendName, GraphName, OpenBackend } from "./backend";
import { CONTRACT, type Plane, type Size, type Tensor, type Tensors } from "./contract";
import { download, downloadChecked, type Progress } from "./download";
import { SegmenterError } from "./errors";
import { checkGolden, compareGolden, type GoldenResult } from "./golden";
import { readManifest, type Manifest } from "./manifest";
import { cropCells, upscaleMask, type Cells, type Mask } from "./masks";
import { encoderFeeds, preprocess } from "./preprocess";
import { buildPrompts, type Prompt } from "./prompts";

export interface Candidate {
  /** 0: the single mask; 1 to 3: the alternatives. */
  readonly index: number;
  readonly predictedIou: number;
  /** Logits (S/4, S/4), to be given back as `maskInput`. */
  readonly logits: Plane;
}

export interface EncodeTimings {
  readonly preprocessMs: number;
  readonly encodeMs: number;
}

interface Encoded {
  readonly embeddings: Tensors;
  readonly image: Tensor;
  readonly inputSize: Size;
  readonly size: Size;
}

const MAX_MANIFEST_BYTES = 1 << 20;
const GOLDEN = "golden.npz";

export interface ModelFiles {
  readonly manifest: Manifest;
  readonly graphs: Record<GraphName, Uint8Array>;
  /** The folder's address, with a slash at its end. */
  readonly url: string;
}

/** Download and check an artifact folder. Throws SegmenterError of kind "model". */
export async function fetchModel(url: string, progress?: Progress): Promise<ModelFiles> {
  const text = new TextDecoder().decode(await download(new URL("manifest.json", url).href, MAX_MANIFEST_BYTES));
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new SegmenterError("model", `${url}manifest.json is no JSON. Check the folder's address.`);
  }
  const manifest = readManifest(json);
  const names = { encoder: manifest.encoder, decoder: manifest.decoder };
  const entries = Object.values(names).map((name) => manifest.files[name]!);
  const total = entries.reduce((sum, entry) => sum + entry.bytes, 0);
  const loaded = { encoder: 0, decoder: 0 };
  const get = (graph: GraphName): Promise<Uint8Array> =>
    downloadChecked(new URL(names[graph], url).href, manifest.files[names[graph]]!, (bytes) => {
      loaded[graph] = bytes;
      progress?.(loaded.encoder + loaded.decoder, total);
    });
  const [encoder, decoder] = await Promise.all([get("encoder"), get("decoder")]);
  return { manifest, graphs: { encoder, decoder }, url };
}

async function passesGolden(engine: Engine): Promise<void> {
  checkGolden(await engine.selfCheck(), engine.manifest.embeddingTolerance);
}

export class Engine {
  private encoded: Encoded | undefined;
  private turn: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly model: ModelFiles,
    private backend: Backend,
    private readonly openFallback: OpenBackend | undefined,
    /** Why a faster backend is not used; empty where none was asked for. */
    public notes: string[],
  ) {}

  /**
   * Try `backends` in order; one that is not the last must pass the golden self-check before it serves.
   * Throws SegmenterError where none can.
   */
  static async open(model: ModelFiles, backends: readonly OpenBackend[], check = passesGolden): Promise<Engine> {
    const notes: string[] = [];
    for (const [index, openBackend] of backends.entries()) {
      const last = index === backends.length - 1;
      try {
        let engine: Engine | undefined;
        const backend = await openBackend(model.graphs, (why) => void engine?.fallBack(why));
        engine = new Engine(model, backend, last ? undefined : backends[backends.length - 1], notes);
        if (!last) await check(engine);
        return engine;
      } catch (error) {
        if (last) throw error;
        notes.push(error instanceof Error ? error.message : String(error));
      }
    }
    throw new SegmenterError("browser", "no backend was given to run the model on.");
  }

  get manifest(): Manifest {
    return this.model.manifest;
  }

  get backendName(): BackendName {
    return this.backend.name;
  }

  get threads(): number {
    return this.backend.threads;
  }

  /** What this backend makes of the artifact's golden photos. */
  async selfCheck(): Promise<GoldenResult> {
    const entry = this.manifest.files[GOLDEN];
    if (!entry) throw new SegmenterError("model", `the model has no ${GOLDEN} to check itself with.`);
    const file = await downloadChecked(new URL(GOLDEN, this.model.url).href, entry);
    return this.exclusively(() => compareGolden(this.backend, this.manifest, file));
  }

  /** Encode a photo, RGBA without transparency. */
  async setImage(rgba: Uint8ClampedArray, size: Size): Promise<EncodeTimings> {
    const start = performance.now();
    const { image, inputSize } = preprocess(rgba, size, this.manifest.spec);
    const ready = performance.now();
    this.encoded = undefined;
    const embeddings = await this.run("encoder", encoderFeeds(image));
    this.encoded = { embeddings, image, inputSize, size };
    return { preprocessMs: ready - start, encodeMs: performance.now() - ready };
  }

  /** All four masks of each prompt. Throws SegmenterError of kind "prompt". */
  async decode(prompts: readonly Prompt[]): Promise<Candidate[][]> {
    const { size } = this.photo();
    const feeds = buildPrompts(this.manifest.spec, size, prompts);
    const [masksName, iouName] = CONTRACT.predictionOutputs as [string, string];
    const outputs = await this.run("decoder", feeds, true);
    const masks = outputs[masksName]!;
    const [, count, height, width] = masks.dims as [number, number, number, number];
    return prompts.map((_, prompt) =>
      Array.from({ length: count }, (_, index) => {
        const place = prompt * count + index;
        const data = masks.data.slice(place * height * width, (place + 1) * height * width);
        return { index, predictedIou: outputs[iouName]!.data[place]!, logits: { data, height, width } };
      }),
    );
  }

  /** The part of logits that a mask needs. */
  crop(logits: Plane): Cells {
    return cropCells(logits, this.photo().inputSize);
  }

  /** A mask on the photo, drawn at any [height, width]: the photo's own, or a smaller one for the screen. */
  upscale(cells: Cells, size: Size): Mask {
    return upscaleMask(cells, this.photo().inputSize, size);
  }

  private photo(): Encoded {
    if (!this.encoded) throw new SegmenterError("prompt", "no photo is set. Call setImage first.");
    return this.encoded;
  }

  private async run(graph: GraphName, feeds: Tensors, withPhoto = false): Promise<Tensors> {
    return this.exclusively(async () => {
      const all = (): Tensors => (withPhoto ? { ...this.photo().embeddings, ...feeds } : feeds);
      try {
        return await this.backend.run(graph, all());
      } catch (error) {
        if (!this.openFallback || this.backend.name === "wasm") throw error;
        await this.switchBackend(error instanceof Error ? error.message : String(error));
        return this.backend.run(graph, all());
      }
    });
  }

  private async fallBack(why: string): Promise<void> {
    await this.exclusively(() => this.switchBackend(why));
  }

  /** WebAssembly instead of a device that was lost, and the photo encoded anew. */
  private async switchBackend(why: string): Promise<void> {
    if (!this.openFallback || this.backend.name === "wasm") return;
    this.notes.push(`WebGPU is no longer used: ${why.slice(0, 200)}.`);
    const lost = this.backend;
    this.backend = await this.openFallback(this.model.graphs, () => undefined);
    await lost.release().catch(() => undefined);
    if (!this.encoded) return;
    const embeddings = await this.backend.run("encoder", encoderFeeds(this.encoded.image));
    this.encoded = { ...this.encoded, embeddings };
  }

  /** One at a time: a session does not run twice at once, and a switch must not happen under a run. */
  private exclusively<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.turn.then(work, work);
    this.turn = mine.catch(() => undefined);
    return mine;
  }
}
