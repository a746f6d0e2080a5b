// The openai SDK for Node; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ maxRetries: 0 });
const create = (options) => client.chat.completions.create(options);
const ADAPTERS = ["xuzhimo", "hushi", "libai", "xuzhimo:0.7+hushi:0.3"];
const POEM = {
  model: "xuzhimo",
  messages: [{ role: "user", content: "河" }],
  seed: 3,
  max_tokens: 12,
};

async function write(model, more = {}) {
  const answer = await create({ ...POEM, model, ...more });
  return answer.choices[0].message.content;
}

test("models are listed page by page and retrieved", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  for (const name of ["verse-tiny", "xuzhimo", "hushi"]) assert.ok(names.includes(name));
  const checkpoint = await client.models.retrieve("xuzhimo@last");
  assert.equal(checkpoint.parent, "xuzhimo");
});

test("a seed writes the same poem whole, streamed and through the helper, with usage", async () => {
  const { data: whole, response } = await create(POEM).withResponse();
  assert.equal(response.status, 200);
  assert.ok(whole._request_id);
  const options = { ...POEM, stream: true, stream_options: { include_usage: true } };
  let [text, usage] = ["", null];
  for await (const chunk of await create(options)) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  const helper = client.chat.completions.stream(POEM);
  let deltas = "";
  helper.on("content", (delta) => (deltas += delta));
  assert.equal(await helper.finalContent(), text);
  assert.equal(deltas, text);
});

test("adapters at once write what each writes alone", async () => {
  const together = await Promise.all([...ADAPTERS, ...ADAPTERS].map((name) => write(name)));
  const alone = [];
  for (const name of ADAPTERS) alone.push(await write(name));
  assert.deepEqual(together, [...alone, ...alone]);
  assert.equal(new Set(alone).size, ADAPTERS.length);
});

test("our own fields are sent as they are", async () => {
  const wanted = await write("hushi", { top_k: 5 });
  assert.equal(await write("base", { adapters: "hushi", top_k: 5 }), wanted);
});

test("JSON follows a schema, whole and streamed", async () => {
  const schema = {
    type: "object",
    properties: {
      mood: { type: "string", enum: ["静", "悲", "喜"] },
      score: { type: "integer", minimum: 0, maximum: 10 },
    },
    required: ["mood", "score"],
    additionalProperties: false,
  };
  const json_schema = { name: "verdict", strict: true, schema };
  const options = { ...POEM, max_tokens: 60, response_format: { type: "json_schema", json_schema } };
  const { parsed, content } = (await client.chat.completions.parse(options)).choices[0].message;
  assert.ok(["静", "悲", "喜"].includes(parsed.mood));
  assert.ok(Number.isInteger(parsed.score));
  assert.equal(await client.chat.completions.stream(options).finalContent(), content);
});

test("a tool is called, whole and streamed, and its result goes back", async () => {
  const parameters = {
    type: "object",
    properties: { mood: { type: "string", enum: ["静", "悲", "喜"] } },
    required: ["mood"],
    additionalProperties: false,
  };
  const tools = [{ type: "function", function: { name: "judge", strict: true, parameters } }];
  const options = { ...POEM, max_tokens: 60, tools, tool_choice: "required" };
  const { message, finish_reason } = (await create(options)).choices[0];
  assert.equal(finish_reason, "tool_calls");
  const [call] = message.tool_calls;
  assert.ok(["静", "悲", "喜"].includes(JSON.parse(call.function.arguments).mood));
  const streamed = await client.chat.completions.stream(options).finalMessage();
  assert.deepEqual(streamed.tool_calls[0].function.name, "judge");
  assert.deepEqual(streamed.tool_calls[0].function.arguments, call.function.arguments);
  const result = { role: "tool", tool_call_id: call.id, content: "四行" };
  const messages = [...POEM.messages, message, result];
  assert.ok((await create({ ...POEM, messages })).choices[0].message.content);
});

