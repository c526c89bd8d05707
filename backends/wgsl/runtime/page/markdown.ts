/** As much of Markdown as models write in a chat, as nodes of the page. Text stays text, whatever is in it. */
export function markdown(text: string): Node[] {
  const out: Node[] = [];
  const lines = text.split("\n");
  let paragraph: string[] = [];
  const flush = () => {
    if (paragraph.length > 0) out.push(element("p", inline(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] as string;
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    const item = /^\s*([-*]|\d+[.)])\s+(.*)$/.exec(line);
    if (/^\s*```/.test(line)) {
      flush();
      const code: string[] = [];
      while (++i < lines.length && !/^\s*```\s*$/.test(lines[i] as string)) code.push(lines[i] as string);
      out.push(element("pre", [element("code", [code.join("\n")])]));
    } else if (heading) {
      flush();
      out.push(element("h3", inline(heading[1] as string)));
    } else if (item) {
      flush();
      const kind = /\d/.test(item[1] as string) ? "ol" : "ul";
      const entry = element("li", inline(item[2] as string));
      const open = out.at(-1);
      if (open instanceof HTMLElement && open.localName === kind) open.append(entry);
      else {
        const list = element(kind, [entry]);
        if (list instanceof HTMLOListElement) list.start = Number.parseInt(item[1] as string, 10);
        out.push(list);
      }
    } else if (line.trim() === "") flush();
    else paragraph.push(line);
  }
  flush();
  return out;
}

function inline(text: string): (Node | string)[] {
  const out: (Node | string)[] = [];
  let at = 0;
  for (const m of text.matchAll(/`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])/g)) {
    out.push(text.slice(at, m.index));
    const [all, code, strong, emphasis] = m;
    if (code !== undefined) out.push(element("code", [code]));
    else if (strong !== undefined) out.push(element("strong", [strong]));
    else if (emphasis !== undefined) out.push(element("em", [emphasis]));
    at = m.index + all.length;
  }
  out.push(text.slice(at));
  return out;
}

function element(name: string, children: readonly (Node | string)[]): HTMLElement {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
