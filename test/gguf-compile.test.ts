import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { WeightStream } from "../backends/stream/index.ts";
import { storedType, type Weights } from "../backends/weights.ts";
import { Graph, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { type BlockFormatName, blockFormat, blockFormats } from "../ir/ops/ggml.ts";
import {
  block_scale,
  constant,
  ggml_codes,
  ggml_dequantize,
  ggml_scales,
  param,
  quantize,
} from "../ir/ops/index.ts";
import { quantize as quantizePass } from "../passes/quantize.ts";
import { openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { verify } from "../src/verify/verify.ts";
import { writeGguf } from "./support/gguf-checkpoint.ts";
import { distance, readF32, readGolden } from "./support/goldens.ts";
import { gemmac } from "./support/workbench.ts";

const scratch = mkdtempSync(join(tmpdir(), "gemmac-gguf-compile-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const models = join(import.meta.dirname, "data/models");
const fixture: Record<BlockFormatName, { bytes: string }> = JSON.parse(
  await readFile(join(import.meta.dirname, "data/ggml/blocks.json"), "utf8"),
);

/** A matrix of `rows` rows that repeats the fixture's blocks, as weights. */
function stored(format: BlockFormatName, rows: number): { w: Value; weights: Weights; bytes: Uint8Array } {
  const block = Buffer.from(fixture[format].bytes, "base64");
  const columns = 3 * blockFormat(format).elements;
  const info = { dtype: "u8", format, shape: [rows, columns] } as const;
  const type = storedType(info);
  const bytes = new Uint8Array(rows * Number(type.shape[1]));
  for (let i = 0; i < bytes.length; i++) bytes[i] = block[i % block.length] as number;
  return {
    w: param({ name: "w", type }),
    bytes,
    weights: {
      names: () => ["w"],
      info: () => ({ ...info, bytes: bytes.length }),
      read: async (_, offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
      close: async () => {},
    },
  };
}

describe.each(Object.keys(blockFormats) as BlockFormatName[])("%s streams", (format) => {
  const { w, weights, bytes } = stored(format, 5);
  const x = ggml_dequantize(w, { format });
  const scale = block_scale(x, { to: "i4" });
  const zero = constant({ value: 0, dtype: "i4" });
  const made: Record<string, Value> = { x, scale, codes4: quantize(x, scale, zero, { to: "i4" }) };
  if (blockFormat(format).codes)
    Object.assign(made, { codes: ggml_codes(w, { format }), scales: ggml_scales(w, { format }) });
  const want = interpret(new Graph("g", { inputs: [w], outputs: made }), {
    sizes: {},
    tensor: () => ({ shape: w.shape.map(Number), data: Float64Array.from(bytes) }),
  });

  test.each(Object.keys(made))("%s as the interpreter computes it", async (name) => {
    const v = made[name] as Value;
    const graph = new Graph("g", { inputs: [], outputs: { y: param({ name, type: v.type }) }, setup: made });
    const stream = new WeightStream(graph, weights, () => {});
    const parts: Uint8Array[] = [];
    for await (const block of stream.blocks(graph.outputs.y as Value)) parts.push(block.slice());
    await stream.close();
    const all = new Uint8Array(Buffer.concat(parts));
    const nibble = (i: number) => ((all[i >> 1] as number) << (i & 1 ? 24 : 28)) >> 28;
    const got =
      v.dtype === "f32"
        ? new Float32Array(all.buffer)
        : v.dtype === "i8"
          ? new Int8Array(all.buffer)
          : Int8Array.from({ length: all.length * 2 }, (_, i) => nibble(i));
    expect([...got]).toEqual([...(want[name]?.data ?? [])]);
  });
});

describe("a quantized GGUF file", () => {
  test.each([
    ["gemma1-mqa", "q8_0"],
    ["gemma1-mha", "q4_0"],
    ["gemma3", "q5_0"],
  ] as const)("%s in %s: the artifact computes what the file says", async (name, type) => {
    const path = await writeGguf(join(models, name), join(scratch, `${name}-${type}.gguf`), () => type);
    const golden = await readGolden(join(models, name));
    const ids = golden.prompts[1]?.input_ids ?? [];
    const reference = await openModel(path);
    const { logits: want } = await reference.session.append(ids);
    await reference.close();
    for (const weights of ["stored", "f32"] as const) {
      const out = join(scratch, `${name}-${type}-${weights}`);
      const { targets } = await compile(path, { targets: ["onnx"], out, profile: "standard", weights });
      expect(targets[0]?.proof?.ok).toBe(true);
      const model = await openModel(out);
      expect(distance((await model.session.append(ids)).logits, want)).toBeLessThan(golden.atol);
      await model.close();
    }
    const fast = join(scratch, `${name}-${type}-fast`);
    await compile(path, { targets: ["onnx"], out: fast });
    expect((await verify(fast, path)).ok).toBe(true);
  });

  test("is quantized again where that makes it narrower, and verify knows", async () => {
    const path = await writeGguf(join(models, "gemma3"), join(scratch, "mixed.gguf"), (name) =>
      name.startsWith("ffn") || name.includes("attn_k") ? "q4_0" : "q8_0",
    );
    const out = join(scratch, "mixed");
    const insert = [quantizePass({ scheme: "int4", block: 32 })];
    await compile(path, { targets: ["onnx"], out, profile: "standard", insert });
    expect((await verify(out, path)).ok).toBe(true);
  });
});

test("the command line takes a GGUF file wherever it takes a checkpoint", async () => {
  const path = await writeGguf(join(models, "gemma3"), join(scratch, "cli.gguf"), () => "q8_0");
  const run = async (...args: string[]) => {
    const { code, out } = await gemmac(scratch, args);
    expect(code).toBe(0);
    return out;
  };
  const inspected = JSON.parse(await run("inspect", path, "--json"));
  expect(inspected).toMatchObject({
    kind: "checkpoint",
    family: "gemma3",
    files: ["cli.gguf"],
    tokenizer: null,
  });
  expect(Object.keys(inspected.bytes).sort()).toEqual(["f32", "q8_0"]);
  const planned = JSON.parse(await run("plan", path, "--target", "onnx", "--json"));
  const out = join(scratch, "cli");
  const report = JSON.parse(await run("compile", path, "--target", "onnx", "--out", out, "--json"));
  expect(report.targets[0].bytes).toBe(planned.artifact.bytes);
  const rows = async (model: string) => {
    const file = `${model}.safetensors`;
    await run("logits", model, "--ids", "2,5,7", "--out", file);
    return (await readF32(file)).get("logits");
  };
  expect(distance(await rows(out), await rows(path))).toBeLessThan(0.3);
});
