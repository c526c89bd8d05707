/** What kind of trouble it is. The CLI maps each kind to an exit code. */
export type Trouble = "usage" | "input" | "verify" | "environment";

/**
 * Something the user can mend. The message says what is wrong and where, `next` what to do about it; the CLI
 * prints both on one line, without a stack trace. Any other error is a bug in gemmac.
 */
export class UserError extends Error {
  readonly trouble: Trouble;
  readonly next: string;
  constructor(trouble: Trouble, message: string, next: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "UserError";
    this.trouble = trouble;
    this.next = next;
  }
}
