import { Worker } from "../../backends/stablehlo/jax/worker.ts";
import { UserError } from "../../ir/error.ts";

/** Whether there is a Python with JAX. Any other trouble with it is an error. */
export async function findJax(): Promise<boolean> {
  try {
    await (await Worker.start()).close();
    return true;
  } catch (e) {
    if (e instanceof UserError && e.trouble === "environment" && !process.env.GEMMAC_PYTHON) return false;
    throw e;
  }
}
