import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { plan } from "../backends/kernel/index.ts";
import { dawn, defaultLimits } from "../backends/wgsl/index.ts";
import { printKernels } from "../backends/wgsl/kernels.ts";
import { deviceOf } from "../backends/wgsl/limits.ts";
import { bundle } from "../backends/wgsl/package/bundle.ts";
import type { KernelCheck, KernelFile } from "../backends/wgsl/runtime/program.ts";
import { samplerFor } from "../backends/wgsl/sampler.ts";
import { minus } from "../ir/dim.ts";
import { Graph } from "../ir/graph.ts";
import { add, linear, slice } from "../ir/ops/index.ts";
import { findGpu } from "./support/gpu.ts";
import { norm, T, weight, x } from "./support/kernel-case.ts";

/** What the runtime is made of, as artifacts carry it: its types are those of a browser. */
interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}
interface Runtime {
  readonly Files: new (base: URL, signal: undefined) => object;
  pipelines(program: object, gpu: object, options: object): Promise<Pipeline[]>;
  solves(k: KernelFile, check: KernelCheck, made: Pipeline, device: GPUDevice): Promise<string | undefined>;
}
const script = `${bundle("load.ts").script}\nexport { Files, pipelines, solves };\n`;
const { Files, pipelines, solves }: Runtime = await import(
  `data:text/javascript;base64,${Buffer.from(script).toString("base64")}`
);

const found = await findGpu();
const dir = mkdtempSync(join(tmpdir(), "gemmac-fallback-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A norm on its own, and a head of 1003 words. */
const stream = add(x(40), norm(x(40)));
const last = slice(stream, { axis: 1, from: minus(T, 1), to: T });
const logits = linear(last, weight("f32", 1003, 40));
const graph = new Graph("head", { inputs: [x(40)], outputs: { logits } });
const device = deviceOf(defaultLimits);
const planned = plan(graph, { device, tokens: 4 });
const { files, kernels } = printKernels(planned, samplerFor(planned, device, 256));

const written = (path: string, text: string, features: readonly string[] = []) => {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), text);
  const sha256 = createHash("sha256").update(text).digest("hex");
  return { path, bytes: Buffer.byteLength(text), sha256, features };
};
const named = (start: string) => kernels.find((k) => k.name.startsWith(start)) as KernelFile;
const plainOf = (k: KernelFile) => files.find((f) => f.path === `kernels/${k.name}.wgsl`)?.text ?? "";
/** The norm, before whose text another one is tried. */
const tried = (text: string, fallback = true): KernelFile => {
  const k = named("rms_norm");
  const plain = written(`kernels/${k.name}.wgsl`, plainOf(k));
  return { ...k, variants: [written("kernels/fast.wgsl", text), ...(fallback ? [plain] : [])] };
};

const onGpu = "name" in found ? found.name : `no GPU: ${found.missing}`;
describe.skipIf("missing" in found)(`kernels that fail their small case are replaced, on ${onGpu}`, () => {
  let gpu: GPUDevice;
  let features: ReadonlySet<string>;
  beforeAll(async () => {
    const adapter = await ((await dawn()) as GPU).requestAdapter();
    const requiredFeatures = (["subgroups"] as const).filter((f) => adapter?.features.has(f));
    gpu = (await adapter?.requestDevice({ requiredFeatures })) as GPUDevice;
    features = new Set(requiredFeatures);
  }, 60_000);
  afterAll(() => gpu?.destroy());

  const loaded = async (...some: readonly KernelFile[]) => {
    const notices: string[] = [];
    const made = await pipelines(
      { kernels: some },
      { device: gpu, features, name: onGpu },
      {
        files: new Files(pathToFileURL(`${dir}/`), undefined),
        notice: (message: string) => notices.push(message),
        progress: () => {},
      },
    );
    const wrong: (string | undefined)[] = [];
    for (const [i, k] of some.entries())
      if (k.check && made[i]) wrong.push(await solves(k, k.check, made[i], gpu));
    return { notices, wrong };
  };

  test("those that are right are not", { timeout: 60_000 }, async () => {
    for (const { path, text } of files) written(path, text);
    const some = kernels.filter((k) => /^(rms_norm|top_scores|draw_token)/.test(k.name));
    expect(some).toHaveLength(3);
    expect(await loaded(...some)).toEqual({ notices: [], wrong: some.map(() => undefined) });
  });

  test("one that computes wrong numbers", async () => {
    const text = plainOf(named("rms_norm"));
    const wrong = text.replaceAll("inverseSqrt(", "sqrt(");
    expect(wrong).not.toBe(text);
    const { notices, wrong: left } = await loaded(tried(wrong));
    expect(notices).toEqual([
      expect.stringMatching(
        /^kernels\/fast\.wgsl computes wrong numbers on this GPU \(.* is right\); kernels\/rms_norm.*\.wgsl is used instead$/,
      ),
    ]);
    expect(left).toEqual([undefined]);
  });

  test("one that does not compile", async () => {
    const { notices, wrong } = await loaded(tried("fn nonsense("));
    expect(notices).toEqual([expect.stringMatching(/^kernels\/fast\.wgsl does not compile here/)]);
    expect(wrong).toEqual([undefined]);
  });

  test("with none left, nothing is run", async () => {
    const wrong = plainOf(named("rms_norm")).replaceAll("inverseSqrt(", "sqrt(");
    await expect(loaded(tried(wrong, false))).rejects.toThrow(
      /this GPU computes wrong numbers with kernels\/fast/,
    );
    await expect(loaded(tried("fn nonsense(", false))).rejects.toThrow(
      /takes no variant of the kernel rms_norm/,
    );
  });
});