test("the older completions continue several texts", async () => {
  const options = { model: "libai", seed: 3, max_tokens: 12 };
  const prompt = ["床前明月光，", "大江东去，"];
  const whole = await client.completions.create({ ...options, prompt });
  const texts = ["", ""];
  for await (const part of await client.completions.create({ ...options, prompt, stream: true }))
    for (const choice of part.choices) texts[choice.index] += choice.text;
  assert.deepEqual(whole.choices.map((choice) => choice.text), texts);
});

test("a stream that is broken off leaves the client as it was", async () => {
  const stream = await create({ ...POEM, max_tokens: 400, stream: true });
  for await (const _ of stream) break;
  assert.ok(stream.controller.signal.aborted);
  assert.ok(await write("xuzhimo"));
});

test("errors are told apart", async () => {
  const unknown = { name: "Error", code: "model_not_found", status: 404 };
  await assert.rejects(write("nobody"), OpenAI.NotFoundError);
  await assert.rejects(write("nobody"), unknown);
  await assert.rejects(write("xuzhimo", { temperature: 3 }), OpenAI.BadRequestError);
  await assert.rejects(write("xuzhimo", { temperature: 3 }), { param: "temperature" });
  const stranger = client.withOptions({ apiKey: "wrong" });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("a response is the chat's poem, whole and streamed, and goes on from itself", async () => {
  const { messages, max_tokens, ...poem } = POEM;
  const asked = { ...poem, input: "河", stop: "\n" };
  const whole = await client.responses.create(asked);
  assert.equal(whole.output_text, await write("xuzhimo", { stop: "\n", max_tokens: null }));
  let text = "";
  const numbers = [];
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    numbers.push(event.sequence_number);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
  assert.deepEqual(numbers, [...numbers.keys()]);
  const final = await client.responses.stream(asked).finalResponse();
  assert.equal(final.output_text, text);
  const again = { ...poem, input: "再写一首", previous_response_id: final.id };
  assert.ok((await client.responses.create(again)).usage.input_tokens > whole.usage.input_tokens);
  assert.equal((await client.responses.retrieve(final.id)).output_text, text);
  for await (const item of client.responses.inputItems.list(final.id))
    assert.equal(item.content[0].text, "河");
  await client.responses.delete(final.id);
  await assert.rejects(client.responses.retrieve(final.id), OpenAI.NotFoundError);
});

test("a response follows a schema and calls a function", async () => {
  const schema = {
    type: "object",
    properties: { mood: { type: "string", enum: ["静", "悲", "喜"] } },
    required: ["mood"],
    additionalProperties: false,
  };
  const asked = { model: "xuzhimo", input: "河", seed: 3 };
  const format = { type: "json_schema", name: "verdict", strict: true, schema };
  const parsed = await client.responses.parse({ ...asked, text: { format } });
  assert.ok(["静", "悲", "喜"].includes(parsed.output_parsed.mood));
  const tools = [{ type: "function", name: "judge", strict: true, parameters: schema }];
  const called = await client.responses.create({ ...asked, tools, tool_choice: "required" });
  const [call] = called.output;
  assert.ok(["静", "悲", "喜"].includes(JSON.parse(call.arguments).mood));
  const result = { type: "function_call_output", call_id: call.call_id, output: "四行" };
  const told = { ...asked, input: [result], previous_response_id: called.id };
  assert.ok((await client.responses.create(told)).output_text);
});

test("a batch answers the lines of a file, and is listed and cancelled", async () => {
  const row = (number) => ({
    custom_id: `poem-${number}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { ...POEM, seed: number },
  });
  const lines = [0, 1, 2].map((number) => JSON.stringify(row(number))).join("\n");
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines), "rows.jsonl"),
    purpose: "batch",
  });
  const asked = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
  let batch = await client.batches.create(asked);
  while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 3, completed: 3, failed: 0 });
  const output = await (await client.files.content(batch.output_file_id)).text();
  const results = output.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(results.map((result) => result.custom_id), ["poem-0", "poem-1", "poem-2"]);
  const [first] = results[0].response.body.choices;
  assert.equal(first.message.content, await write("xuzhimo", { seed: 0 }));
  const ids = [];
  for await (const listed of client.batches.list()) ids.push(listed.id);
  assert.ok(ids.includes(batch.id));
  await assert.rejects(client.batches.cancel(batch.id), OpenAI.ConflictError);
});

test("a job is trained from a file, watched, and its checkpoint asked for", async () => {
  const rows = ["河", "灯", "雨", "山"].map((theme) =>
    JSON.stringify({ messages: [
      { role: "user", content: theme },
      { role: "assistant", content: `${theme}在夜里\n轻轻地走` },
    ] }));
  const file = await client.files.create({
    file: await toFile(Buffer.from(rows.join("\n")), "poems.jsonl"),
    purpose: "fine-tune",
  });
  const base = (await client.models.retrieve("base")).id;
  let job = await client.fineTuning.jobs.create({
    model: base, training_file: file.id, suffix: "node", seed: 7, verse: { iters: 2 },
  });
  while (!["succeeded", "failed"].includes(job.status)) {
    await new Promise((done) => setTimeout(done, 500));
    job = await client.fineTuning.jobs.retrieve(job.id);
  }
  assert.equal(job.status, "succeeded", JSON.stringify(job.error));
  assert.equal(job.fine_tuned_model, "node");
  const messages = [];
  for await (const event of client.fineTuning.jobs.listEvents(job.id)) messages.push(event.message);
  assert.equal(messages.at(-1), "The job was created.");
  const steps = [];
  for await (const saved of client.fineTuning.jobs.checkpoints.list(job.id)) {
    steps.push(saved.step_number);
    assert.ok(await write(saved.fine_tuned_model_checkpoint));
  }
  assert.ok(steps.includes(2));
  const listed = [];
  for await (const other of client.fineTuning.jobs.list()) listed.push(other.id);
  assert.ok(listed.includes(job.id));
  await assert.rejects(client.fineTuning.jobs.cancel(job.id), OpenAI.ConflictError);
  const table = await (await client.files.content(job.result_files[0])).text();
  assert.ok(table.startsWith("step,train_loss,valid_loss\n"));
  assert.equal((await client.files.retrieve(job.result_files[0])).purpose, "fine-tune-results");
  const ids = [];
  for await (const listed of client.files.list({ purpose: "fine-tune" })) ids.push(listed.id);
  assert.ok(ids.includes(file.id));
  assert.ok((await client.files.delete(file.id)).deleted);
});

test("a job goes on from another one's checkpoint, is held, goes on and is cancelled", async () => {
  const pair = JSON.stringify({
    input: { messages: [{ role: "user", content: "河" }] },
    preferred_output: [{ role: "assistant", content: "河在夜里\n轻轻地走" }],
    non_preferred_output: [{ role: "assistant", content: "啊啊啊" }],
  });
  const file = await client.files.create({
    file: await toFile(Buffer.from(`${pair}\n${pair}\n`), "pairs.jsonl"),
    purpose: "fine-tune",
  });
  const jobs = client.fineTuning.jobs;
  let job = await jobs.create({
    model: "xuzhimo@best",
    training_file: file.id,
    method: { type: "dpo", dpo: { hyperparameters: { beta: 0.2 } } },
    metadata: { iters: "5000" },
  });
  assert.match(job.model, /^xuzhimo@\d+$/);
  while (job.status === "validating_files") {
    await new Promise((done) => setTimeout(done, 200));
    job = await jobs.retrieve(job.id);
  }
  assert.equal((await jobs.pause(job.id)).status, "paused", JSON.stringify(job.error));
  assert.equal((await jobs.resume(job.id)).status, "queued");
  assert.equal((await jobs.cancel(job.id)).status, "cancelled");
});
