import { readFile } from "node:fs/promises";

/**
 * A file of the C that all models share. Lines between `@cpu`, `@gpu` and `@end`, each on a line of its own, are those of
 * programs for the one or the other.
 */
export async function runtimePart(name: string, device: "cpu" | "gpu" = "cpu"): Promise<string> {
  const text = await readFile(new URL(`./runtime/${name}`, import.meta.url), "utf8");
  let kept = true;
  const lines = text.split("\n").filter((line) => {
    const mark = /^@(cpu|gpu|end)$/.exec(line)?.[1];
    if (mark) kept = mark === "end" || mark === device;
    return kept && !mark;
  });
  return lines.join("\n");
}
