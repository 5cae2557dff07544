/**
 * `node build.mjs`: the page into ../sam_edge/web/static, the library into dist/. `--tests`: unit tests into .tests/.
 *
 * onnxruntime-web's WebAssembly files are stored gzipped and unpacked by the page itself: no static host needs a setting,
 * and 14.2 MB become 3.7.
 */
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const here = import.meta.dirname;
const site = join(here, "../sam_edge/web/static");
const dist = join(here, "dist");
const ortFiles = join(here, "node_modules/onnxruntime-web/dist");
const common = { bundle: true, format: "esm", target: "es2022", absWorkingDir: here, logLevel: "warning" };
const ORT_SCRIPTS = [
  "ort.wasm.min.mjs",
  "ort.jspi.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.jspi.mjs",
];
const ORT_WASM = ["ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.jspi.wasm"];

function files(folder, prefix = "") {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? files(join(folder, entry.name), `${prefix}${entry.name}/`) : `${prefix}${entry.name}`))
    .sort();
}

function writeRuntime(target) {
  mkdirSync(target, { recursive: true });
  for (const name of ORT_SCRIPTS) {
    const text = readFileSync(join(ortFiles, name), "utf8").replace(/\n?\/\/# sourceMappingURL=.*\s*$/, "\n");
    writeFileSync(join(target, name), text);
  }
  copyFileSync(join(here, "src/ort-license.txt"), join(target, "LICENSE.txt"));
  for (const name of ORT_WASM)
    writeFileSync(join(target, `${name}.gz`), gzipSync(readFileSync(join(ortFiles, name)), { level: 9 }));
}

async function writeTests() {
  rmSync(join(here, ".tests"), { recursive: true, force: true });
  const entryPoints = files(join(here, "src")).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    entryPoints: entryPoints.map((name) => join("src", name)),
    outdir: ".tests",
    platform: "node",
    outExtension: { ".js": ".mjs" },
  });
}

async function writeSite() {
  rmSync(site, { recursive: true, force: true });
  mkdirSync(site, { recursive: true });
  await build({
    ...common,
    minify: true,
    entryPoints: { main: "src/page/main.ts", worker: "src/worker.ts", offline: "src/offline.ts", style: "src/page/style.css" },
    outdir: site,
    legalComments: "eof",
  });
  for (const name of ["index.html", "site.json", "icon.svg"]) copyFileSync(join(here, "src/page", name), join(site, name));
  writeRuntime(join(site, "ort"));
  // Which sources this was built from: a test compares them, so that nobody edits one and forgets the other.
  const sources = ["build.mjs", "package-lock.json", ...files(join(here, "src")).filter((name) => !name.endsWith(".test.ts")).map((name) => `src/${name}`)];
  const hash = createHash("sha256");
  for (const name of sources.sort()) hash.update(name).update("\0").update(readFileSync(join(here, name))).update("\0");
  writeFileSync(join(site, "build.json"), `${JSON.stringify({ sources_sha256: hash.digest("hex") })}\n`);
}

async function writeLibrary() {
  rmSync(dist, { recursive: true, force: true });
  await build({ ...common, minify: true, entryPoints: { index: "src/index.ts", worker: "src/worker.ts" }, outdir: dist });
  writeRuntime(join(dist, "ort"));
  const tsc = join(here, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, "--emitDeclarationOnly", "--declaration", "--noEmit", "false", "--rootDir", "src", "--outDir", "dist/types"], { cwd: here, stdio: "inherit" });
}

if (process.argv.includes("--tests")) await writeTests();
else {
  await writeSite();
  await writeLibrary();
}
