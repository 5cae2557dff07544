/** The library's public names. */

export { SegmenterError, type ErrorKind } from "./errors";
export { Segmenter, hasSimd, type PredictOptions, type SegmenterOptions } from "./segmenter";
export type { Plane, Size } from "./contract";
export type { EverythingOptions, Found } from "./everything";
export type { GoldenResult } from "./golden";
export type { ModelSpec } from "./manifest";
export type { Cells, Mask } from "./masks";
export type { PhotoSource } from "./photo";
export type { Box, Point, Prompt } from "./prompts";
export type { Answer, Answers, EngineState, ImageSet } from "./protocol";
export { countsToString, maskToCounts, maskToRle, rleToMask, type CocoRle } from "./rle";
