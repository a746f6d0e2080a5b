// Jobs: from a file of poems to an adapter that is served, with all that happens on the way.

import { counted, el, facts, field, svg } from "./dom.js";
import { looked } from "./rows.js";
import { whole } from "./setup.js";

const JOBS = "/v1/fine_tuning/jobs";
const OVER = new Set(["succeeded", "failed", "cancelled"]);
const WIDTH = 600;
const HEIGHT = 160;

/** Whether the server trains at all. */
export async function hasJobs(api) {
  try {
    await api.json(`${JOBS}?limit=1`);
    return true;
  } catch (error) {
    if (error.status === 403 || error.status === 404) return false;
    throw error;
  }
}

export class Jobs {
  /** @param onTry called with the name of a model that somebody wants to try */
  constructor(panel, api, say, onTry) {
    this._api = api;
    this._say = say;
    this._onTry = onTry;
    this._file = null;
    this._views = new Map(); // id -> JobView
    this._list = el("ul", { class: "cards jobs" });
    panel.replaceChildren(this._form(), this._list);
  }

  /** Ask how far all jobs are. */
  async show() {
    const { data } = await this._api.json(`${JOBS}?limit=20`);
    for (const job of data) {
      let view = this._views.get(job.id);
      if (view === undefined) {
        view = new JobView(job.id, this._api, this._say, this._onTry);
        this._views.set(job.id, view);
      }
      await view.update(job);
    }
    const nodes = data.map((job) => this._views.get(job.id).node);
    if (nodes.some((node, index) => this._list.children[index] !== node)) this._list.replaceChildren(...nodes);
  }

  _form() {
    this._input = el("input", { type: "file", accept: ".jsonl,.json", onchange: () => this._look(this._input.files[0]) });
    this._name = el("input", { maxlength: 64, placeholder: "mine", spellcheck: "false" });
    this._epochs = el("input", { type: "number", min: 1, max: 50, step: 1, placeholder: "auto", inputmode: "numeric" });
    this._preflight = el("p", { role: "status" }, "Choose a file of poems, or drop one here: JSON Lines, a poem or a conversation in each.");
    this._start = el("button", { class: "main", disabled: true }, "Train");
    const form = el("form", {
      class: "form drop",
      onsubmit: (event) => {
        event.preventDefault();
        this._train();
      },
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => {
        event.preventDefault();
        this._look(event.dataTransfer.files[0]);
      },
    }, field("Poems", this._input), field("Name of the adapter", this._name), field("Epochs", this._epochs), this._start, this._preflight);
    form.firstChild.classList.add("theme");
    return form;
  }

  /** What the file holds, in words, before anything is sent. */
  async _look(file) {
    if (file === undefined) return;
    this._file = file;
    const { words, isFine, type } = await looked(file);
    if (this._file !== file) return;
    this._type = type;
    this._preflight.textContent = words;
    this._preflight.classList.toggle("problem", !isFine);
    this._start.disabled = !isFine;
  }

  async _train() {
    if (this._file === null || this._start.disabled) return;
    this._start.disabled = true;
    try {
      this._say(`Sending ${this._file.name} …`);
      const form = new FormData();
      form.set("purpose", "fine-tune");
      form.set("file", this._file);
      const { id } = await this._api.json("/v1/files", { method: "POST", body: form });
      const epochs = whole(this._epochs.value);
      const hyperparameters = epochs === null ? {} : { n_epochs: epochs };
      const job = await this._api.post(JOBS, {
        training_file: id,
        model: await this._base(),
        ...(this._name.value.trim() ? { suffix: this._name.value.trim() } : {}),
        method: { type: this._type, [this._type]: { hyperparameters } },
      });
      this._say(`The job ${job.id} is there; its files are being looked at.`);
      await this.show();
    } catch (error) {
      this._say(error.message);
    }
    this._start.disabled = false;
  }

  async _base() {
    const { data } = await this._api.json("/v1/models");
    return data.find((model) => model.parent === null).id;
  }
}

class JobView {
  constructor(id, api, say, onTry) {
    this._id = id;
    this._api = api;
    this._say = say;
    this._onTry = onTry;
    this._events = []; // oldest first
    this._status = el("p", { class: "state" });
    this._facts = el("div", {});
    this._problem = el("p", { class: "problem" });
    this._train = svg("polyline", { class: "line", points: "" });
    this._valid = svg("polyline", { class: "line second", points: "" });
    this._chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": "No loss yet" }, this._train, this._valid);
    this._losses = el("p", { class: "hint" });
    this._checkpoints = el("div", {});
    this._log = el("ol", { class: "log", tabindex: 0, "aria-label": "What happened" });
    this._buttons = el("div", { class: "buttons" });
    this._title = el("h2", {}, id);
    this.node = el("li", { class: "card job" }, this._title, this._status, this._problem, this._facts,
      this._chart, this._losses, this._buttons, this._checkpoints, this._log);
  }

  async update(job) {
    if (OVER.has(this._last?.status) && this._last.status === job.status) return;
    await this._readEvents();
    const { data } = await this._api.json(`${JOBS}/${this._id}/checkpoints?limit=100`);
    this._show(job, data);
    this._last = job;
  }

