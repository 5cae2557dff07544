/** Hover: at most one request runs and at most one waits; a newer one takes the waiting one's place. */

export class Latest<T> {
  private running = false;
  private waiting: T | undefined;
  /** The most that ever ran or waited together. */
  mostQueued = 0;

  constructor(private readonly work: (given: T) => Promise<void>) {}

  ask(given: T): void {
    this.waiting = given;
    this.mostQueued = Math.max(this.mostQueued, (this.running ? 1 : 0) + 1);
    if (!this.running) void this.drain();
  }

  /** Forget what waits. */
  cancel(): void {
    this.waiting = undefined;
  }

  private async drain(): Promise<void> {
    this.running = true;
    try {
      while (this.waiting !== undefined) {
        const given = this.waiting;
        this.waiting = undefined;
        await this.work(given);
      }
    } finally {
      this.running = false;
    }
  }
}
