// Try: one theme, many columns, all of them written at once.

import { counted, el, field } from "./dom.js";
import { ColumnEditor } from "./editor.js";
import { PoemView } from "./poem.js";
import { Run, Seen } from "./run.js";
import { BASE, MAX_COLUMNS, emptyColumn, fromHash, toHash, whole } from "./setup.js";

const SESSION = "verse-session";
const SLICE_MS = 8;
const DRAWN_AT_ONCE = 50;

export class Try {
  /**
   * @param panel where it is shown
   * @param api the server
   * @param decisions where decisions go
   * @param say says a sentence to everybody, screen readers too
   */
  constructor(panel, api, decisions, say) {
    this._api = api;
    this._decisions = decisions;
    decisions.onSettled = (id, record, problem) => this._settle(id, record, problem);
    this._say = say;
    this._columns = []; // { setup, editor, view, node, heading }
    this._models = [];
    this._run = null;
    this._seen = new Seen();
    this._writing = null; // an AbortController
    this._setup = fromHash(location.hash);
    this._grid = el("div", { class: "columns", onkeydown: (event) => this._onKey(event) });
    panel.replaceChildren(this._form(),
      el("p", { id: "edit-keys", class: "hint" },
        "On a poem: k keeps it, r rejects it, e edits it, u undoes, ← and → go to the next. Ctrl+Enter writes, and saves an edit; Esc leaves it."),
      this._grid);
    document.addEventListener("keydown", (event) => {
      const isWrite = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (isWrite && !event.defaultPrevented && !panel.hidden) this.write();
    });
    addEventListener("hashchange", () => this._open(fromHash(location.hash)));
    addEventListener("pagehide", () => this._save());
  }

  get theme() {
    return this._setup.theme;
  }

  /** Ask what there is, and show the set-up of the page's address. */
  async start() {
    const { data } = await this._api.json("/v1/models");
    this._models = data.map((model) => ({
      id: model.parent === null ? BASE : model.id,
      steps: model.checkpoints.map((checkpoint) => String(checkpoint.step)),
    }));
    this._save();
    this._open(fromHash(location.hash));
    this._restore();
  }

  // The form

