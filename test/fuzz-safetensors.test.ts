import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { dtypes } from "../ir/type.ts";
import { type ByteFile, type Header, readHeader } from "../src/checkpoint/safetensors.ts";
import { random } from "./support/fuzz.ts";

const seconds = Number(process.env.GEMMAC_FUZZ_SECONDS ?? 2);
const models = join(import.meta.dirname, "data/models");
const sources = ["gemma1-mqa/model.safetensors", "gemma1-mha/golden.safetensors", "gemma3/model.safetensors"];

/** A file of `head` and then zeros up to `size`. It refuses to fill more than a header may hold. */
function file(head: Uint8Array, size: number): ByteFile {
  return {
    stat: async () => ({ size }),
    async read(into, at, length, position) {
      if (into.length > 100_000_000) throw new Error(`asked for ${into.length} bytes`);
      const bytesRead = Math.max(0, Math.min(length, size - position));
      into.fill(0, at, at + bytesRead);
      into.set(head.subarray(position, position + bytesRead), at);
      return { bytesRead };
    },
  };
}

const numbers = [
  "-1",
  "0",
  "1",
  "1.5",
  "1e3",
  "1e400",
  "4294967296",
  "9007199254740993",
  "null",
  '"8"',
  "[]",
];
const words = ["F32", "BF16", "F64", "__proto__", "__metadata__", "\\u0000", "data_offsets", "{", '"', "\\"];

type Sample = { head: Uint8Array; size: number };

/** Frame header text, with a header length that fits it unless chance says otherwise. */
function frame(json: Uint8Array, size: number, pick: (n: number) => number): Sample {
  const head = new Uint8Array(8 + json.length);
  const lengths = [
    0n,
    BigInt(json.length + 1),
    2n ** 60n,
    2n ** 64n - 1n,
    100_000_001n,
    BigInt(pick(2 ** 31)),
  ];
  const length = pick(20) ? undefined : lengths[pick(lengths.length)];
  new DataView(head.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  head.set(json, 8);
  return { head, size };
}

function mutate({ head, size }: Sample, pick: (n: number) => number): Sample {
  const json = Buffer.from(head.subarray(8));
  const text = json.toString();
  const replace = (pattern: RegExp, by: (match: string) => string): Sample => {
    const found = [...text.matchAll(pattern)];
    const one = found[pick(found.length || 1)];
    if (!one) return { head, size };
    const after = Buffer.from(text.slice(0, one.index) + by(one[0]) + text.slice(one.index + one[0].length));
    // Most of the time the data keeps its length, so that the header alone decides.
    return frame(after, pick(4) ? size - json.length + after.length : size, pick);
  };
  switch (pick(8)) {
    case 0:
      for (let n = 1 + pick(3); n > 0 && json.length; n--) {
        const at = pick(json.length);
        json[at] = (json[at] ?? 0) ^ (1 << pick(8));
      }
      return frame(json, size, pick);
    case 1:
      return { head, size: pick(size + 1) };
    case 2:
      return { head, size: size + 1 + pick(1000) };
    case 3:
      return replace(/\d+/g, () => numbers[pick(numbers.length)] ?? "");
    case 4:
      return replace(/\d+/g, (n) => `${Number(n) + pick(9) - 4}`);
    case 5:
      return replace(/"[^"{}]*":(?:\{[^{}]*\}|\[[^\]]*\]|"[^"]*")/g, (member) => `${member},${member}`);
    case 6:
      return replace(/"[^"{}]*":(?:\{[^{}]*\}|\[[^\]]*\]|"[^"]*"),?/g, () => "");
    default:
      return replace(/"[^"]*"/g, () => `"${words[pick(words.length)]}"`);
  }
}

/** What readHeader promises of every file it accepts, checked without trusting how it checks. */
function checkHeader({ tensors }: Header, size: number): void {
  let last = 0;
  for (const { dtype, shape, begin, end } of [...tensors.values()].sort(
    (a, b) => a.end - b.end || a.begin - b.begin,
  )) {
    expect(begin).toBeGreaterThanOrEqual(Math.max(8, last));
    expect(end).toBeLessThanOrEqual(size);
    expect(end - begin).toBe((shape.reduce((a, b) => a * b, 1) * dtypes[dtype]) / 8);
    last = end;
  }
}

test(`mutated headers are parsed or refused, for ${seconds} s`, {
  timeout: seconds * 1000 + 60_000,
}, async () => {
  const originals: Sample[] = [];
  for (const source of sources) {
    const bytes = await readFile(join(models, source));
    originals.push({ head: bytes.subarray(0, 8 + Number(bytes.readBigUInt64LE())), size: bytes.length });
  }
  for (const { head, size } of originals) checkHeader(await readHeader(file(head, size), "original"), size);

  let parsed = 0;
  let refused = 0;
  for (let seed = 1, end = Date.now() + seconds * 1000; Date.now() < end; seed++) {
    const pick = random(seed);
    let sample = originals[pick(originals.length)] ?? { head: new Uint8Array(), size: 0 };
    for (let n = 1 + pick(3); n > 0; n--) sample = mutate(sample, pick);
    try {
      checkHeader(await readHeader(file(sample.head, sample.size), "mutated.safetensors"), sample.size);
      parsed++;
    } catch (error) {
      if (!(error instanceof UserError)) throw new Error(`seed ${seed}`, { cause: error });
      expect(error.message, `seed ${seed}`).toMatch(/^mutated\.safetensors[^\p{Cc}\u2028\u2029]+$/u);
      expect(error.next, `seed ${seed}`).not.toBe("");
      refused++;
    }
  }
  expect(parsed).toBeGreaterThan(0);
  expect(refused).toBeGreaterThan(0);
});

test("a header length is checked before anything that long is read", async () => {
  const length = 2n ** 33n;
  const head = new Uint8Array(8);
  new DataView(head.buffer).setBigUint64(0, length, true);
  await expect(readHeader(file(head, 2 ** 40), "huge.safetensors")).rejects.toThrow("over the limit");
});
