/** manifest.json of an artifact folder: read strictly, compared with the contract before a model byte is used. */

import { CONTRACT } from "./contract";
import { SegmenterError } from "./errors";

export interface ModelSpec {
  readonly name: string;
  readonly imageSize: number;
  readonly embeddingChannels: number;
  readonly highResChannels: readonly number[];
  readonly pixelMean: readonly number[];
  readonly pixelStd: readonly number[];
  readonly predIouThresh: number;
  readonly stabilityScoreThresh: number;
}

export interface FileEntry {
  readonly sha256: string;
  readonly bytes: number;
}

export interface Manifest {
  readonly spec: ModelSpec;
  readonly encoder: string;
  readonly decoder: string;
  readonly files: Readonly<Record<string, FileEntry>>;
  readonly embeddingTolerance: number;
}

const MAX_IMAGE_SIZE = 4096;
const MAX_CHANNELS = 4096;
const MAX_TOLERANCE = 20; // standard deviations, as manifest_json.py has it: an int8 encoder may need more than 1
const MAX_FILE_BYTES = 512 * 2 ** 20;
const PLAIN_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;
const SHA256 = /^[0-9a-f]{64}$/;

type Json = Record<string, unknown>;
type Shape = readonly (number | string)[];

/** Read the parsed JSON of a manifest. Throws SegmenterError of kind "model". */
export function readManifest(json: unknown): Manifest {
  const root = object(json, "manifest.json");
  if (root["schema"] !== CONTRACT.schema) refuse(`schema is ${show(root["schema"])}, expected ${CONTRACT.schema}`);
  for (const [step, words] of Object.entries(CONTRACT.preprocessing))
    if (object(root["preprocessing"], "preprocessing")[step] !== words)
      refuse(`preprocessing.${step} is not what this page does ("${words}")`);
  if (root["target"] !== "onnx") refuse(`target is ${show(root["target"])}, expected "onnx"`);
  const fixed = root["fixed_sizes"];
  if (fixed !== undefined && Object.keys(object(fixed, "fixed_sizes")).length > 0)
    refuse("fixed_sizes is not empty, expected a decoder with free sizes");
  const spec = readSpec(object(root["spec"], "spec"));
  if (object(root["spec"], "spec")["photo_input"] === true)
    refuse("its encoder takes the photo itself, and this page prepares photos as `image`");
  const files = readFiles(object(root["files"], "files"));
  const graphs = object(root["graphs"], "graphs");
  const [encoder, decoder] = ["encoder", "decoder"].map((name) => {
    const graph = object(graphs[name], `graphs.${name}`);
    checkTensors(name, graph, spec);
    const file = graph["file"];
    if (typeof file !== "string" || !(file in files)) refuse(`${show(file)} of ${name} is not among its files`);
    return file as string;
  }) as [string, string];
  const embeddingTolerance = number(root["embedding_tolerance"], "embedding_tolerance", 0, MAX_TOLERANCE);
  return { spec, encoder, decoder, files, embeddingTolerance };
}

function readSpec(spec: Json): ModelSpec {
  const imageSize = whole(spec["image_size"], "spec.image_size", CONTRACT.embeddingStride, MAX_IMAGE_SIZE);
  if (imageSize % CONTRACT.embeddingStride) refuse(`spec.image_size is ${imageSize}, expected a multiple of 16`);
  const channels = list(spec["high_res_channels"], "spec.high_res_channels");
  if (channels.length !== 0 && channels.length !== CONTRACT.highResStrides.length)
    refuse(`spec.high_res_channels has ${channels.length} numbers`);
  const perChannel = (key: string): number[] => {
    const values = list(spec[key], `spec.${key}`).map((value) => number(value, `spec.${key}`, -1e4, 1e4));
    if (values.length !== 3) refuse(`spec.${key} has ${values.length} numbers, expected 3`);
    return values;
  };
  const pixelStd = perChannel("pixel_std");
  if (pixelStd.some((value) => value <= 0)) refuse("spec.pixel_std has a number that is not above 0");
  return {
    name: String(spec["name"]),
    imageSize,
    embeddingChannels: whole(spec["embedding_channels"], "spec.embedding_channels", 1, MAX_CHANNELS),
    highResChannels: channels.map((value) => whole(value, "spec.high_res_channels", 1, MAX_CHANNELS)),
    pixelMean: perChannel("pixel_mean"),
    pixelStd,
    predIouThresh: number(spec["pred_iou_thresh"], "spec.pred_iou_thresh", 0, 1),
    stabilityScoreThresh: number(spec["stability_score_thresh"], "spec.stability_score_thresh", 0, 1),
  };
}

