/** The elements of index.html that more than one file of the page touches. */

export function element<T extends Element = HTMLElement>(id: string): T {
  return document.getElementById(id) as unknown as T;
}

export const stage = element("stage");
export const photoCanvas = element<HTMLCanvasElement>("photo");
export const helpText = element<HTMLDialogElement>("help-text");
