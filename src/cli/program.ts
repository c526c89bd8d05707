import { Command } from "commander";
import { version } from "../version.ts";
import { addCompile } from "./commands/compile.ts";
import { addDiff } from "./commands/diff.ts";
import { addInspect } from "./commands/inspect.ts";
import { addLogits, addVerify } from "./commands/numbers.ts";
import { addOps } from "./commands/ops.ts";
import { addPasses } from "./commands/passes.ts";
import { addPlan } from "./commands/plan.ts";
import { addRun } from "./commands/run.ts";
import { addView } from "./commands/view.ts";
import { exitCodeHelp, report } from "./errors.ts";

/** The whole command line. Commander throws instead of exiting, and leaves errors to `report`. */
function build(): Command {
  const program = new Command("gemmac")
    .description("A compiler for Gemma language models.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print help")
    .helpCommand("help [command]", "print help for a command")
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .addHelpText(
      "after",
      `\n${exitCodeHelp}\n\nResults go to stdout, everything else to stderr. NO_COLOR is respected.`,
    );
  for (const add of [
    addCompile,
    addRun,
    addVerify,
    addLogits,
    addInspect,
    addPlan,
    addDiff,
    addView,
    addOps,
    addPasses,
  ])
    add(program);
  return program;
}

/** Run a command line, `argv` without the program's name. Writes errors to stderr and sets `process.exitCode`. */
export async function main(argv: readonly string[]): Promise<void> {
  const program = build();
  const command = program.commands.find((c) => c.name() === argv[0])?.name();
  try {
    await program.parseAsync(argv, { from: "user" });
  } catch (error) {
    // Not process.exit: what is on its way to a pipe must still get there.
    process.exitCode = report(error, command, argv.includes("--json"));
  }
}
