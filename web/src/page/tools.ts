/** Which buttons can be pressed now, and what they say. */

import { element, stage } from "./dom";
import { currentObject } from "./labels";
import { history, state } from "./state";

export function showTools(): void {
  const object = currentObject(history.now);
  const set = (id: string, enabled: boolean): void => {
    element<HTMLButtonElement>(id).disabled = !enabled;
  };
  set("undo", history.canUndo);
  set("redo", history.canRedo);
  set("clear", Boolean(object));
  set("alternative", Boolean(object?.answers.length));
  set("new", Boolean(object));
  element("choice").textContent = object?.answers.length ? `${object.choice + 1}/${object.answers.length}` : "";
  const drawn = history.now.objects.some(({ mask }) => mask?.area);
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-export]")) {
    const single = ["cutout", "mask"].includes(button.dataset["export"]!);
    button.disabled = single ? !object?.cells || !object.mask?.area : !drawn;
    button.title = single && drawn && button.disabled ? "Choose an object in the list first" : "";
  }
  element("everything").innerHTML = state.searching ? "Stop <kbd>Esc</kbd>" : "Find all <kbd>E</kbd>";
  stage.classList.toggle("busy", state.searching);
}
