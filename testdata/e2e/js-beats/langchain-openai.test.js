// LangChain's provider for OpenAI.
import assert from 'node:assert/strict';
import { ChatOpenAI } from '@langchain/openai';
import { agentModel, calls, chatModel, endings, question, tool } from './lab.js';

const connect = (url, model) => new ChatOpenAI({ model, apiKey: 'any', maxRetries: 0, configuration: { baseURL: `${url}/v1` } });

endings('langchain openai', async function* (url) {
  for await (const chunk of await connect(url, chatModel).stream(question)) yield chunk.content;
}, { empty: true, cut: /terminated/ });

calls('langchain openai', async (url, task) => {
  const model = connect(url, agentModel).bindTools([{ type: 'function', function: tool }]);
  let whole;
  for await (const chunk of await model.stream(task)) whole = whole ? whole.concat(chunk) : chunk;
  assert.ok(whole.id, 'an answer without an id takes the place of others in LangGraph');
  return { text: whole.content, calls: whole.tool_calls.map(({ name, args }) => [name, args]) };
});
