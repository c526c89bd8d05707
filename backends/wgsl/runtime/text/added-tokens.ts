/** A token that is found in text before anything else is done to it. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

interface Node {
  readonly next: Map<number, Node>;
  token?: AddedToken;
}

/** Finds added tokens in text: the leftmost first, the longest of those that begin there. */
export class AddedTokens {
  readonly #root: Node = { next: new Map() };

  constructor(tokens: readonly AddedToken[]) {
    for (const token of tokens) {
      let node = this.#root;
      for (let i = 0; i < token.content.length; i++) {
        const unit = token.content.charCodeAt(i);
        const child: Node = node.next.get(unit) ?? { next: new Map() };
        node.next.set(unit, child);
        node = child;
      }
      if (token.content !== "") node.token = token;
    }
  }

  /** The text as plain stretches, none empty, and the tokens between them. */
  split(text: string): (string | AddedToken)[] {
    const parts: (string | AddedToken)[] = [];
    let plain = 0;
    for (let at = 0; at < text.length; ) {
      const token = this.#longest(text, at);
      if (!token) {
        at++;
        continue;
      }
      if (at > plain) parts.push(text.slice(plain, at));
      parts.push(token);
      at += token.content.length;
      plain = at;
    }
    if (plain < text.length) parts.push(text.slice(plain));
    return parts;
  }

  #longest(text: string, start: number): AddedToken | undefined {
    let found: AddedToken | undefined;
    let node: Node | undefined = this.#root;
    for (let at = start; at < text.length; at++) {
      node = node.next.get(text.charCodeAt(at));
      if (!node) break;
      found = node.token ?? found;
    }
    return found;
  }
}
