// OpenAI's own library for Node.js, pointed at the service: prints what it receives as one line of JSON.
//
// Its arguments are the base URL and the bearer token.

import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 20_000 });
const question = { model: "gpt-5.5", input: "say hi", store: false };

async function streamed() {
  let text = "";
  for await (const event of await client.responses.create({ ...question, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return text;
}

async function overWebSocket() {
  const socket = new ResponsesWS(client);
  try {
    socket.send({ type: "response.create", stream_id: "main", ...question });
    for await (const event of socket) {
      if (event.type === "error") throw event.error;
      if (event.type === "message" && event.message.type === "response.completed") {
        return [event.message.stream_id, event.message.response.output[0].content[0].text];
      }
    }
  } finally {
    socket.close();
  }
}

async function refused() {
  const chat = { model: "gpt-5.5", messages: [{ role: "user", content: "say hi" }] };
  try {
    await client.chat.completions.create(chat);
  } catch (error) {
    return [error.status, error.code];
  }
}

console.log(JSON.stringify({ streamed: await streamed(), webSocket: await overWebSocket(), refused: await refused() }));
