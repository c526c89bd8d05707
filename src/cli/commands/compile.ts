import { mkdirSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { print as printGraph } from "../../../ir/text/index.ts";
import { groups } from "../../../passes/index.ts";
import type { Pass } from "../../../passes/pass.ts";
import { type Observer, PassError, parsePipeline } from "../../../passes/pipeline.ts";
import { type CompileReport, compile, targets } from "../../compile.ts";
import type { Proof } from "../../verify/proof.ts";
import { addBuildOptions, type BuildFlags, buildOptions } from "../build.ts";
import { blame, checkWritable, interruptible, naming } from "../errors.ts";
import { defined, names, repeated } from "../options.ts";
import { duration, heading, note, plural, print, printJson, StatusLine, size, table } from "../terminal.ts";

type Flags = BuildFlags & {
  target: string[];
  out: string;
  force?: boolean;
  verify: boolean;
  weightsFrom?: string[];
  printAfter?: string[];
  printTo?: string;
  verbose?: boolean;
  json?: boolean;
};

/** Adds `gemmac compile`. */
export function addCompile(program: Command): void {
  const command = program
    .command("compile")
    .summary("compile a checkpoint to an artifact")
    .description("Compile the checkpoint in a folder to an artifact in a new folder.")
    .argument("<checkpoint>", "folder with config.json, the weights and the tokenizer, or a .gguf file")
    .requiredOption("-t, --target <names>", "what to compile to, with commas between", names)
    .requiredOption("-o, --out <folder>", "the folder to make; several targets get a folder each inside")
    .option("-f, --force", "replace the artifact that is there")
    .option("--no-verify", "do not run the artifact against the checkpoint at the end")
    .option(
      "--weights-from <path>",
      "weights beside the checkpoint's, such as an adapter's; may be repeated",
      repeated(String),
    )
    .option("--print-after <names>", "print the graph after these passes, or after all", names)
    .option("--print-to <folder>", "print those graphs to files there, not to stderr")
    .option("--verbose", "print what each pass took and left")
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      `\nTargets:\n${table(targets.map(({ name, doc }) => [name, doc]))}

Examples:
  gemmac compile gemma-2b --target onnx -o gemma-2b-onnx
  gemmac compile gemma-2b --target onnx -o gemma-2b-int8 --quant int8
  gemmac compile gemma-2b --target onnx -o gemma-2b-onnx --force --json
  gemmac compile gemma-2b --target onnx -o capped --pass "./cap-logits.ts{cap=30}"
  gemmac compile gemma-2b --target onnx -o plain --passes "fuse,insert-kv-cache"`,
    )
    .action(action);
  addBuildOptions(command);
}

async function action(checkpoint: string, flags: Flags): Promise<void> {
  const { target, out, force = false, json, verbose = false } = flags;
  await checkWritable(out, true);
  const build = await buildOptions(target, flags);
  const status = new StatusLine();
  const bar = progressBar();
  const show = new GraphPrinter(flags.printAfter ?? (flags.printTo ? ["all"] : []), flags.printTo);
  const work = (signal: AbortSignal) =>
    compile(checkpoint, {
      targets: target,
      out,
      force,
      ...build,
      ...defined({ extraWeights: flags.weightsFrom }),
      verify: flags.verify,
      signal,
      observe: show.observe,
      progress: (done, total, name) => status.show(() => bar(done, total, name)),
      warn: (message) => {
        status.clear();
        note(`warning: ${message}`);
      },
    });
  try {
    const report = await interruptible((signal) => naming(out, work(signal)));
    status.clear();
    show.tellUnseen();
    if (json) printJson(report);
    else printReport(report, verbose);
  } catch (error) {
    const asked = [...build.insert, ...(build.pipeline ?? [])];
    throw error instanceof PassError ? await saving(error, out, asked) : error;
  } finally {
    status.clear();
  }
}

/** What to tell of a pass that failed, its last good graph saved beside the output. */
async function saving(error: PassError, out: string, asked: readonly Pass[]): Promise<Error> {
  const path = `${out.replace(/[/\\]+$/, "")}.failed-${error.pass}.ir`;
  await writeFile(path, printGraph(error.before));
  return blame(error, asked, `the graph before it is in ${path}`);
}

/** Prints graphs as passes leave them. */
class GraphPrinter {
  readonly #wanted: ReadonlySet<string>;
  readonly #folder: string | undefined;
  readonly #seen = new Set<string>();
  #count = 0;

  /** `names` are of passes, or of groups of them, or "all". */
  constructor(names: readonly string[], folder: string | undefined) {
    this.#wanted = new Set(
      names.flatMap((name) => (groups.has(name) ? parsePipeline(name).map((p) => p.name) : [name])),
    );
    this.#folder = folder;
  }

  readonly observe: Observer = ({ name }, after) => {
    const number = this.#count++;
    this.#seen.add(name);
    if (!this.#wanted.has("all") && !this.#wanted.has(name)) return;
    const text = printGraph(after);
    if (this.#folder === undefined) {
      process.stderr.write(`// after ${name}\n${text}\n`);
      return;
    }
    mkdirSync(this.#folder, { recursive: true });
    writeFileSync(join(this.#folder, `${String(number).padStart(2, "0")}-${name}.ir`), text);
  };

  /** Names of passes that never ran are slips of the pen. */
  tellUnseen(): void {
    const unseen = [...this.#wanted].filter((name) => name !== "all" && !this.#seen.has(name));
    if (unseen.length > 0) note(`warning: --print-after names ${unseen.join(", ")}, which did not run`);
  }
}

/** How the artifact stands to the checkpoint, on one line. */
function proofLine({ tokens, worst, rounded, scores, loss, instead }: Proof): string {
  const agreement = ({ kl, top1 }: Proof["scores"]) =>
    `KL ${kl.toExponential(1)} nats, ${top1 ? "the same" : "another"} top token`;
  const difference = `largest difference ${worst.share.toExponential(1)} of ${worst.allowed.toExponential(1)} allowed`;
  const asRun = rounded
    ? `; as it runs, rounding to ${rounded.bits} bits: ${rounded.share.toExponential(1)} of ${rounded.allowed.toExponential(1)} allowed`
    : "";
  const lost = loss ? `; the passes' own loss: ${agreement(loss)}` : "";
  const where = instead ? ` (${instead})` : "";
  return `verified on ${plural(tokens, "token")}${where}: ${difference}, ${agreement(scores)}${asRun}${lost}`;
}

function printReport({ targets, seconds }: CompileReport, verbose: boolean): void {
  for (const { target, dir, bytes, files, passes, proof } of targets) {
    print(heading(`${target}  ${dir}  ${size(bytes)}`));
    print(table(files.map((file) => [file.path, size(file.bytes)])));
    if (verbose)
      print(
        table(passes.map((p) => [p.name, `${(p.seconds * 1000).toFixed(1)} ms`, plural(p.nodes, "node")])),
      );
    if (proof) print(proofLine(proof));
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
