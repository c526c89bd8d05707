import { execFileSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { mul } from "../ir/ops/index.ts";
import { map, pass } from "../passes/pass.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { plan } from "../src/plan/plan.ts";
import { verify } from "../src/verify/verify.ts";
import { distance } from "./support/goldens.ts";
import { findJax } from "./support/jax.ts";

const tiny = join(import.meta.dirname, "data/models/gemma1-mha");
const root = mkdtempSync(join(tmpdir(), "gemmac-compile-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const fresh = () => mkdtempSync(join(root, "case-"));

/** A copy of the tiny checkpoint with its weight bytes changed. */
function altered(change: (bytes: Buffer, at: (tensor: string) => number) => Buffer): string {
  const dir = fresh();
  cpSync(tiny, dir, { recursive: true });
  const path = join(dir, "model.safetensors");
  const bytes = readFileSync(path);
  const end = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, end));
  writeFileSync(
    path,
    change(bytes, (tensor) => end + header[tensor].data_offsets[0]),
  );
  return dir;
}

async function refused(checkpoint: string, out: string, options = {}): Promise<UserError> {
  const error = await compile(checkpoint, { targets: ["onnx"], out, ...options }).catch((e) => e);
  expect(error).toBeInstanceOf(UserError);
  expect(error.message).not.toMatch(/\n/);
  return error;
}

test.each<[string, () => string, string]>([
  ["a truncated header", () => altered((b) => b.subarray(0, 40)), "model.safetensors"],
  ["data cut short", () => altered((b) => b.subarray(0, b.length - 100)), "past the end"],
  [
    "a config that does not fit the weights",
    () => {
      const dir = altered((b) => b);
      const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));
      writeFileSync(join(dir, "config.json"), JSON.stringify({ ...config, num_key_value_heads: 2 }));
      return dir;
    },
    "k_proj",
  ],
])("%s: one line, and no folder is left", async (_, make, word) => {
  const work = fresh();
  const error = await refused(make(), join(work, "out"));
  expect(error.message).toContain(word);
  expect(error.next).not.toBe("");
  expect(readdirSync(work)).toEqual([]);
});

test("NaN and infinity in weights are told by name, whatever their place", async () => {
  const [norm, gate] = ["model.layers.1.input_layernorm.weight", "model.layers.0.mlp.gate_proj.weight"];
  const dir = altered((bytes, at) => {
    bytes.writeUInt16LE(0x7fc0, at(norm) + 2); // NaN, the second of two packed halves
    bytes.writeUInt16LE(0xff80, at(gate) + 40); // minus infinity
    return bytes;
  });
  const warned: string[] = [];
  const report = await compile(dir, {
    targets: ["onnx"],
    out: join(fresh(), "out"),
    warn: (w) => warned.push(w),
  });
  expect(warned.filter((w) => w.includes("NaN"))).toHaveLength(2);
  expect(report.warnings.join()).toContain(norm);
  expect(report.warnings.join()).toContain(gate);
});

test("an output that exists is kept, unless it is gemmac's and --force says so", async () => {
  const out = join(fresh(), "out");
  await compile(tiny, { targets: ["onnx"], out });
  expect((await refused(tiny, out)).next).toContain("--force");
  await compile(tiny, { targets: ["onnx"], out, force: true });

  writeFileSync(join(out, "notes.txt"), "kept beside the artifact");
  expect((await refused(tiny, out, { force: true })).message).toContain("notes.txt");
});

test("what was built inside an artifact goes with it, and nothing else", async () => {
  const out = join(fresh(), "out");
  const again = () => compile(tiny, { targets: ["c"], out, force: true, verify: false });
  const put = (path: string, text: string) => {
    mkdirSync(dirname(join(out, path)), { recursive: true });
    writeFileSync(join(out, path), text);
  };
  await again();
  for (const name of ["gemma", "gemma-test", "libgemma.so", "__pycache__/gemma.cpython-311.pyc"])
    put(name, "");
  put("build/CMakeFiles/gemma.dir/gemma.c.o", "");
  put("build/CMakeCache.txt", "CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere\n");
  expect((await refused(tiny, out, { force: true })).message).toContain("build/CMake");
  put("build/CMakeCache.txt", `CMAKE_HOME_DIRECTORY:INTERNAL=${realpathSync(out)}\n`);
  await again();
  expect(readdirSync(out)).not.toContain("gemma");
  put("__pycache__/mine.py", "");
  expect((await refused(tiny, out, { force: true })).message).toContain("mine.py");
});