function readFiles(files: Json): Record<string, FileEntry> {
  const entries: Record<string, FileEntry> = {};
  for (const [name, value] of Object.entries(files)) {
    if (!PLAIN_NAME.test(name)) refuse(`files has ${show(name)}, expected a plain file name`);
    const entry = object(value, `files.${name}`);
    const sha256 = entry["sha256"];
    if (typeof sha256 !== "string" || !SHA256.test(sha256)) refuse(`files.${name}.sha256 is no SHA-256`);
    entries[name] = {
      sha256: sha256 as string,
      bytes: whole(entry["bytes"], `files.${name}.bytes`, 0, MAX_FILE_BYTES),
    };
  }
  return entries;
}

/** Shapes of the encoder's outputs, which are the decoder's first inputs, in order. */
export function embeddingShapes(spec: ModelSpec): { name: string; dims: number[] }[] {
  const size = spec.imageSize / CONTRACT.embeddingStride;
  const first = [1, spec.embeddingChannels, size, size];
  const others = spec.highResChannels.map((channels, index) => {
    const side = spec.imageSize / CONTRACT.highResStrides[index]!;
    return [1, channels, side, side];
  });
  return [first, ...others].map((dims, index) => ({ name: CONTRACT.embeddings[index]!, dims }));
}

function checkTensors(name: string, graph: Json, spec: ModelSpec): void {
  const side = spec.imageSize;
  const mask = side / CONTRACT.maskStride;
  const { prompts, points } = CONTRACT.sizes;
  const embeddings = embeddingShapes(spec).map(({ name, dims }): [string, Shape] => [name, dims]);
  const promptShapes: Shape[] = [[prompts, points, 2], [prompts, points], [prompts, 1, mask, mask], [prompts]];
  const outputShapes: Shape[] = [
    [prompts, CONTRACT.numMasks, mask, mask],
    [prompts, CONTRACT.numMasks],
  ];
  const named = (names: readonly string[], shapes: Shape[]): [string, Shape][] =>
    names.map((name, index) => [name, shapes[index]!]);
  const expected =
    name === "encoder"
      ? { inputs: [[CONTRACT.image, [1, 3, side, side]] as [string, Shape]], outputs: embeddings }
      : {
          inputs: [...embeddings, ...named(CONTRACT.promptInputs, promptShapes)],
          outputs: named(CONTRACT.predictionOutputs, outputShapes),
        };
  for (const way of ["inputs", "outputs"] as const) {
    const declared = list(graph[way], `graphs.${name}.${way}`).map((value) => {
      const tensor = object(value, `graphs.${name}.${way}`);
      return [tensor["name"], tensor["dtype"], tensor["shape"]];
    });
    const wanted = expected[way].map(([name, shape]) => [name, "float32", shape]);
    if (JSON.stringify(declared) !== JSON.stringify(wanted))
      refuse(`${way} of the ${name} are ${show(declared)}, but the contract's are ${show(wanted)}`);
  }
}

function refuse(what: string): never {
  throw new SegmenterError("model", `manifest.json cannot be used: ${what}. Export the model again.`);
}

function show(value: unknown): string {
  return (JSON.stringify(value) ?? "missing").slice(0, 300);
}

function object(value: unknown, where: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(`${where} is ${show(value)}`);
  return value as Json;
}

function list(value: unknown, where: string): unknown[] {
  if (!Array.isArray(value)) refuse(`${where} is ${show(value)}, expected a list`);
  return value as unknown[];
}

function number(value: unknown, where: string, low: number, high: number): number {
  if (typeof value !== "number" || !(value >= low && value <= high))
    refuse(`${where} is ${show(value)}, expected ${low} to ${high}`);
  return value as number;
}

function whole(value: unknown, where: string, low: number, high: number): number {
  const read = number(value, where, low, high);
  if (!Number.isInteger(read)) refuse(`${where} is ${read}, expected a whole number`);
  return read;
}
