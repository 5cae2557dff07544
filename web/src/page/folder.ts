/** The folder that `sam-edge web DIR` serves: its photos, and the JSON beside each. */

import { SegmenterError } from "../index";
import type { Sa1bDocument } from "./annotations";

export interface FolderPhoto {
  readonly name: string;
  readonly labelled: boolean;
}

export async function listPhotos(): Promise<FolderPhoto[]> {
  return (await ask("api/photos")).json() as Promise<FolderPhoto[]>;
}

export async function fetchPhoto(name: string): Promise<Blob> {
  return (await ask(`api/photos/${encodeURIComponent(name)}`)).blob();
}

/** What was saved beside a photo, null where nothing was. */
export async function fetchAnnotation(name: string): Promise<Sa1bDocument | null> {
  return (await ask(`api/annotations/${encodeURIComponent(name)}`)).json() as Promise<Sa1bDocument | null>;
}

export async function saveAnnotation(name: string, document: Sa1bDocument): Promise<void> {
  await ask(`api/annotations/${encodeURIComponent(name)}`, {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(document),
  });
}

async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new SegmenterError("browser", "the server does not answer. Start `sam-edge web` again and reload the page.");
  }
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new SegmenterError("browser", body.error ?? `the server answers ${response.status}.`);
}
