/** Has the browser keep this site, so that the next visit needs no network. The keeping itself is ../offline.ts. */

import type { SiteSettings } from "./site";
import { showEngine } from "./speed";
import { state } from "./state";

/** Does the next visit work without a network? Where nothing can be kept, nothing is said; where it failed, that is. */
export async function keepSite({ offline }: SiteSettings): Promise<boolean> {
  // Browsers have service workers on HTTPS and on localhost only, and the local server's page has no list.
  if (!offline || !isSecureContext || !("serviceWorker" in navigator)) return false;
  const kept = await register(offline.build).catch(() => false);
  state.kept = kept;
  showEngine();
  return kept;
}

async function register(build: string): Promise<boolean> {
  // The build is part of the address: another build is another worker, although the script is the same.
  const script = `offline.js?build=${encodeURIComponent(build)}`;
  const registration = await navigator.serviceWorker.register(script, { updateViaCache: "none" });
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  return new Promise((resolve) => {
    const look = (): void => {
      if (worker?.state === "activated") resolve(true);
      else if (!worker || worker.state === "redundant") resolve(false); // it could not fetch or store all files
    };
    worker?.addEventListener("statechange", look);
    look();
  });
}
