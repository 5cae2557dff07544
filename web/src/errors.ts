/** What a caller may catch. Every message says what came, what was expected and what to do. */

export type ErrorKind = "image" | "prompt" | "model" | "browser" | "cancelled";

export class SegmenterError extends Error {
  constructor(
    readonly kind: ErrorKind,
    message: string,
  ) {
    super(message);
    this.name = "SegmenterError";
  }
}

/** `error` as a SegmenterError of `kind`, with its own words behind `what`. */
export function asSegmenterError(error: unknown, kind: ErrorKind, what: string): SegmenterError {
  if (error instanceof SegmenterError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new SegmenterError(kind, `${what} (${reason.slice(0, 300)}).`);
}
