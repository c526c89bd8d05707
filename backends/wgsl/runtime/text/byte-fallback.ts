/** The token that stands for one byte no other token covers, e.g. `<0xE4>`. */
const BYTE = /^<0x([0-9A-Fa-f]{2})>$/;

/** Whether the token is one of the 256 byte tokens. */
export function isByteToken(token: string): boolean {
  return BYTE.test(token);
}

/**
 * Replaces each maximal run of byte tokens by its text. A run that is not UTF-8 as a whole becomes one U+FFFD a
 * byte, as in Hugging Face's decoder. The library decodes the run with a lenient `TextDecoder`, which keeps the
 * valid parts, gives one U+FFFD for several bytes, and drops a byte order mark.
 */
export function decodeByteRuns(tokens: readonly string[]): string[] {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const texts: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    try {
      texts.push(decoder.decode(Uint8Array.from(run)));
    } catch {
      texts.push("\uFFFD".repeat(run.length));
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = BYTE.exec(token)?.[1];
    if (byte !== undefined) run.push(Number.parseInt(byte, 16));
    else {
      flush();
      texts.push(token);
    }
  }
  flush();
  return texts;
}
