export { evaluate } from "./evaluate.ts";
export { openReference } from "./session.ts";
