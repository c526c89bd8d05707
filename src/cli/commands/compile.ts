import { type Command, Option } from "commander";
import { type CompileOptions, type CompileReport, compile, targets } from "../../compile.ts";
import { checkWritable, interruptible, naming } from "../errors.ts";
import { names } from "../options.ts";
import { duration, heading, note, plural, print, printJson, StatusLine, size, table } from "../terminal.ts";

type Flags = {
  target: string[];
  out: string;
  force?: boolean;
  profile: NonNullable<CompileOptions["profile"]>;
  weights: NonNullable<CompileOptions["weights"]>;
  json?: boolean;
};

/** Adds `gemmac compile`. */
export function addCompile(program: Command): void {
  program
    .command("compile")
    .summary("compile a checkpoint to an artifact")
    .description("Compile the checkpoint in a folder to an artifact in a new folder.")
    .argument("<checkpoint>", "folder with config.json, the weights and the tokenizer")
    .requiredOption("-t, --target <names>", "what to compile to, with commas between", names)
    .requiredOption("-o, --out <folder>", "the folder to make; several targets get a folder each inside")
    .option("-f, --force", "replace the artifact that is there")
    .addOption(new Option("--profile <name>", "operators to use").choices(["standard"]).default("standard"))
    .addOption(
      new Option("--weights <dtype>", "keep weights as stored, or widen them for runtimes without bf16")
        .choices(["stored", "f32"])
        .default("stored"),
    )
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      `\nTargets:\n${table(targets.map(({ name, doc }) => [name, doc]))}

Examples:
  gemmac compile gemma-2b --target onnx -o gemma-2b-onnx
  gemmac compile gemma-2b --target onnx -o gemma-2b-onnx --force --json`,
    )
    .action(action);
}

async function action(
  checkpoint: string,
  { target, out, force = false, profile, weights, json }: Flags,
): Promise<void> {
  await checkWritable(out, true);
  const status = new StatusLine();
  const bar = progressBar();
  const work = (signal: AbortSignal) =>
    compile(checkpoint, {
      targets: target,
      out,
      force,
      profile,
      weights,
      signal,
      progress: (done, total, name) => status.show(() => bar(done, total, name)),
      warn: (message) => {
        status.clear();
        note(`warning: ${message}`);
      },
    });
  try {
    const report = await interruptible((signal) => naming(out, work(signal)));
    status.clear();
    if (json) printJson(report);
    else printReport(report);
  } finally {
    status.clear();
  }
}

function printReport({ targets, seconds }: CompileReport): void {
  for (const { target, dir, bytes, files } of targets) {
    print(heading(`${target}  ${dir}  ${size(bytes)}`));
    print(table(files.map((file) => [file.path, size(file.bytes)])));
  }
  print(`${plural(targets.length, "target")} compiled in ${duration(seconds)}`);
}

/** Draws how far a target is: the share done, bytes, speed and the time left. */
function progressBar(): (done: number, total: number, target: string) => string {
  const width = 20;
  let current = "";
  let start = 0;
  return (done, total, target) => {
    if (target !== current) {
      current = target;
      start = performance.now();
    }
    const rate = done / ((performance.now() - start) / 1000);
    const share = total > 0 ? Math.min(done / total, 1) : 1;
    const filled = Math.round(share * width);
    const timing =
      rate > 0 && Number.isFinite(rate)
        ? `  ${size(rate)}/s  ${duration(Math.ceil((total - done) / rate))} left`
        : "";
    const percent = `${Math.floor(share * 100)}%`.padStart(4);
    return `${target} [${"#".repeat(filled)}${"-".repeat(width - filled)}]${percent}  ${size(done)} of ${size(total)}${timing}`;
  };
}
