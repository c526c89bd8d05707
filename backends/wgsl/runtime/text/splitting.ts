/** How text is cut before merging: the normalizers and pre-tokenizers of tokenizer.json that Gemma models use. */

/** A part of tokenizer.json; nothing of it is known yet. */
export type Json = Readonly<Record<string, unknown>>;
export type Rewrite = (text: string) => string;
export type Split = (pieces: readonly string[]) => string[];

export const isJson = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

/** The function a normalizer describes. Throws an Error naming the kind that is not known. */
export function normalizer(part: unknown): Rewrite {
  if (part === null || part === undefined) return (text) => text;
  if (!isJson(part)) throw new Error("normalizer is no object");
  if (part.type === "Sequence") {
    const steps = list(part.normalizers).map(normalizer);
    return (text) => steps.reduce((t, step) => step(t), text);
  }
  if (part.type === "Replace") {
    const [pattern, content] = [patternOf(part.pattern), String(part.content)];
    return (text) => text.replace(pattern, () => content);
  }
  if (part.type === "Prepend") return (text) => (text === "" ? "" : `${part.prepend}${text}`);
  if (part.type === "NFC" || part.type === "NFKC" || part.type === "NFD" || part.type === "NFKD") {
    const form = part.type;
    return (text) => text.normalize(form);
  }
  throw new Error(`normalizer is ${part.type}, which is not known`);
}

/** The function a pre-tokenizer describes. Throws an Error naming the kind that is not known. */
export function preTokenizer(part: unknown): Split {
  if (part === null || part === undefined) return (pieces) => [...pieces];
  if (!isJson(part)) throw new Error("pre_tokenizer is no object");
  if (part.type === "Sequence") {
    const steps = list(part.pretokenizers).map(preTokenizer);
    return (pieces) => steps.reduce((p, step) => step(p), [...pieces]);
  }
  if (part.type === "Split") {
    const cut = splitter(patternOf(part.pattern), part.behavior, part.invert === true);
    return (pieces) => pieces.flatMap(cut);
  }
  if (part.type === "ByteLevel") {
    const words = splitter(gpt2Words, "Isolated", false);
    const spaced = (text: string) =>
      part.add_prefix_space === true && !text.startsWith(" ") ? ` ${text}` : text;
    return (pieces) =>
      pieces.flatMap((p) => (part.use_regex === false ? [spaced(p)] : words(spaced(p)))).map(toByteLetters);
  }
  throw new Error(`pre_tokenizer is ${part.type}, which is not known`);
}

const gpt2Words = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

function patternOf(pattern: unknown): RegExp {
  if (isJson(pattern) && typeof pattern.String === "string")
    return new RegExp(pattern.String.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "g");
  if (isJson(pattern) && typeof pattern.Regex === "string") return new RegExp(pattern.Regex, "gu");
  throw new Error("a pattern is neither String nor Regex");
}

/** Cuts a piece where the pattern matches; `behavior` says what becomes of the matches. */
function splitter(pattern: RegExp, behavior: unknown, invert: boolean): (text: string) => string[] {
  if (behavior !== "Isolated" && behavior !== "MergedWithPrevious" && behavior !== "Removed")
    throw new Error(`pre_tokenizer splits ${behavior}, which is not known`);
  return (text) => {
    const parts: string[] = [];
    const put = (part: string, matched: boolean) => {
      if (part === "" || (matched !== invert && behavior === "Removed")) return;
      if (matched !== invert && behavior === "MergedWithPrevious" && parts.length > 0)
        parts.push(`${parts.pop()}${part}`);
      else parts.push(part);
    };
    let at = 0;
    for (const match of text.matchAll(pattern)) {
      put(text.slice(at, match.index), false);
      put(match[0], true);
      at = match.index + match[0].length;
    }
    put(text.slice(at), false);
    return parts;
  };
}

/** The letter that stands for each byte in byte-level vocabularies: printable Latin-1 as it is, the rest from U+0100. */
const byteLetters: readonly string[] = (() => {
  const printable = (b: number) =>
    (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : next++));
})();
const letterBytes = new Map(byteLetters.map((letter, byte) => [letter, byte]));

export const toByteLetters = (text: string): string =>
  Array.from(new TextEncoder().encode(text), (b) => byteLetters[b]).join("");

/** The text whose UTF-8 bytes the letters stand for; what is no UTF-8 becomes U+FFFD. */
export function fromByteLetters(letters: string): string {
  const bytes = Array.from(letters, (letter) => letterBytes.get(letter));
  // A token outside the alphabet, such as an added one, stands for itself.
  if (bytes.includes(undefined)) return letters;
  const known = bytes.filter((b) => b !== undefined);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(known));
}
