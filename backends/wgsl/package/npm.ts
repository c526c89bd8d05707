import type { About } from "../../backend.ts";

/** `package.json`: the folder can be published, or installed from where it lies. */
export function packageText({ name, version, licences }: About): string {
  const content = {
    name: `${name
      .toLowerCase()
      .replace(/[^a-z0-9._-]+/g, "-")
      .replace(/^[._-]+/, "")}-webgpu`,
    version: "1.0.0",
    description: `The language model ${name} on WebGPU, compiled by gemmac ${version}.`,
    license: licences[0] ? `SEE LICENSE IN ${licences[0]}` : "SEE LICENSE OF THE WEIGHTS",
    type: "module",
    exports: { ".": { types: "./model.d.ts", default: "./model.js" }, "./*": "./*" },
    sideEffects: false,
  };
  return `${JSON.stringify(content, null, 2)}\n`;
}
