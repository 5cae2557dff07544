import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend, BackendName, OpenBackend } from "./backend";
import type { Tensors } from "./contract";
import { Engine, type ModelFiles } from "./engine";
import { SegmenterError } from "./errors";
import { embeddingShapes, type ModelSpec } from "./manifest";

const spec: ModelSpec = {
  name: "fake",
  imageSize: 16,
  embeddingChannels: 2,
  highResChannels: [],
  pixelMean: [0, 0, 0],
  pixelStd: [1, 1, 1],
  predIouThresh: 0.5,
  stabilityScoreThresh: 0.5,
};
const graphs = { encoder: new Uint8Array(), decoder: new Uint8Array() };
const manifest = { spec, encoder: "e", decoder: "d", files: {}, embeddingTolerance: 1e-3 };
const model: ModelFiles = { manifest, graphs, url: "http://localhost/" };
const pixels = new Uint8ClampedArray(16 * 16 * 4).fill(255);
const passes = async (): Promise<void> => undefined;

/** Computes constants; stops when told that its device is lost. */
function fake(name: BackendName, log: string[], lost = (): boolean => false): OpenBackend {
  return async () => {
    const backend: Backend = {
      name,
      threads: 1,
      async run(graph): Promise<Tensors> {
        if (lost()) throw new Error("device lost");
        log.push(`${name} ${graph}`);
        if (graph === "encoder")
          return Object.fromEntries(
            embeddingShapes(spec).map(({ name: tensor, dims }) => [tensor, { data: new Float32Array(2), dims }]),
          );
        return {
          low_res_masks: { data: new Float32Array(64).fill(1), dims: [1, 4, 4, 4] },
          iou_predictions: { data: new Float32Array(4).fill(0.5), dims: [1, 4] },
        };
      },
      release: async () => undefined,
    };
    return backend;
  };
}

test("a lost device falls back, encodes the photo again and answers", async () => {
  const log: string[] = [];
  let lost = false;
  const engine = await Engine.open(model, [fake("webgpu", log, () => lost), fake("wasm", log)], passes);
  await engine.setImage(pixels, [16, 16]);
  lost = true;
  const [candidates] = await engine.decode([{ points: [{ x: 1, y: 1, label: 1 }] }]);
  assert.equal(candidates!.length, 4);
  assert.equal(engine.backendName, "wasm");
  assert.match(engine.notes.join(), /no longer used: device lost/);
  assert.deepEqual(log, ["webgpu encoder", "wasm encoder", "wasm decoder"]);
});

test("a device that tells of its loss falls back before the next click", async () => {
  const log: string[] = [];
  let tell: (why: string) => void = () => undefined;
  const open: OpenBackend = (given, onLost) => {
    tell = onLost;
    return fake("webgpu", log)(given, onLost);
  };
  const engine = await Engine.open(model, [open, fake("wasm", log)], passes);
  await engine.setImage(pixels, [16, 16]);
  tell("the driver was restarted");
  await engine.decode([{ points: [{ x: 1, y: 1, label: 1 }] }]);
  assert.deepEqual(log, ["webgpu encoder", "wasm encoder", "wasm decoder"]);
});

test("a backend that fails the self-check is not used, and the reason is kept", async () => {
  const log: string[] = [];
  const fails = async (): Promise<void> => {
    throw new SegmenterError("model", "a mask has IoU 0.5 with the stored one");
  };
  const engine = await Engine.open(model, [fake("webgpu", log), fake("wasm", log)], fails);
  assert.equal(engine.backendName, "wasm");
  assert.match(engine.notes.join(), /IoU 0.5/);
});

test("where the last backend fails, so does loading", async () => {
  const broken: OpenBackend = () => Promise.reject(new SegmenterError("browser", "no memory"));
  await assert.rejects(Engine.open(model, [broken]), /no memory/);
});

test("a decode before a photo says what to do", async () => {
  const engine = await Engine.open(model, [fake("wasm", [])]);
  await assert.rejects(engine.decode([{}]), /Call setImage first/);
});
