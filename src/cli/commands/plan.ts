import { type Command, Option } from "commander";
import type { Collectives, DevicePlan } from "../../../backends/stablehlo/index.ts";
import { targets } from "../../compile.ts";
import { type Plan, plan } from "../../plan/plan.ts";
import { addBuildOptions, type BuildFlags, buildOptions } from "../build.ts";
import { blaming } from "../errors.ts";
import { defined, integer, repeated } from "../options.ts";
import { duration, heading, number, plural, print, printJson, size, table, wrap } from "../terminal.ts";

type Flags = BuildFlags & {
  target: string;
  context?: number[];
  out?: string;
  json?: boolean;
};

/** Adds `gemmac plan`. */
export function addPlan(program: Command): void {
  const command = program
    .command("plan")
    .summary("print what compiling would write and need")
    .description(
      "Print what compiling would write and need: sizes to the byte, the cache by length of text, memory, time on " +
        "this machine, and limits that are met. Reads no weights.",
    )
    .argument("<model>", "folder of a checkpoint, a .gguf file, or a preset such as gemma-2b")
    .addOption(
      new Option("-t, --target <name>", "what to compile to")
        .choices(targets.map((t) => t.name))
        .makeOptionMandatory(),
    )
    .option("-c, --context <tokens>", "a length of text to plan for; may be repeated", repeated(integer(1)))
    .option("-o, --out <folder>", "a folder on the disk that the artifact would go to (default: this one)")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  gemmac plan gemma-2b --target onnx
  gemmac plan gemma-7b --target onnx --quant int4 --context 4096 --json
  gemmac plan gemma-7b --target stablehlo --mesh data=2,model=4 --batch 8 --arithmetic bf16`,
    )
    .action(action);
  addBuildOptions(command);
}

async function action(model: string, flags: Flags): Promise<void> {
  const { target, context: contexts, out: folder, json } = flags;
  const build = await buildOptions([target], flags);
  const asked = [...build.insert, ...(build.pipeline ?? [])];
  const made = await blaming(asked, () =>
    plan(model, { target, ...build, ...defined({ contexts, folder }) }),
  );
  if (json) printJson(made);
  else printPlan(made);
}

function printPlan({ model, kind, target, artifact, cache, memory, time, device, limits }: Plan): void {
  print(heading(`${target}  ${model}  ${size(artifact.bytes)}`));
  print(
    table(
      Object.entries(artifact.classes).map(([name, bytes]) => [
        name,
        size(bytes),
        `${((100 * bytes) / artifact.bytes).toFixed(1)} %`,
      ]),
    ),
  );
  if (kind === "preset") print("  without tokenizer, config and manifest: a preset has none");
  section(
    "Files",
    artifact.files.map(({ path, bytes }) => [path, size(bytes)]),
  );
  const { largest } = artifact;
  if (largest) print(`  largest tensor  ${largest.name}, ${size(largest.bytes)}`);
  section(`Cache, ${cache.dtype}`, [
    // Caches of a fixed size do not grow.
    ...(cache.bytesPerToken > 0 ? [["a token", size(cache.bytesPerToken)]] : []),
    ...cache.contexts.map(({ tokens, bytes }) => [`${number(tokens)} tokens`, size(bytes)]),
  ]);
  section("Memory, estimated", [
    ["compile", size(memory.compile), "with --no-verify"],
    ...(memory.verify === undefined ? [] : [["compile and verify", size(memory.verify)]]),
    ...memory.run.map(({ tokens, bytes }) => [`run, ${number(tokens)} tokens`, size(bytes)]),
  ]);
  if (device) printDevice(device);
  if (time) {
    section("Time, estimated", [
      ["write", duration(time.write)],
      ["verify", duration(time.verify)],
    ]);
    for (const line of wrap(`from ${time.basis}`, 78)) print(`  ${line}`);
  }
  section(
    "Limits",
    limits.map((limit) => [limit]),
  );
}

function printDevice({ mesh, devices, weights, caches, decode, prefill }: DevicePlan): void {
  const grid = Object.entries(mesh).map(([axis, n]) => `${axis}=${n}`);
  const sums = ({ allReduces, bytes }: Collectives) =>
    allReduces === 0 ? "none" : `${plural(allReduces, "all-reduce")}, ${size(bytes)} on each device`;
  section(devices === 1 ? "On the device" : `On each of ${devices} devices, ${grid.join(",")}`, [
    ["weights", size(weights)],
    ["caches", size(caches), "overwritten in place"],
    ["together", size(weights + caches), "beside what XLA needs in a step"],
  ]);
  section("Collectives", [
    ["a step of decode", sums(decode)],
    ["a step of prefill", sums(prefill)],
  ]);
}

function section(title: string, rows: readonly (readonly string[])[]): void {
  if (rows.length === 0) return;
  print(`\n${heading(title)}`);
  print(table(rows));
}
