/** How fast this device is, where the model runs on it, and whether it computes what the reference computed. */

import { SegmenterError } from "../index";
import { element } from "./dom";
import { state, timings } from "./state";
import { complain, inTurn, say } from "./status";

export function showTimings(): void {
  const ms = (value: number | undefined): string => (value === undefined ? "–" : `${Math.round(value)} ms`);
  const rows: [string, string][] = [
    ["Photo encoded in", ms(timings.encodeMs)],
    ["Last click", ms(timings.clicks.last)],
    ["9 of 10 clicks within", ms(timings.clicks.percentile(90))],
  ];
  element("timings").replaceChildren(
    ...rows.flatMap(([term, value]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [term, value];
      return [dt, dd];
    }),
  );
}

export function showEngine(): void {
  if (!state.segmenter) return;
  const { backend, threads, notes, spec } = state.segmenter.state;
  const where = backend === "webgpu" ? "on the GPU (WebGPU)" : `on the CPU, ${threads} thread${threads > 1 ? "s" : ""}`;
  const slower =
    backend === "wasm" && !crossOriginIsolated
      ? " One thread only, so slower: this site's server does not isolate the page (COOP and COEP headers). `sam-edge web` does."
      : "";
  const lost = notes.filter((note) => note.includes("no longer")).join(" ");
  element("engine").textContent = [`Model ${spec.name} ${where}.${slower}`, lost, keeping()].filter(Boolean).join(" ");
}

function keeping(): string {
  if (state.kept === undefined) return "";
  return state.kept
    ? "This site is kept on this device and opens without a network."
    : "This site could not be kept on this device: without a network it does not open.";
}

/** The golden photos of the model, computed here. */
export function check(): Promise<void> {
  return inTurn(async () => {
    const { segmenter } = state;
    if (!segmenter) return;
    say("Computing the reference photos…");
    const { embedding, maskIou, tolerance } = await segmenter.selfCheck();
    const same = embedding <= tolerance && maskIou >= 0.99;
    if (same) say(`This browser draws the reference's masks (smallest IoU ${maskIou.toFixed(4)}).`);
    else complain(new SegmenterError("model", `this browser computes something else (smallest mask IoU ${maskIou.toFixed(3)}). Do not trust its masks; try another one.`));
  });
}
