import { isByteToken } from "../../backends/wgsl/runtime/text/byte-fallback.ts";
import { openFolder } from "../checkpoint/folder.ts";
import { isObject, type JsonObject, parseJsonFast } from "../checkpoint/json.ts";
import { openTokenizer } from "./tokenizer.ts";

/** What a token is, as bits; and how text is cut: the flags of backends/c/runtime/tokenizer.h. */
const kinds = { special: 1, byte: 2, added: 4, missing: 8 } as const;
const flags = { bytes: 1, words: 2, marks: 4 } as const;

/** The one pattern for words that compact tokenizers know. */
const words = " ?[A-Za-z']+|\\n| ?[^A-Za-z\\s]+|\\s";

/**
 * A checkpoint's tokenizer as programs without a JSON parser read it: "gemmactk", six counts, ids that begin a text, stop
 * ids, where each token starts, merges by rank, kinds, text. Little-endian. Undefined when there is no tokenizer.json;
 * a string says why this one cannot be had so.
 */
export async function compactTokenizer(
  dir: string,
  stops: readonly number[],
): Promise<Uint8Array | string | undefined> {
  const folder = await openFolder(dir);
  const json = await folder.json("tokenizer.json", parseJsonFast);
  if (!json) return undefined;
  const cut = cutting(json);
  if (typeof cut === "string") return cut;
  const { codec, added, merges, tokenizer } = await openTokenizer(folder, json);
  const size = tokenizer.size;
  const spelled = new Array<Uint8Array | undefined>(size);
  const kind = new Uint8Array(size).fill(kinds.missing);
  const encoder = new TextEncoder();
  const spell = cut & flags.bytes ? byteLevel : (s: string) => encoder.encode(s);
  for (const [token, id] of codec.model.tokens_to_ids) {
    if (id >= size) continue;
    kind[id] = !(cut & flags.bytes) && isByteToken(token) ? kinds.byte : 0;
    spelled[id] = spell(token);
  }
  for (const { id, content, special } of added) {
    kind[id] = kinds.added | (special ? kinds.special : 0);
    spelled[id] = encoder.encode(content);
  }
  const prefix = tokenizer.encode("", { special: true });
  const stopIds = tokenizer.stopIds(stops);
  const starts = new Uint32Array(size + 1);
  for (let i = 0; i < size; i++) starts[i + 1] = (starts[i] as number) + (spelled[i]?.length ?? 0);
  const text = new Uint8Array(starts[size] as number);
  for (const [i, bytes] of spelled.entries()) text.set(bytes ?? [], starts[i]);
  const head = [cut, size, merges.length / 3, prefix.length, stopIds.length, text.length];
  const numbers = Uint32Array.from([...head, ...prefix, ...stopIds]);
  const parts = [encoder.encode("gemmactk"), numbers, starts, merges, kind, text];
  const out = new Uint8Array(parts.reduce((n, p) => n + p.byteLength, 0));
  parts.reduce((at, p) => {
    out.set(new Uint8Array(p.buffer, p.byteOffset, p.byteLength), at);
    return at + p.byteLength;
  }, 0);
  return out;
}

/** How the tokenizer cuts text, as flags; or what it does that is not known here. */
function cutting({ normalizer, pre_tokenizer, added_tokens }: JsonObject): number | string {
  const rules = Array.isArray(added_tokens) ? added_tokens : [];
  if (rules.some((t) => isObject(t) && (t.lstrip || t.rstrip || t.single_word)))
    return "has added tokens that take spaces along";
  const normal = JSON.stringify(normalizer ?? null);
  const before = steps(pre_tokenizer);
  if (/"type":"Replace","pattern":\{"String":" "\},"content":"▁"/.test(normal)) {
    // Spaces are gone by then, so that splitting at them does nothing.
    const idle = before.every((s) => s.type === "Split" && JSON.stringify(s.pattern) === '{"String":" "}');
    return idle ? flags.marks : `cuts text with ${before.map((s) => s.type).join(", ")}`;
  }
  if (normal !== "null") return "changes text before it is cut";
  const level = before.at(-1);
  if (level?.type !== "ByteLevel" || level.use_regex !== false || level.add_prefix_space === true)
    return "is neither Gemma's nor one of bytes";
  const [split, ...more] = before.slice(0, -1);
  if (!split) return flags.bytes;
  const known = isObject(split.pattern) && split.pattern.Regex === words && split.behavior === "Isolated";
  return known && more.length === 0 ? flags.bytes | flags.words : "cuts words with a pattern of its own";
}

function steps(pre: unknown): JsonObject[] {
  if (!isObject(pre)) return [];
  return Array.isArray(pre.pretokenizers) ? pre.pretokenizers.filter(isObject) : [pre];
}

/** The bytes that a token of a byte-level vocabulary stands for: each is spelled as one printable character. */
function byteLevel(token: string): Uint8Array {
  return Uint8Array.from([...token], (c) => byteOf().get(c) ?? 63);
}

let bytesBySpelling: ReadonlyMap<string, number> | undefined;
/** GPT-2's table: printable bytes are themselves, the others follow from U+0100. */
function byteOf(): ReadonlyMap<string, number> {
  if (bytesBySpelling) return bytesBySpelling;
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  bytesBySpelling = new Map(
    Array.from({ length: 256 }, (_, b) => [String.fromCodePoint(printable(b) ? b : next++), b]),
  );
  return bytesBySpelling;
}
