// LangChain's provider for Ollama.
import { ChatOllama } from '@langchain/ollama';
import { agentModel, calls, chatModel, endings, question, tool } from './lab.js';

endings('langchain', async function* (baseUrl) {
  const model = new ChatOllama({ baseUrl, model: chatModel, maxRetries: 0 });
  for await (const chunk of await model.stream(question)) yield chunk.content;
}, { empty: true, cut: /terminated/ });

calls('langchain', async (baseUrl, task) => {
  const model = new ChatOllama({ baseUrl, model: agentModel, maxRetries: 0 }).bindTools([{ type: 'function', function: tool }]);
  let whole;
  for await (const chunk of await model.stream(task)) whole = whole ? whole.concat(chunk) : chunk;
  return { text: whole.content, calls: whole.tool_calls.map(({ name, args }) => [name, args]) };
});
