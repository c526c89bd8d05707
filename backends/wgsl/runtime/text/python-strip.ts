/**
 * What Python's `str.isspace` accepts. JavaScript's `trim` differs: it leaves U+001C to U+001F and U+0085, and
 * removes U+FEFF.
 */
const SPACES = new Set(
  "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" +
    "\u2028\u2029\u202f\u205f\u3000",
);

/** Which ends of the text to strip. */
export type Side = "strip" | "lstrip" | "rstrip";

/** Python's `str.strip`, `lstrip` or `rstrip`: removes white space, or any of `chars` where given. */
export function pythonStrip(text: string, side: Side = "strip", chars?: string): string {
  const set = typeof chars === "string" ? new Set(chars) : SPACES;
  let start = 0;
  let end = text.length;
  if (side !== "rstrip") while (start < end && set.has(text.charAt(start))) start++;
  if (side !== "lstrip") while (end > start && set.has(text.charAt(end - 1))) end--;
  return text.slice(start, end);
}
