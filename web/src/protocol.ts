/** What the page's thread and the worker say to each other. */

import type { BackendName } from "./backend";
import type { Plane, Size } from "./contract";
import type { EncodeTimings } from "./engine";
import type { ErrorKind } from "./errors";
import type { EverythingOptions, Found } from "./everything";
import type { GoldenResult } from "./golden";
import type { ModelSpec } from "./manifest";
import type { Cells, Mask } from "./masks";
import type { PhotoSource } from "./photo";
import type { Prompt } from "./prompts";
import type { CocoRle } from "./rle";

export interface LoadOptions {
  readonly modelUrl: string;
  readonly runtimeUrl: string;
  readonly threads: number;
  readonly backend: "auto" | BackendName;
}

export interface EngineState {
  readonly spec: ModelSpec;
  readonly backend: BackendName;
  readonly threads: number;
  readonly notes: readonly string[];
}

export interface ImageSet {
  /** Of the photo's file, upright. */
  readonly originalSize: Size;
  /** Of `view`: the coordinates of prompts and masks. */
  readonly size: Size;
  readonly view: ImageBitmap;
  readonly timings: EncodeTimings & { readonly decodePhotoMs: number };
}

export interface Answer {
  readonly index: number;
  readonly predictedIou: number;
  readonly logits: Plane;
  /** At `ImageSet.size`; only of the masks that were asked for. */
  readonly mask: Mask | undefined;
  readonly cells: Cells | undefined;
}

export interface Answers {
  readonly answers: readonly Answer[];
  readonly timings: { readonly decodeMs: number; readonly postprocessMs: number };
}

/** Method -> [arguments, result]. */
export interface Methods {
  load: [LoadOptions, EngineState];
  setImage: [{ source: PhotoSource }, ImageSet];
  predict: [{ prompt: Prompt; masks: readonly number[] }, Answers];
  everything: [EverythingOptions, readonly Found[]];
  stop: [Record<string, never>, null];
  upscale: [{ logits: Plane }, { mask: Mask; cells: Cells }];
  rle: [{ cells: Cells; original: boolean }, { rle: CocoRle; bbox: readonly [number, number, number, number]; area: number }];
  maskAt: [{ cells: Cells; original: boolean }, Mask];
  selfCheck: [Record<string, never>, GoldenResult & { readonly tolerance: number }];
  state: [Record<string, never>, EngineState];
}

export type MethodName = keyof Methods;

export type Request = { [M in MethodName]: { id: number; method: M; arguments: Methods[M][0] } }[MethodName];

export type Reply =
  | { id: number; result: unknown }
  | { id: number; error: { kind: ErrorKind; message: string } }
  | { id: number; progress: [done: number, total: number] };
