// One round of writing: what was asked, in which order it is shown, and whether names are hidden.

import { modelOf } from "./setup.js";

const STORE = "verse-run";
const SEEN = "verse-seen";
const MAX_SEEN = 5000;

export class Run {
  constructor(fields) {
    Object.assign(this, fields);
  }

  /** A run that begins now; a blind one in an order that nobody knows. */
  static begin(setup) {
    const orderSeed = setup.blind ? crypto.getRandomValues(new Uint32Array(1))[0] : null;
    const { theme, seed, maxTokens, blind } = setup;
    return new Run({ theme, seed, maxTokens, isBlind: blind, isOpen: !blind, orderSeed });
  }

  /** The run that was kept for a set-up, with its poems; null if there is none. */
  static restored(hash) {
    try {
      const kept = JSON.parse(sessionStorage.getItem(STORE));
      return kept?.hash === hash ? { ...kept, run: new Run(kept.run) } : null;
    } catch {
      return null;
    }
  }

  /** Whether nothing on the page may tell the models. */
  get isHidden() {
    return this.isBlind && !this.isOpen;
  }

  /** From now on the names have been seen. */
  reveal() {
    this.isOpen = true;
  }

  /** The columns in the order they are shown. */
  ordered(columns) {
    return this.orderSeed === null ? columns : shuffled(columns, this.orderSeed);
  }

  /** What a column's poem is made with. */
  made({ setup }) {
    return {
      theme: this.theme,
      model: modelOf(setup.parts),
      seed: setup.seed ?? this.seed,
      temperature: setup.temperature,
      maxTokens: this.maxTokens,
    };
  }

  /** The request for it. */
  body({ theme, model, seed, temperature, maxTokens }) {
    return {
      model,
      messages: [{ role: "user", content: theme }],
      seed,
      max_tokens: maxTokens,
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature === null ? {} : { temperature }),
    };
  }

  /** The request that decides about a poem, once its `decision` is set. */
  decision(view, blind, session) {
    const { made, decision } = view;
    return {
      action: decision.action,
      ...(decision.text === null ? {} : { text: decision.text }),
      poem: {
        theme: made.theme,
        text: view.text,
        model: made.model,
        system_fingerprint: view.fingerprint,
        seed: made.seed,
        temperature: made.temperature,
        max_tokens: made.maxTokens,
        finish_reason: view.finishReason,
        prompt_tokens: view.usage?.prompt_tokens ?? null,
        completion_tokens: view.usage?.completion_tokens ?? null,
      },
      blind,
      order: this.orderSeed === null ? "file" : "shuffle",
      order_seed: this.orderSeed,
      session,
    };
  }

  /** Keep all of it for this tab, as far as there is room. */
  save(hash, order, poems) {
    try {
      sessionStorage.setItem(STORE, JSON.stringify({ hash, order, poems, run: { ...this } }));
    } catch {
      sessionStorage.removeItem(STORE);
    }
  }
}

/** The poems whose model was in view once; a poem that comes again is known again. */
export class Seen {
  constructor() {
    this._known = new Set(JSON.parse(sessionStorage.getItem(SEEN) ?? "[]"));
  }

  has(theme, text) {
    return this._known.has(digest(`${theme}\n${text}`));
  }

  /** Take in poems that are on the page with their names. */
  add(views) {
    views.forEach(({ made, text }) => this._known.add(digest(`${made.theme}\n${text}`)));
    sessionStorage.setItem(SEEN, JSON.stringify([...this._known].slice(-MAX_SEEN)));
  }
}

/** A short name of a text (FNV-1a twice). */
function digest(text) {
  let a = 0x811c9dc5, b = 0x01000193;
  for (let index = 0; index < text.length; index += 1) {
    a = Math.imul(a ^ text.charCodeAt(index), 0x01000193);
    b = Math.imul(b ^ text.charCodeAt(text.length - 1 - index), 0x01000193);
  }
  return (a >>> 0).toString(36) + (b >>> 0).toString(36);
}

/** The same entries in an order that follows from a seed (Fisher and Yates; mulberry32). */
function shuffled(entries, seed) {
  const order = [...entries];
  let state = seed >>> 0;
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let index = order.length - 1; index > 0; index -= 1) {
    const other = Math.floor(random() * (index + 1));
    [order[index], order[other]] = [order[other], order[index]];
  }
  return order;
}
