import assert from "node:assert/strict";
import { test } from "node:test";
import { currentObject, editable, History, makeObject, startObject, withObject, withoutObject } from "./labels";
import { Latest } from "./latest";
import { Durations } from "./timings";

test("hover asks for the newest place only, and never queues more than one", async () => {
  const asked: number[] = [];
  let release: () => void = () => undefined;
  const latest = new Latest<number>(async (place) => {
    asked.push(place);
    await new Promise<void>((resolve) => (release = resolve));
  });
  for (const place of [1, 2, 3, 4]) latest.ask(place);
  release();
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(asked, [1, 4]);
  assert.equal(latest.mostQueued, 2); // one that runs and one that waits
  release();
});

test("undo and redo go through every step, and a new step drops what was undone", () => {
  const history = new History();
  history.push(withObject(history.now, makeObject(1, { name: "cup" })));
  history.push(withObject(history.now, makeObject(2)));
  history.undo();
  assert.deepEqual([history.now.objects.length, history.canRedo], [1, true]);
  history.redo();
  assert.equal(history.now.objects.length, 2);
  history.undo();
  history.push(withoutObject(history.now, 1));
  assert.deepEqual([history.now.objects.length, history.canRedo], [0, false]);
});

test("a click changes the object it belongs to, or begins one", () => {
  let labels = new History().now;
  assert.equal(editable(labels).id, 1);
  labels = withObject(labels, makeObject(1, { points: [{ x: 1, y: 2, label: 1 }] }));
  assert.equal(editable(labels).points.length, 1);
  labels = startObject(labels);
  assert.deepEqual([currentObject(labels), editable(labels).id], [undefined, 2]);
  const restored = withObject(labels, makeObject(2)); // of a file: has no prompts
  assert.equal(editable(restored).id, 3);
});

test("percentiles are nearest ranks", () => {
  const durations = new Durations();
  assert.equal(durations.percentile(90), undefined);
  for (let value = 1; value <= 10; value++) durations.add(value);
  assert.deepEqual([durations.percentile(50), durations.percentile(90), durations.last], [5, 9, 10]);
});