test("a folder that holds anything but gemmac's own files is never replaced", async () => {
  const mine = fresh();
  writeFileSync(join(mine, "thesis.txt"), "years of work");
  expect((await refused(tiny, mine, { force: true })).message).toContain(
    "thesis.txt is no part of an artifact",
  );

  // An artifact in one corner of a workspace does not make the workspace gemmac's.
  await compile(tiny, { targets: ["onnx"], out: join(mine, "art") });
  await refused(tiny, mine, { force: true });

  const checkpoint = join(mine, "checkpoint");
  cpSync(tiny, checkpoint, { recursive: true });
  for (const out of [checkpoint, mine, join(checkpoint, "..")])
    expect((await refused(checkpoint, out, { force: true })).message).toContain(
      "holds the checkpoint itself",
    );
  expect((await refused(checkpoint, "")).message).toContain("empty");

  const link = join(mine, "link");
  symlinkSync("nowhere", link);
  await refused(checkpoint, link, { force: true });
  expect(readdirSync(mine).sort()).toEqual(["art", "checkpoint", "link", "thesis.txt"]);
  expect(readdirSync(checkpoint).sort()).toEqual(readdirSync(tiny).sort());
});

test("the same input gives the same bytes", async () => {
  const [a, b] = [join(fresh(), "out"), join(fresh(), "out")];
  await compile(tiny, { targets: ["onnx"], out: a });
  await compile(tiny, { targets: ["onnx"], out: b });
  for (const file of ["manifest.json", "config.json", "onnx/model.onnx", "onnx/model.onnx_data"])
    expect(readFileSync(join(a, file)).equals(readFileSync(join(b, file))), file).toBe(true);
});

test("weights as stored and as f32 mean the same, and both verify", async () => {
  const logits: Float32Array[] = [];
  for (const weights of ["stored", "f32"] as const) {
    const { out } = await compile(tiny, { targets: ["onnx"], out: join(fresh(), "out"), weights });
    expect(await verify(out, tiny)).toMatchObject({ ok: true, top1: 1, top5: 1 });
    const model = await openModel(out);
    logits.push((await model.session.append([2, 5, 7])).logits);
    await model.close();
  }
  expect(distance(logits[0], logits[1])).toBe(0);
});

test("an abort leaves nothing", async () => {
  const work = fresh();
  const abort = new AbortController();
  const progress = () => abort.abort();
  const run = compile(tiny, { targets: ["onnx"], out: join(work, "out"), signal: abort.signal, progress });
  await expect(run).rejects.toThrow("aborted");
  expect(readdirSync(work)).toEqual([]);
});

