// Vercel's AI SDK with its own provider for OpenAI, which asks the Responses API.
// OPENAI_BASE_URL and OPENAI_API_KEY name the server.
import assert from "node:assert/strict";
import test from "node:test";

import { openai } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

// Without a seed, which this provider never sends; the likeliest tokens are always the same.
const asked = { model: openai("xuzhimo"), prompt: "河", temperature: 0, maxRetries: 0 };
const verdict = z.object({
  mood: z.enum(["静", "悲", "喜"]),
  score: z.number().int().min(0).max(10),
});

test("generateText and streamText write the same poem", async () => {
  const whole = await generateText({ ...asked, maxOutputTokens: 16 });
  assert.equal(whole.usage.outputTokens, 16);
  assert.equal(whole.finishReason, "length");
  const stream = streamText({ ...asked, maxOutputTokens: 16 });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, 16);
});

test("generateObject and streamObject follow the schema", async () => {
  const objects = { ...asked, schema: verdict };
  verdict.parse((await generateObject(objects)).object);
  const stream = streamObject(objects);
  for await (const _ of stream.partialObjectStream);
  verdict.parse(await stream.object);
});

test("a tool is called, and its result goes back by reference to the stored call", async () => {
  const execute = () => "四行";
  const tools = { judge: tool({ description: "Judges.", inputSchema: verdict, execute }) };
  const called = { ...asked, tools, stopWhen: stepCountIs(2), toolChoice: "required" };
  const { steps } = await generateText(called);
  assert.equal(steps.length, 2);
  for (const step of steps) verdict.parse(step.toolCalls[0].input);
  const streamed = streamText(called);
  verdict.parse((await streamed.steps)[0].toolCalls[0].input);
});

test("a conversation goes on, with what was stored and without", async () => {
  for (const store of [true, false]) {
    const options = { ...asked, providerOptions: { openai: { store } } };
    const first = await generateText({ ...options, maxOutputTokens: 40 });
    const { prompt, ...others } = options;
    const messages = [
      { role: "user", content: prompt },
      ...first.response.messages,
      { role: "user", content: "再写一首" },
    ];
    const second = await generateText({ ...others, messages, maxOutputTokens: 40 });
    assert.ok(second.usage.inputTokens > first.usage.inputTokens);
  }
});

test("what is wrong is an error", async () => {
  await assert.rejects(generateText({ ...asked, model: openai("nobody") }), /does not exist/);
});
