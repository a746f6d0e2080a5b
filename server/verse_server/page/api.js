// Talking to the server this page came from, and to no other.

const KEY = "verse-key";

/** What the server refused, in its own words, or why it could not be asked. */
export class ServerProblem extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  /** @param askForKey called with a sentence; resolves to a key once somebody has typed one. */
  constructor(askForKey) {
    this._askForKey = askForKey;
    this._asking = null;
  }

  get hasKey() {
    return sessionStorage.getItem(KEY) !== null;
  }

  /** Forget the key; the next request asks for another. */
  forgetKey() {
    sessionStorage.removeItem(KEY);
  }

  /** The decoded answer. */
  async json(path, options = {}) {
    const response = await this.response(path, options);
    return response.json();
  }

  /** The answer as text. */
  async text(path, options = {}) {
    const response = await this.response(path, options);
    return response.text();
  }

  /** A body as JSON. */
  post(path, body, options = {}) {
    return this.json(path, { ...options, method: "POST", body: JSON.stringify(body) });
  }

  /** The events of a stream, each decoded; throws unless it comes to its end. */
  async *events(path, body, signal) {
    const response = await this.response(path, { method: "POST", body: JSON.stringify(body), signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await read(reader, signal);
        if (done) throw new ServerProblem("The server stopped in the middle of its answer.");
        const frames = (rest + value).split("\n\n");
        rest = frames.pop();
        for (const frame of frames) {
          const data = frame.replace(/^data: /, "");
          if (data === "[DONE]") {
            await read(reader, signal); // the end, so that nothing has to be cancelled
            return;
          }
          const event = JSON.parse(data);
          if (event.error && event.column === undefined) throw problemOf(event.error, 200);
          yield event;
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  /** Ask, with the key if there is one; where the server wants another one, people are asked. */
  async response(path, options = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const response = await this._once(path, options, key);
      if (response.ok) return response;
      const { error } = await response.json().catch(() => ({ error: null }));
      if (response.status !== 401) throw problemOf(error, response.status);
      await this._newKey(key);
    }
  }

  async _once(path, options, key) {
    const headers = new Headers(options.headers);
    if (key !== null) headers.set("authorization", `Bearer ${key}`);
    if (typeof options.body === "string") headers.set("content-type", "application/json");
    try {
      return await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ServerProblem("The server does not answer; is it still running?");
    }
  }

  /** One dialog, however many requests wait for it. */
  async _newKey(refused) {
    if (sessionStorage.getItem(KEY) !== refused) return;
    const why = refused === null ? "" : "The server does not take that key.";
    this._asking ??= this._askForKey(why).finally(() => (this._asking = null));
    sessionStorage.setItem(KEY, await this._asking);
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerProblem("The connection to the server was lost.");
  }
}

function problemOf(error, status) {
  const message = error?.message ?? `The server answered with status ${status}.`;
  return new ServerProblem(message, { status, code: error?.code ?? "" });
}
