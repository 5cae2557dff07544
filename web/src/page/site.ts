/** site.json: what this copy of the page may use. */

import type { Build } from "../offline";
import type { Example } from "./opening";

export interface SiteSettings {
  /** The model's folder. */
  readonly model: string;
  readonly examples: readonly Example[];
  /** Does the server have a folder to label? */
  readonly folder: boolean;
  readonly webgpu: boolean;
  /** Only of a site that was saved for a static host. */
  readonly offline?: Build;
}

export async function readSettings(): Promise<SiteSettings> {
  return (await (await fetch("site.json")).json()) as SiteSettings;
}
