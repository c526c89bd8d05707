import { readFile } from "node:fs/promises";

/** A file of the C that all models share. */
export const runtimePart = (name: string): Promise<string> =>
  readFile(new URL(`./runtime/${name}`, import.meta.url), "utf8");
