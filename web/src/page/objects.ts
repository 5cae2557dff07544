/** The list of objects: choose one, name it, remove it. */

import type { Mask } from "../index";
import { element } from "./dom";
import { renamed, withoutObject, type LabelledObject } from "./labels";
import { colourOf } from "./painting";
import { change, history, state } from "./state";

export function showObjects(): void {
  const { objects, current } = history.now;
  element("no-objects").hidden = objects.length > 0;
  const list = element("objects");
  const typing = document.activeElement instanceof HTMLInputElement && list.contains(document.activeElement);
  if (typing && list.childElementCount === objects.length) return; // a name is being typed
  list.replaceChildren(...objects.map((object) => makeRow(object, object.id === current)));
  list.querySelector(".current")?.scrollIntoView({ block: "nearest" });
}

function makeRow(object: LabelledObject, current: boolean): HTMLLIElement {
  const row = document.createElement("li");
  row.classList.toggle("current", current);
  row.append(makeNumber(object, current), makeName(object), makeSize(object), makeRemove(object));
  return row;
}

function makeNumber({ id }: LabelledObject, current: boolean): HTMLButtonElement {
  const number = document.createElement("button");
  const [red, green, blue] = colourOf(id);
  number.className = "number";
  number.type = "button";
  number.textContent = String(id);
  number.style.background = `rgb(${red} ${green} ${blue})`;
  number.style.color = red * 0.3 + green * 0.6 + blue * 0.1 > 140 ? "#000" : "#fff";
  number.ariaLabel = `Choose object ${id}`;
  if (current) number.ariaCurrent = "true";
  number.onclick = () => change({ ...history.now, current: id });
  return number;
}

function makeName({ id, name, proposed }: LabelledObject): HTMLInputElement {
  const input = document.createElement("input");
  input.type = "text";
  input.value = name;
  input.placeholder = proposed ? "found; name it" : "name";
  input.ariaLabel = `Name of object ${id}`;
  input.maxLength = 100;
  input.oninput = () => {
    history.replace(renamed(history.now, id, input.value));
    state.unsaved = true;
  };
  return input;
}

function makeSize({ mask, predictedIou }: LabelledObject): HTMLSpanElement {
  const size = document.createElement("span");
  size.className = "size";
  size.textContent = share(mask);
  size.title = `of the photo${predictedIou ? `; the model expects an IoU of ${predictedIou.toFixed(2)}` : ""}`;
  return size;
}

function makeRemove({ id }: LabelledObject): HTMLButtonElement {
  const remove = document.createElement("button");
  remove.className = "remove";
  remove.type = "button";
  remove.textContent = "✕";
  remove.ariaLabel = `Remove object ${id}`;
  remove.onclick = () => change(withoutObject(history.now, id));
  return remove;
}

function share(mask: Mask | undefined): string {
  if (!mask?.area) return "empty";
  const percent = (100 * mask.area) / (mask.size[0] * mask.size[1]);
  return percent < 1 ? "< 1 %" : `${percent.toFixed(0)} %`;
}
