// node test/external/swiftshader.mjs: the goldens of WGSL on SwiftShader, the software GPU that Chromium brings. It has
// neither f16 nor the sizes of lavapipe's subgroups. Says so where it cannot be had. Ends with 1 where a golden is missed.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { findChromium } from "./chromium.mjs";

const chromium = await findChromium();
const home = chromium.path && dirname(chromium.path);
const driver = [home, "/usr/lib/chromium"].map((dir) => dir && join(dir, "vk_swiftshader_icd.json")).find((path) => path && existsSync(path));
if (driver) {
  const { LD_LIBRARY_PATH: had } = process.env;
  const { status, stdout } = spawnSync("npx", ["vitest", "run", "test/goldens.test.ts", "-t", "on wgsl", "--disable-console-intercept"], {
    cwd: fileURLToPath(new URL("../..", import.meta.url)),
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
    // Beside it lies Vulkan's loader.
    env: { ...process.env, VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: [had, dirname(driver)].filter(Boolean).join(delimiter) },
  });
  process.stdout.write(stdout);
  // A line of their table says that they ran.
  process.exitCode = status === 0 && /^demo +wgsl /m.test(stdout) ? 0 : 1;
} else console.log(`SKIPPED the goldens on SwiftShader: ${chromium.missing ?? `Chromium in ${home} has none`}`);
