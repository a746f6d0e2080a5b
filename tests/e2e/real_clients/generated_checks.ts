// Typed by what openapi-typescript made of the server's own document; tsc must find nothing wrong.
import type { components } from "./schema";

type Schemas = components["schemas"];

async function ask<Answer>(path: string, body?: unknown): Promise<Answer> {
  const answer = await fetch(process.env.OPENAI_BASE_URL + path, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      Authorization: `Bearer ${process.env.OPENAI_API_KEY}`,
      "Content-Type": "application/json",
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return (await answer.json()) as Answer;
}

// Only these two have to be there.
const smallest: Schemas["ChatCompletionRequest"] = {
  model: "xuzhimo",
  messages: [{ role: "user", content: "河" }],
};
const asked: Schemas["ChatCompletionRequest"] = {
  ...smallest,
  max_tokens: 20,
  seed: 1,
  logit_bias: { "5": -100 },
  store: true,
  best_of: 1,
  response_format: {
    type: "json_schema",
    json_schema: { name: "verse", schema: { type: "object", properties: {} } },
  },
};
for (const body of [smallest, asked]) {
  const chat = await ask<Schemas["ChatCompletion"]>("/chat/completions", body);
  const text: string | null = chat.choices[0].message.content;
  const used: number = chat.usage.completion_tokens;
  if (!text || used < 1) throw new Error(JSON.stringify(chat));
}

const texts: Schemas["CompletionRequest"] = { model: "libai", prompt: ["床前", "月"], max_tokens: 5 };
const poem = await ask<Schemas["Completion"]>("/completions", texts);
if (poem.choices.length !== 2) throw new Error(JSON.stringify(poem));

const wrong: Schemas["CompletionRequest"] = { model: "nobody", prompt: "河" };
const refused = await ask<Schemas["ErrorResponse"]>("/completions", wrong);
if (refused.error.code !== "model_not_found") throw new Error(JSON.stringify(refused));

const models = await ask<Schemas["ModelList"]>("/models");
console.log(models.data.map((model) => model.id).join(" "));
