/** The contract of sam_edge/contract.py, as `python -m sam_edge.web.contract` writes it. Sizes are [height, width]. */

import data from "./contract.json";

export const CONTRACT = data;
export const LABELS = data.labels;

export type Size = readonly [height: number, width: number];

/** Logits (S/4, S/4) row by row, or any other plane of numbers. */
export interface Plane {
  readonly data: Float32Array;
  readonly height: number;
  readonly width: number;
}

/** A tensor of float32 numbers: the only kind that crosses the contract. */
export interface Tensor {
  readonly data: Float32Array;
  readonly dims: readonly number[];
}

export type Tensors = Readonly<Record<string, Tensor>>;
