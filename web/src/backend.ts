/** Where graphs run: onnxruntime-web on WebAssembly or WebGPU. The only file that loads onnxruntime-web. */

import type * as Ort from "onnxruntime-web";
import type { Tensors } from "./contract";
import { download, gunzip } from "./download";
import { asSegmenterError, SegmenterError } from "./errors";

export type BackendName = "wasm" | "webgpu";
export type GraphName = "encoder" | "decoder";

export interface Backend {
  readonly name: BackendName;
  readonly threads: number;
  run(graph: GraphName, feeds: Tensors): Promise<Tensors>;
  release(): Promise<void>;
}

/** Opens a backend for the two graphs; throws SegmenterError where it cannot serve here. */
export type OpenBackend = (graphs: Record<GraphName, Uint8Array>, onLost: (why: string) => void) => Promise<Backend>;

const MAX_RUNTIME_BYTES = 64 * 2 ** 20;
// JSPI's build is 4.1 MB packed, the one for all browsers 6.6; Chrome and Edge have both WebGPU and JSPI.
const FILES: Record<BackendName, { script: string; glue: string; wasm: string }> = {
  wasm: {
    script: "ort.wasm.min.mjs",
    glue: "ort-wasm-simd-threaded.mjs",
    wasm: "ort-wasm-simd-threaded.wasm.gz",
  },
  webgpu: {
    script: "ort.jspi.min.mjs",
    glue: "ort-wasm-simd-threaded.jspi.mjs",
    wasm: "ort-wasm-simd-threaded.jspi.wasm.gz",
  },
};

/** `runtimeUrl` is the folder of onnxruntime-web's files, with a slash at its end. */
export function openWasm(runtimeUrl: string, threads: number): OpenBackend {
  return (graphs) => open("wasm", runtimeUrl, threads, graphs);
}

/** `anyAdapter`: one that computes on the CPU, too: slower than WebAssembly, but it shows that all works. */
export function openWebGpu(runtimeUrl: string, anyAdapter: boolean): OpenBackend {
  return async (graphs, onLost) => {
    const gpu = (navigator as { gpu?: GPU }).gpu;
    if (!gpu || !("Suspending" in WebAssembly)) unavailable("this browser has no WebGPU with JSPI");
    const adapter = await gpu.requestAdapter();
    if (!adapter) unavailable("no WebGPU adapter was found");
    if (adapter.info?.isFallbackAdapter && !anyAdapter)
      unavailable("its only WebGPU adapter computes on the CPU");
    const backend = await open("webgpu", runtimeUrl, 1, graphs);
    void backend.lost?.then((why) => onLost(why));
    return backend;
  };
}

function unavailable(why: string): never {
  throw new SegmenterError("browser", `WebGPU is not used: ${why}.`);
}

interface GPU {
  requestAdapter(): Promise<{ info?: { isFallbackAdapter?: boolean } } | null>;
}

interface Device {
  lost: Promise<{ message: string }>;
}

async function open(
  name: BackendName,
  runtimeUrl: string,
  threads: number,
  graphs: Record<GraphName, Uint8Array>,
): Promise<Backend & { lost?: Promise<string> }> {
  const files = FILES[name];
  const at = (file: string): string => new URL(file, runtimeUrl).href;
  const [ort, packed] = await Promise.all([
    import(/* @vite-ignore */ at(files.script)) as Promise<typeof Ort>,
    download(at(files.wasm), MAX_RUNTIME_BYTES),
  ]);
  const { wasm } = ort.env;
  wasm.wasmBinary = (await gunzip(packed, MAX_RUNTIME_BYTES)).buffer as ArrayBuffer;
  wasm.wasmPaths = { mjs: at(files.glue) };
  wasm.numThreads = threads;
  wasm.proxy = false; // this runs in a worker of its own
  ort.env.logLevel = "error";
  const sessions = {} as Record<GraphName, Ort.InferenceSession>;
  for (const graph of ["encoder", "decoder"] as const) {
    try {
      sessions[graph] = await ort.InferenceSession.create(graphs[graph], {
        executionProviders: [name],
        graphOptimizationLevel: "all",
        logSeverityLevel: 3, // errors: warnings are about graphs, which a user cannot change
      });
    } catch (error) {
      throw asSegmenterError(error, "model", `the ${graph} cannot be loaded by onnxruntime-web`);
    }
  }
  wasm.wasmBinary = undefined; // 14 MB that nobody reads any more
  const device = name === "webgpu" ? ((await ort.env.webgpu.device) as unknown as Device) : undefined;
  return {
    name,
    threads,
    lost: device?.lost.then(({ message }) => message || "the device was lost"),
    async run(graph, feeds) {
      const inputs = Object.entries(feeds).map(([key, { data, dims }]) => [key, new ort.Tensor("float32", data, dims)]);
      const outputs = await sessions[graph].run(Object.fromEntries(inputs) as Record<string, Ort.Tensor>);
      return Object.fromEntries(
        Object.entries(outputs).map(([key, tensor]) => [key, { data: tensor.data as Float32Array, dims: tensor.dims }]),
      );
    },
    async release() {
      for (const session of Object.values(sessions)) await session.release();
    },
  };
}
