/** Durations in milliseconds, and their percentiles. */

const KEPT = 200;

export class Durations {
  readonly values: number[] = [];

  add(durationMs: number): void {
    this.values.push(durationMs);
    if (this.values.length > KEPT) this.values.shift();
  }

  get last(): number | undefined {
    return this.values.at(-1);
  }

  /** The smallest value that at least `percent` of them do not pass; undefined without any. */
  percentile(percent: number): number | undefined {
    const sorted = [...this.values].sort((a, b) => a - b);
    return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
  }
}