  /** All events since the last time; the server has the newest first. */
  async _readEvents() {
    const known = new Set(this._events.map((event) => event.id)), fresh = [];
    for (let after = ""; ; ) {
      const page = await this._api.json(`${JOBS}/${this._id}/events?limit=100${after && `&after=${after}`}`);
      const unknown = page.data.filter((event) => !known.has(event.id));
      fresh.push(...unknown);
      if (!page.has_more || unknown.length < page.data.length || !page.data.length) break;
      after = page.data.at(-1).id;
    }
    this._events.push(...fresh.reverse());
  }

  _show(job, checkpoints) {
    const steps = this._events.findLast((event) => event.data?.steps)?.data.steps;
    const step = this._events.findLast((event) => event.data?.step)?.data.step;
    this._title.textContent = job.fine_tuned_model ?? `${this._id}`;
    this._status.textContent = job.status.replaceAll("_", " ");
    this._status.className = `state ${{ succeeded: "resident", failed: "refused" }[job.status] ?? ""}`;
    this._problem.textContent = job.error?.message ?? "";
    this._facts.replaceChildren(facts([
      ["Base", job.model],
      ["Step", step === undefined ? null : steps === undefined ? step : `${step} of ${steps}`],
      ["Ready", job.status === "running" ? eta(job.estimated_finish) : null],
      ["Tokens learned from", job.trained_tokens],
    ]));
    this._draw();
    this._showButtons(job);
    this._showCheckpoints(checkpoints, job);
    this._log.replaceChildren(...this._events.slice(-100).reverse().map((event) =>
      el("li", { class: event.level === "error" ? "problem" : null }, event.message)));
  }

  _draw() {
    const losses = (name) => this._events.filter((event) => Number.isFinite(event.data?.[name]))
      .map((event) => [event.data.step, event.data[name]]);
    const train = losses("train_loss"), valid = losses("valid_loss"), all = [...train, ...valid];
    if (!all.length) return;
    const most = Math.max(...all.map(([, loss]) => loss)), least = Math.min(...all.map(([, loss]) => loss));
    const last = Math.max(...all.map(([step]) => step), 1);
    const point = ([step, loss]) => `${((WIDTH * step) / last).toFixed(1)},${(HEIGHT - 4 - ((HEIGHT - 8) * (loss - least)) / (most - least || 1)).toFixed(1)}`;
    this._train.setAttribute("points", train.map(point).join(" "));
    this._valid.setAttribute("points", valid.map(point).join(" "));
    const words = [["training", train], ["validation", valid]].filter(([, list]) => list.length)
      .map(([name, list]) => `${name} loss ${list[0][1].toFixed(3)} at first, ${list.at(-1)[1].toFixed(3)} at step ${list.at(-1)[0]}`).join("; ");
    this._chart.setAttribute("aria-label", `Loss by step: ${words}`);
    this._losses.textContent = `${words}. The dashed line is validation.`;
  }

  _showButtons(job) {
    const shown = OVER.has(job.status) ? ["done"] : job.status === "paused" ? ["resume", "cancel"] : ["pause", "cancel"];
    if (this._buttons.dataset.shown === `${shown}`) return;
    this._buttons.dataset.shown = `${shown}`;
    const name = job.fine_tuned_model;
    const verbs = { pause: "Pause", resume: "Go on", cancel: "Cancel" };
    this._buttons.replaceChildren(...shown.filter((verb) => verb in verbs).map((verb) =>
      el("button", { type: "button", "aria-label": `${verbs[verb]} ${this._id}`, onclick: () => this._post(verb) }, verbs[verb])),
    ...(job.status === "succeeded" ? [el("button", { type: "button", class: "main", onclick: () => this._onTry(name) }, `Try ${name}`)] : []));
  }

  async _post(verb) {
    try {
      const job = await this._api.json(`${JOBS}/${this._id}/${verb}`, { method: "POST" });
      await this.update(job);
    } catch (error) {
      this._say(error.message);
    }
  }

  /** Each checkpoint with the poems that were written on the way to it. */
  _showCheckpoints(checkpoints, job) {
    const samples = this._events.filter((event) => event.data?.text);
    const count = `${checkpoints.length} ${samples.length} ${job.status}`;
    if (this._checkpoints.dataset.count === count) return;
    this._checkpoints.dataset.count = count;
    const rows = [...checkpoints].sort((a, b) => a.step_number - b.step_number).map((checkpoint) => {
      const name = checkpoint.fine_tuned_model_checkpoint;
      return el("li", {}, name, " ", el("button", { type: "button", onclick: () => this._onTry(name) }, `Try ${name}`));
    });
    const poems = samples.map(({ data }) => el("figure", {}, el("figcaption", {}, `Step ${data.step}: ${data.theme}`), el("blockquote", { lang: "zh" }, data.text)));
    this._checkpoints.replaceChildren(
      ...(rows.length ? [el("h3", {}, counted(rows.length, "checkpoint")), el("ul", { class: "plain" }, ...rows)] : []),
      ...(poems.length ? [el("h3", {}, counted(poems.length, "sample")), ...poems] : []));
  }
}

/** When it will be ready, in words. */
function eta(finish) {
  if (!finish) return null;
  const seconds = Math.max(0, finish - Date.now() / 1000);
  return seconds < 90 ? `in ${Math.ceil(seconds)} s` : `in ${Math.round(seconds / 60)} min`;
}