  _form() {
    this._theme = el("input", { required: true, maxlength: 2000, placeholder: "河", oninput: () => this._changed() });
    this._seed = el("input", { type: "number", min: 0, step: 1, inputmode: "numeric", oninput: () => this._changed() });
    this._max = el("input", { type: "number", min: 1, step: 1, inputmode: "numeric", oninput: () => this._changed() });
    this._blind = el("input", { type: "checkbox", onchange: () => this._onBlind() });
    this._write = el("button", { class: "main", disabled: true }, "Write"); // until there are columns
    this._stop = el("button", { type: "button", disabled: true, onclick: () => this._writing?.abort() }, "Stop");
    const theme = field("Theme", this._theme);
    theme.classList.add("theme");
    return el("form", {
      class: "form",
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        this.write();
      },
    }, theme, field("Seed", this._seed), field("Most tokens", this._max),
    el("label", { class: "check" }, this._blind, "Blind"),
    el("div", { class: "buttons" }, this._write, this._stop,
      el("button", { type: "button", onclick: () => this._addColumn() }, "Add column"),
      el("button", { type: "button", onclick: () => this._addCheckpoints() }, "All checkpoints"),
      el("button", { type: "button", onclick: () => this._copyLink() }, "Copy link")));
  }

  _changed() {
    this._setup.theme = this._theme.value;
    this._setup.seed = whole(this._seed.value) ?? 0;
    this._setup.maxTokens = Math.max(1, whole(this._max.value) ?? 1);
    history.replaceState(null, "", toHash(this._setup));
  }

  async _copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      this._say("The link is copied; it holds the whole set-up.");
    } catch {
      this._say("Copy the address of this page; it holds the whole set-up.");
    }
  }

  // Columns

  _open(setup) {
    this._writing?.abort();
    this._setup = setup;
    if (setup.columns.length === 0) {
      const ids = this._models.map((model) => model.id);
      const adapters = ids.filter((id) => id !== BASE);
      setup.columns.push(...[...adapters.slice(0, 2), BASE].slice(0, 2).map(emptyColumn));
    }
    this._theme.value = setup.theme;
    this._seed.value = setup.seed;
    this._max.value = setup.maxTokens;
    this._blind.checked = setup.blind;
    this._run = null;
    this._columns = setup.columns.map((column) => this._made(column));
    this._grid.replaceChildren(...this._columns.map((column) => column.node));
    this._write.disabled = this._writing !== null;
    this._label();
    this._changed();
  }

  _made(setup) {
    const column = { setup };
    column.editor = new ColumnEditor(setup, this._models, () => {
      this._changed();
      this._labelOne(column, this._shownOrder().indexOf(column));
    });
    column.view = new PoemView({
      decide: (view, action, text) => this._decide(column, action, text),
      undo: () => this._undo(column),
      draft: () => this._save(),
    });
    column.heading = el("h2", {});
    column.node = el("article", { class: "column" },
      el("header", {}, column.heading,
        el("button", { type: "button", class: "quiet", "aria-label": "Copy this column", onclick: () => this._addColumn(column) }, "+"),
        el("button", { type: "button", class: "quiet", "aria-label": "Remove this column", onclick: () => this._remove(column) }, "×")),
      column.editor.node, column.view.node);
    return column;
  }

  _addColumn(from = this._columns.at(-1)) {
    this._add([structuredClone(from?.setup ?? emptyColumn(BASE))]);
  }

  /** A column for each checkpoint of the first adapter, as the last column has it. */
  _addCheckpoints() {
    const from = this._columns.at(-1)?.setup ?? emptyColumn(BASE);
    const model = this._models.find(({ id }) => id === from.parts[0].name);
    if (!model?.steps.length) {
      this._say(`${from.parts[0].name} has no checkpoints.`);
      return;
    }
    this._add(model.steps.map((step) => {
      const column = structuredClone(from);
      column.parts[0].checkpoint = step;
      return column;
    }));
  }

  _add(setups) {
    const room = MAX_COLUMNS - this._columns.length;
    if (setups.length > room) this._say(`There is room for ${MAX_COLUMNS} columns.`);
    for (const setup of setups.slice(0, room)) {
      const column = this._made(setup);
      this._setup.columns.push(setup);
      this._columns.push(column);
      this._grid.append(column.node);
    }
    this._label();
    this._changed();
  }

  _remove(column) {
    const index = this._columns.indexOf(column);
    const next = this._columns[index + 1] ?? this._columns[index - 1];
    this._columns.splice(index, 1);
    this._setup.columns.splice(index, 1);
    column.node.remove();
    this._label();
    this._changed();
    (next?.view.box ?? this._theme).focus();
  }

  /** Show columns in an order; to move two hundred for nothing would be felt. */
  _arrange(columns) {
    const isMoved = columns.some(({ node }, index) => this._grid.children[index] !== node);
    if (isMoved) this._grid.append(...columns.map((column) => column.node));
  }

  _shownOrder() {
    const order = new Map([...this._grid.children].map((node, index) => [node, index]));
    return [...this._columns].sort((a, b) => order.get(a.node) - order.get(b.node));
  }

  _label() {
    this._grid.classList.toggle("blind", this._isHidden);
    this._shownOrder().forEach((column, index) => this._labelOne(column, index));
  }

  _labelOne({ heading, editor, node, view }, index) {
    const name = this._isHidden ? `Poem ${index + 1}` : `${index + 1} · ${editor.model}`;
    heading.textContent = name;
    node.setAttribute("aria-label", name);
    view.box.setAttribute("aria-label", `Text of ${name}`);
    view.by = !this._isHidden && view.made && view.made.model !== editor.model ? view.made.model : "";
    view.isBlind = this._isHidden;
    view.show();
  }

  // Writing

  /** Write all columns. */
  async write() {
    if (this._write.disabled) return; // it writes, or does not know its columns yet
    if (!this._setup.theme.trim()) {
      this._say("Give a theme first.");
      this._theme.focus();
      return;
    }
    if (this._columns.length === 0) this._addColumn();
    this._run = Run.begin(this._setup);
    const controller = (this._writing = new AbortController());
    this._write.disabled = true;
    this._stop.disabled = false;
    this._arrange(this._run.ordered(this._columns));
    const columns = [...this._columns];
    columns.forEach((column) => column.view.clear(this._run.made(column)));
    this._label();
    this._say(`Writing ${counted(columns.length, "poem")} …`);
    const problem = await this._stream(columns, controller.signal);
    this._writing = null;
    this._write.disabled = false;
    this._stop.disabled = true;
    const broken = columns.filter(({ view }) => view.state === "broken").length;
    this._say(problem || (broken ? `${counted(broken, "column")} could not be written.` : `${counted(columns.length, "poem")} written.`));
    this._noteSeen();
    this._save();
  }

  /** Follow the stream to its end; the sentence that says why it ended early. */
  async _stream(columns, signal) {
    const views = columns.map((column) => column.view);
    let problem = "";
    // A long poem is laid out anew for each change: of many, each frame draws its share.
    const turns = Math.ceil(views.length / DRAWN_AT_ONCE);
    let turn = 0;
    const flush = () => {
      views.forEach((view, index) => index % turns === turn && view.flush());
      turn = (turn + 1) % turns;
      frame = requestAnimationFrame(flush);
    };
    let frame = requestAnimationFrame(flush);
    let since = performance.now();
    try {
      const bodies = views.map((view) => this._run.body(view.made));
      for await (const event of this._api.events("/v1/columns", { columns: bodies }, signal)) {
        this._take(views[event.column], event);
        if (performance.now() - since > SLICE_MS) {
          await new Promise((resolve) => setTimeout(resolve)); // others get their turn, drawing too
          since = performance.now();
        }
      }
    } catch (error) {
      problem = signal.aborted ? "Stopped." : error.message;
    }
    cancelAnimationFrame(frame);
    views.filter((view) => view.state === "writing").forEach((view) => {
      view.finish(problem || "The server said no more.");
    });
    this._compareLater(views);
    return problem;
  }

  _take(view, { chunk, error }) {
    if (error) {
      view.finish(error.message);
      return;
    }
    view.fingerprint = chunk.system_fingerprint ?? view.fingerprint;
    view.usage = chunk.usage ?? view.usage;
    for (const choice of chunk.choices) {
      view.add(choice.delta.content ?? "");
      if (choice.finish_reason) view.finishReason = choice.finish_reason;
    }
    if (chunk.usage) {
      view.finish();
      this._compareLater([view]);
    }
  }

  /** Compare when there is time for it, one poem after another. */
  _compareLater(views) {
    const first = this._shownOrder()[0]?.view;
    if (first === undefined || first.state === "writing") return;
    const waiting = views.includes(first) ? this._columns.map((column) => column.view) : views;
    const step = (index) => {
      const view = waiting[index];
      if (view === undefined || this._shownOrder()[0]?.view !== first) return;
      view.compare(view === first ? null : first.shown);
      later(() => step(index + 1));
    };
    later(() => step(0));
  }

  // Deciding

  get _isHidden() {
    return this._setup.blind && this._run !== null && this._run.isHidden;
  }

  _onBlind() {
    this._setup.blind = this._blind.checked;
    if (!this._blind.checked) this._reveal();
    else if (this._run !== null) this._say("The next poems come without names, in a new order.");
    this._changed();
  }

  _reveal() {
    this._run?.reveal();
    this._label();
    this._noteSeen();
    this._save();
  }

  _decide(column, action, text) {
    const { view } = column;
    if (this._run === null || (view.state === "writing")) return;
    if (action === "edit" && text === view.text) [action, text] = ["accept", null];
    const blind = this._isHidden && !this._seen.has(view.made.theme, view.text);
    const decision = { action, text, number: null, id: null };
    view.decision = decision;
    decision.id = this._decisions.add(this._run.decision(view, blind, session()));
    if (text !== null) view.compare(null);
    this._compareLater([view]);
    this._say(`${{ accept: "Kept", edit: "Kept as edited", reject: "Rejected" }[action]}: ${column.heading.textContent}.`);
    view.show();
    if (this._isHidden && this._columns.every((each) => isSettled(each.view))) this._reveal();
    this._save();
  }

  _settle(id, record, problem) {
    const view = this._columns.map((column) => column.view).find((each) => each.decision?.id === id);
    if (view === undefined) return;
    if (record !== null) view.decision.number = record.number;
    else {
      view.decision = null;
      view.problem = problem.message;
    }
    view.show();
    this._save();
  }

  async _undo(column) {
    const { view } = column;
    const { decision } = view;
    if (decision === null) return;
    try {
      if (decision.number !== null) await this._decisions.undo(decision.number);
      else if (!this._decisions.withdraw(decision.id)) return;
      view.decision = null;
      view.compare(null);
      this._compareLater([view]);
      this._say(`Taken back: ${column.heading.textContent}.`);
    } catch (error) {
      this._say(error.message);
    }
    view.show();
    this._save();
  }

  _noteSeen() {
    if (this._isHidden) return;
    this._seen.add(this._columns.map(({ view }) => view).filter((view) => view.text));
  }

  _onKey(event) {
    const written = event.target.closest(".written");
    if (written === null || event.target.matches("textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const column = this._columns.find((each) => each.view.node === written);
    const action = { k: "accept", a: "accept", r: "reject", e: "edit", u: "undo" }[event.key];
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (action !== undefined) column.view.act(action);
    else if (move !== undefined) {
      const order = this._shownOrder();
      order[order.indexOf(column) + move]?.view.box.focus();
    } else return;
    event.preventDefault();
  }

  // What outlives a reload

  _save() {
    if (this._run === null) return;
    const order = this._shownOrder().map((column) => this._columns.indexOf(column));
    this._run.save(toHash(this._setup), order, this._columns.map(({ view }) => view.kept));
  }

  _restore() {
    const kept = Run.restored(toHash(this._setup));
    if (kept === null || kept.poems.length !== this._columns.length) return;
    this._run = kept.run;
    this._arrange(kept.order.map((index) => this._columns[index]));
    this._columns.forEach(({ view }, index) => {
      view.restore(kept.poems[index]);
      if (view.decision !== null) view.decision.number ??= this._decisions.numberOf(view.decision.id);
      view.show();
    });
    this._label();
    this._compareLater(this._columns.map((column) => column.view));
  }
}

/** Decided, or nothing that could be. */
function isSettled(view) {
  return view.decision !== null || (view.state !== "writing" && !view.text.trim());
}

function session() {
  if (sessionStorage.getItem(SESSION) === null) {
    const random = crypto.getRandomValues(new Uint32Array(2));
    sessionStorage.setItem(SESSION, `page-${random[0].toString(36)}${random[1].toString(36)}`);
  }
  return sessionStorage.getItem(SESSION);
}

function later(work) {
  if (globalThis.requestIdleCallback) requestIdleCallback(work, { timeout: 500 });
  else setTimeout(work);
}
