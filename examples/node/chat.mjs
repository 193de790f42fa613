// An answer that is shown as it is made. Usage: node chat.mjs --model MODEL   (after npm install)
import { parseArgs } from "node:util";
import OpenAI from "openai";

const { values } = parseArgs({ options: { model: { type: "string" } } });

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const stream = await client.chat.completions.create({
  model: values.model,
  messages: [{ role: "user", content: "Name three rivers." }],
  max_tokens: 100,
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
