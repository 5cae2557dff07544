/**
 * A saved site without a network: the service worker that keeps one build of it, registered as `offline.js?build=…`.
 *
 * A page comes whole from one build. Its HTML is asked of the network first, and with it site.json, which names the
 * build on the server. If that is the build kept here, everything else comes from the cache; if it is another one,
 * everything comes from the network, and that page registers that build's own worker, whose activation ends this one.
 * Nothing is stored but the files that site.json lists: no photo, no answer of an API. Headers are stored with each
 * file, so that the page's policy and its isolation are the same without a network.
 */

import { hexDigest } from "./download";

/** What site.json says of the build that it belongs to. */
export interface Build {
  /** Names the build: a hash over all that the site consists of. */
  readonly build: string;
  /** SHA-256 of each file but site.json itself. */
  readonly files: Readonly<Record<string, string>>;
}

declare const self: ServiceWorkerGlobalScope;

const BUILD = new URL(self.location.href).searchParams.get("build") ?? "";
const SCOPE = self.registration.scope;
const PREFIX = `sam-edge ${SCOPE} `; // sites of one host share its caches
const CACHE = PREFIX + BUILD;
const PATIENCE_MS = 4000; // a network that takes longer counts as none

/** Is the build on the server this one? Asked once a visit, and again where the browser restarted this worker. */
let current: Promise<boolean> | undefined;

self.addEventListener("install", (event) => event.waitUntil(keep().then(() => self.skipWaiting())));
self.addEventListener("activate", (event) => event.waitUntil(dropOthers()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(SCOPE)) event.respondWith(answer(event.request));
});

async function answer(request: Request): Promise<Response> {
  const kept = await caches.match(address(request.url), { cacheName: CACHE, ignoreVary: true });
  if (!kept) return fetch(request);
  if (request.mode === "navigate") return openPage(request, kept);
  current ??= inTime(isCurrent()).catch(() => true);
  return (await current) ? kept : fetch(request, { cache: "no-cache" });
}

async function openPage(request: Request, kept: Response): Promise<Response> {
  try {
    const [page, same] = await inTime(Promise.all([fetch(request, { cache: "no-cache" }), isCurrent()]));
    current = Promise.resolve(same);
    return page;
  } catch {
    current = Promise.resolve(true); // all from here, even if the network comes back meanwhile
    return kept;
  }
}

async function isCurrent(): Promise<boolean> {
  const response = await fetch(address("site.json"), { cache: "no-cache" });
  return response.ok && (await readBuild(response))?.build === BUILD;
}

/** Store every file of the build, or nothing. */
async function keep(): Promise<void> {
  const site = await fetch(address("site.json"), { cache: "no-cache" });
  const listed = await readBuild(site.clone());
  if (listed?.build !== BUILD) throw new Error(`the server has build ${listed?.build}, expected ${BUILD}`);
  const webgpu = await hasWebGpu();
  try {
    const cache = await caches.open(CACHE);
    for (const [name, sha256] of Object.entries(listed.files))
      if (webgpu || !name.includes(".jspi.")) await cache.put(address(name), await fetchListed(name, sha256));
    await cache.put(address("site.json"), site);
  } catch (error) {
    await caches.delete(CACHE);
    throw error;
  }
}

/** A file as the list names it: a host that is just being updated, or a stale proxy, would mix two builds. */
async function fetchListed(name: string, sha256: string): Promise<Response> {
  const response = await fetch(address(name), { cache: "no-cache" }); // asks the host; mostly answered by 304
  if (!response.ok) throw new Error(`${name} answers ${response.status}, expected 200`);
  const data = new Uint8Array(await response.arrayBuffer());
  const unpacked = name.endsWith(".gz") && data[0] !== 0x1f; // by hosts that send Content-Encoding; see gunzip()
  const own = name === "index.html"; // people give the page a title or a footer of their own
  if (!unpacked && !own && (await hexDigest(data)) !== sha256) throw new Error(`${name} is not the file of build ${BUILD}`);
  // Anew, because a response that was redirected (/index.html to /) may not answer a visit.
  return new Response(data, { headers: response.headers });
}

/** 4 MB that a browser without a GPU never asks for; without them the page computes on the CPU. */
async function hasWebGpu(): Promise<boolean> {
  const { gpu } = navigator as { gpu?: { requestAdapter(): Promise<unknown> } };
  return Boolean(await gpu?.requestAdapter().catch(() => null));
}

async function dropOthers(): Promise<void> {
  const names = await caches.keys();
  const others = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(others.map((name) => caches.delete(name)));
}

async function readBuild(site: Response): Promise<Build | undefined> {
  return ((await site.json()) as { offline?: Build }).offline;
}

/** A file's one address, without search and hash; the page is the folder itself. */
function address(nameOrUrl: string): string {
  const { origin, pathname } = new URL(nameOrUrl, SCOPE);
  return (origin + pathname).replace(/index\.html$/, "");
}

/** Rejects where `work` takes longer than anybody waits. */
function inTime<T>(work: Promise<T>): Promise<T> {
  return Promise.race([work, new Promise<never>((_, reject) => setTimeout(reject, PATIENCE_MS))]);
}
