/** What the page says in its one line, and the queue in which it works. */

import { SegmenterError } from "../index";
import { element } from "./dom";

const statusLine = element("status");
let work: Promise<void> = Promise.resolve();

export function say(text: string): void {
  statusLine.textContent = text;
  statusLine.classList.remove("error");
}

export function complain(error: unknown): void {
  if (error instanceof SegmenterError && error.kind === "cancelled") return say("Stopped.");
  const text = error instanceof Error ? error.message : String(error);
  statusLine.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  statusLine.classList.add("error");
}

/** One thing after the other, in the order in which a person asked for them; an error is said. */
export function inTurn(task: () => Promise<void>): Promise<void> {
  work = work.then(task).catch(complain);
  return work;
}

/** When all that was asked for so far is done. */
export function idle(): Promise<void> {
  return work;
}