const small = join(root, "small-disk");
const canMount = (() => {
  try {
    mkdirSync(small);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", small], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();
afterAll(() => canMount && execFileSync("umount", [small]));

test.skipIf(!canMount)(
  "a full disk is told as such and nothing stays (skipped where tmpfs cannot be mounted)",
  async () => {
    const run = compile(tiny, { targets: ["onnx"], out: join(small, "out") });
    await expect(run).rejects.toThrow("ENOSPC");
    expect(readdirSync(small)).toEqual([]);
  },
);

test("verify names the first activation that is off, and what the artifact was made from", async () => {
  const { out } = await compile(tiny, { targets: ["onnx"], out: join(fresh(), "out") });
  const other = altered((bytes, at) => {
    const place = at("model.layers.1.mlp.up_proj.weight");
    bytes.writeUInt16LE(bytes.readUInt16LE(place) ^ 0x8000, place);
    return bytes;
  });
  const report = await verify(out, other);
  expect(report.ok).toBe(false);
  expect(report.firstDivergence?.origin).toBe("model/layers.1/mlp/up_proj");
  await expect(verify(out, join(import.meta.dirname, "data/models/gemma1-mqa"))).rejects.toThrow(
    "was made for",
  );
});

test.each([
  "quantize{scheme=int8,block=64}",
  "quantize{scheme=int4,block=32,embed=int8,mlp=none}",
  "quantize{scheme=int4,range=middle}",
  "quantize{scheme=int4,method=search}",
  "quantize{scheme=int8,block=0}",
  "quantize-cache",
  "quantize{scheme=int8},quantize-cache",
])("%s: proven on both profiles, and verify agrees", async (text) => {
  for (const profile of ["standard", "ort"] as const) {
    const options = { targets: ["onnx"], out: join(fresh(), "out"), profile, insert: parsePipeline(text) };
    const { out, targets } = await compile(tiny, options);
    const proof = targets[0]?.proof;
    expect(proof?.ok, profile).toBe(true);
    expect(proof?.loss?.kl).toBeLessThan(1);
    // Without 8-bit activations nothing but the order of sums is left.
    if (profile === "standard") expect(proof?.worst.share).toBeLessThan(1e-5);
    expect(await verify(out, tiny), profile).toMatchObject({ ok: true });
  }
});

test("caches of codes: clients that cannot feed them get no files of theirs, and C says what to leave out", async () => {
  const insert = parsePipeline("quantize-cache");
  const options = { targets: ["onnx"], out: join(fresh(), "out"), verify: false, insert };
  const { out, targets, warnings } = await compile(tiny, options);
  const files = targets[0]?.files.map((f) => f.path);
  expect(files).toContain("config.json");
  expect(files).not.toContain("genai_config.json");
  expect(readFileSync(join(out, "config.json"), "utf8")).not.toContain("transformers.js");
  expect(warnings.join()).toContain("8-bit codes");
  const planned = await plan(tiny, { target: "onnx", insert, time: false });
  expect(planned.artifact.files.map((f) => f.path).sort()).toEqual(files?.toSorted());
  await expect(compile(tiny, { ...options, targets: ["c"], out: join(fresh(), "c") })).rejects.toMatchObject({
    trouble: "input",
    message: expect.stringContaining("past_key_values.0.key: its caches hold floats"),
    next: expect.stringContaining("choose another target"),
  });
});

test.each(["gemma1-mqa", "gemma2", "gemma3"])(
  "%s in 8 and in 4 bits: proven, and verify agrees",
  async (name) => {
    const dir = join(import.meta.dirname, "data/models", name);
    for (const scheme of ["int8", "int4"])
      for (const profile of ["standard", "ort"] as const) {
        const insert = parsePipeline(`quantize{scheme=${scheme}}`);
        const { out, targets } = await compile(dir, {
          targets: ["onnx"],
          out: join(fresh(), "out"),
          profile,
          insert,
        });
        expect(targets[0]?.proof?.ok, profile).toBe(true);
        expect(await verify(out, dir), profile).toMatchObject({ ok: true });
      }
  },
);

test("a breach fails the build, is told by name and leaves nothing", async () => {
  const wrong = pass("sabotage", {
    doc: "Claims to be exact, and doubles the last product.",
    run: (g) =>
      map(g, (v, before) => (g.origins.get(before) === "model/layers.1/mlp/down_proj" ? mul(v, 2) : v)),
  })();
  const work = fresh();
  const options = { targets: ["onnx"], out: join(work, "out"), insert: [wrong] };
  const error = await compile(tiny, options).catch((e) => e);
  expect(error).toBeInstanceOf(UserError);
  expect(error.trouble).toBe("verify");
  expect(readdirSync(work)).toEqual([]);
});

test.each([{}, { profile: "standard" }, { quant: "int8" }] as const)(
  "a feed-forward wider than the head's checked rows is proven whole %j",
  async (options) => {
    // As wide as Gemma 7B's.
    const dir = oneLayer({ hidden: 24_576 });
    const report = await compile(dir, { targets: ["onnx"], out: join(fresh(), "out"), ...options });
    expect(report.targets[0]?.proof?.ok).toBe(true);
  },
);

const jax = await findJax();
test.each([
  {},
  { profile: "standard" },
  { quant: "int8" },
  ...(jax ? [{ targets: ["stablehlo"] }] : []),
] as const)(
  "a head of which the first rows are checked, with bounded scores and without, is proven %j",
  async (options) => {
    for (const family of ["gemma", "gemma2"]) {
      const dir = oneLayer({ vocab: 20_000, family });
      const report = await compile(dir, { targets: ["onnx"], out: join(fresh(), "out"), ...options });
      expect(report.targets[0]?.proof?.ok).toBe(true);
    }
  },
);

/** A model as small as can be, but for what is asked. */
function oneLayer({ hidden = 64, vocab = 300, family = "gemma" }): string {
  const width = 32;
  const layer = "model.layers.0";
  const shapes = {
    "model.embed_tokens.weight": [vocab, width],
    [`${layer}.input_layernorm.weight`]: [width],
    [`${layer}.mlp.down_proj.weight`]: [width, hidden],
    [`${layer}.mlp.gate_proj.weight`]: [hidden, width],
    [`${layer}.mlp.up_proj.weight`]: [hidden, width],
    [`${layer}.post_attention_layernorm.weight`]: [width],
    [`${layer}.self_attn.k_proj.weight`]: [width, width],
    [`${layer}.self_attn.o_proj.weight`]: [width, width],
    [`${layer}.self_attn.q_proj.weight`]: [width, width],
    [`${layer}.self_attn.v_proj.weight`]: [width, width],
    "model.norm.weight": [width],
    ...(family === "gemma2" && {
      [`${layer}.pre_feedforward_layernorm.weight`]: [width],
      [`${layer}.post_feedforward_layernorm.weight`]: [width],
    }),
  };
  let end = 0;
  const entries = Object.entries(shapes).map(([name, shape]) => {
    const start = end;
    end += 4 * shape.reduce((a, b) => a * b, 1);
    return [name, { dtype: "F32", shape, data_offsets: [start, end] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const data = Float32Array.from({ length: end / 4 }, (_, i) => Math.sin(i * i) / 8);
  const dir = fresh();
  writeFileSync(join(dir, "model.safetensors"), Buffer.concat([length, header, Buffer.from(data.buffer)]));
  const config = {
    ...JSON.parse(readFileSync(join(tiny, "config.json"), "utf8")),
    ...{ model_type: family, architectures: undefined, hidden_activation: "gelu_pytorch_tanh" },
    ...{ vocab_size: vocab, hidden_size: width, intermediate_size: hidden, num_hidden_layers: 1 },
    ...{ num_attention_heads: 1, num_key_value_heads: 1, head_dim: width, tie_word_embeddings: true },
  };
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  return dir;
}

test("a pipeline without what its target cannot do without gets it at its end", async () => {
  const pipeline = parsePipeline("fuse,insert-kv-cache,quantize{scheme=int8,block=32}");
  for (const profile of ["ort", "standard"] as const) {
    const { targets } = await compile(tiny, {
      targets: ["onnx"],
      out: join(fresh(), "out"),
      profile,
      pipeline,
    });
    expect(targets[0]?.proof?.ok).toBe(true);
    expect(targets[0]?.passes.at(-1)?.name).toBe("fold-weights");
  }
});

test.each([{}, { quant: "int8" }, { profile: "standard" }] as const)(
  "caches of a fixed size, with rings for windows, are proven and hold no more: %o",
  async (options) => {
    const [from, out] = [join(import.meta.dirname, "data/models/gemma3"), join(fresh(), "out")];
    const warnings: string[] = [];
    const warn = (message: string) => warnings.push(message);
    const { targets } = await compile(from, { targets: ["onnx"], out, capacity: 20, ...options, warn });
    expect(targets[0]?.proof?.ok).toBe(true);
    expect(warnings.join()).toContain("cannot feed them");
    // The window is 8.
    const ids = Array.from({ length: 20 }, (_, i) => 7 * i + 2);
    expect(await verify(out, from, { ids: [ids] })).toMatchObject({ ok: true });
    const { session, close } = await openModel(out);
    await session.append(ids.slice(0, 19));
    await session.append(ids.slice(0, 1));
    await expect(session.append([2])).rejects.toThrow(
      "1 more tokens after 20 do not fit into caches of 20 slots",
    );
    await close();
  },
);
