export { parse, tables } from "./parse.ts";
export { print } from "./print.ts";
