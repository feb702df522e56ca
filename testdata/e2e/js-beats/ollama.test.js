// Ollama's own JavaScript client.
import { Ollama } from 'ollama';
import { agentModel, calls, chatModel, endings, messages, question, tool } from './lab.js';

endings('ollama chat', async function* (host) {
  const stream = await new Ollama({ host }).chat({ model: chatModel, messages, stream: true });
  for await (const chunk of stream) yield chunk.message.content;
}, { empty: true, cut: /terminated/ });

endings('ollama generate', async function* (host) {
  const stream = await new Ollama({ host }).generate({ model: chatModel, prompt: question, stream: true });
  for await (const chunk of stream) yield chunk.response;
}, { empty: true, cut: /terminated/ });

calls('ollama chat', async (host, task) => {
  const tools = [{ type: 'function', function: tool }];
  const stream = await new Ollama({ host }).chat({ model: agentModel, messages: [{ role: 'user', content: task }], tools, stream: true });
  const said = { text: '', calls: [] };
  for await (const { message } of stream) {
    said.text += message.content;
    for (const { function: f } of message.tool_calls ?? []) said.calls.push([f.name, f.arguments]);
  }
  return said;
});
