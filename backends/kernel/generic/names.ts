/** Names for kernels that differ by what they say: equal texts have one name, others are numbered. */
export class Names {
  readonly #texts = new Map<string, string[]>();

  of(wanted: string, text: string): string {
    const known = this.#texts.get(wanted) ?? [];
    this.#texts.set(wanted, known);
    if (!known.includes(text)) known.push(text);
    const at = known.indexOf(text);
    return at === 0 ? wanted : `${wanted}_no${at + 1}`;
  }
}
