// A real Chromium with WebGPU on the CPU, wherever one can be had. Run by itself it prints the path, if there is one.
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installed } from "../bench/packages.mjs";

const cache = join(tmpdir(), "gemmac-bench", "deps");
const places = [process.env.CHROME, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** How to start a browser; or, as `missing`, why there is none. */
export async function findChromium() {
  const driver = installed(cache, "playwright-core");
  if (driver.missing) return { missing: `playwright-core cannot be installed: ${driver.missing}` };
  const { chromium } = await import(driver.url);
  let path = places.find((p) => p && existsSync(p));
  if (!path) {
    const packed = installed(cache, "@sparticuz/chromium");
    if (packed.missing) return { missing: `there is no chromium, and @sparticuz/chromium cannot be installed: ${packed.missing}` };
    path = await (await import(packed.url)).default.executablePath();
  }
  const quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
  const launch = ({ webgpu = true } = {}) =>
    chromium.launch({
      executablePath: path,
      args: ["--no-sandbox", ...quiet, ...(webgpu ? ["--enable-unsafe-webgpu"] : [])],
    });
  return { path, launch };
}

if (process.argv[1] === import.meta.filename) console.log((await findChromium()).path ?? "");
