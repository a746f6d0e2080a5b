// Decisions on their way into the journal: in order, one at a time, until each is there.

const STORE = "verse-decisions";
const RETRY_MS = 2000;
const HOPELESS = new Set([400, 404, 413]);

export class Decisions {
  /**
   * @param api where they go
   * @param tell called with a sentence, or "" when nothing waits
   */
  constructor(api, tell) {
    this._api = api;
    this._tell = tell;
    this._waiting = stored();
    this._numbers = new Map(); // of those that are in the journal
    /** Called with `(id, record, problem)` once one is settled; of the last two one is null. */
    this.onSettled = () => {};
    this._isSending = false;
    this._sent = null;
    addEventListener("beforeunload", (event) => {
      if (this._waiting.length) event.preventDefault();
    });
    if (this._waiting.length) this._send();
  }

  /** How many are in this tab only. */
  get numWaiting() {
    return this._waiting.length;
  }

  /** Its place in the journal; null while it waits. One of before a reload is there by now. */
  numberOf(id) {
    const isWaiting = this._waiting.some((entry) => entry.id === id);
    return isWaiting ? null : (this._numbers.get(id) ?? null);
  }

  /** Send a decision; its id. */
  add(body) {
    const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    this._waiting.push({ id, body });
    this._keep();
    this._send();
    return id;
  }

  /** Take back one that was not sent yet; says whether it was. */
  withdraw(id) {
    if (id === this._sent || !this._waiting.some((entry) => entry.id === id)) return false;
    this._remove(id);
    if (!this._waiting.length) this._tell("");
    return true;
  }

  /** Take back one that is in the journal. */
  undo(number) {
    return this._api.json(`/v1/decisions/${number}`, { method: "DELETE" });
  }

  async _send() {
    if (this._isSending) return;
    this._isSending = true;
    while (this._waiting.length) {
      const { id, body } = this._waiting[0];
      let record = null, problem = null;
      this._sent = id;
      try {
        record = await this._api.post("/v1/decisions", body);
      } catch (error) {
        problem = error;
      }
      this._sent = null;
      if (problem !== null && !HOPELESS.has(problem.status)) {
        this._tell(waitingText(this._waiting.length, problem));
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        continue;
      }
      this._remove(id);
      if (record !== null) this._numbers.set(id, record.number);
      this.onSettled(id, record, problem);
      this._tell(problem === null ? "" : problem.message);
    }
    this._isSending = false;
  }

  _remove(id) {
    this._waiting = this._waiting.filter((entry) => entry.id !== id);
    this._keep();
  }

  _keep() {
    sessionStorage.setItem(STORE, JSON.stringify(this._waiting));
  }
}

function waitingText(number, problem) {
  const many = number === 1 ? "1 decision waits" : `${number} decisions wait`;
  return `${many} in this tab: ${problem.message}`;
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    return [];
  }
}
