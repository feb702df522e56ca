// Anthropic's own client: the plain stream, and the helper that gathers a message.
import Anthropic from '@anthropic-ai/sdk';
import { agentModel, calls, chatModel, endings, messages, tool } from './lab.js';

const connect = (baseURL) => new Anthropic({ baseURL, apiKey: 'any', maxRetries: 0 });
const ask = { model: chatModel, max_tokens: 32, messages };
const text = (event) => event.type === 'content_block_delta' && event.delta.type === 'text_delta';

endings('anthropic create', async function* (url) {
  const stream = await connect(url).messages.create({ ...ask, stream: true });
  for await (const event of stream) if (text(event)) yield event.delta.text;
}, { cut: /terminated/ });

endings('anthropic stream', async function* (url) {
  const stream = connect(url).messages.stream(ask);
  for await (const event of stream) if (text(event)) yield event.delta.text;
  await stream.finalMessage();
}, { cut: /terminated/ });

const { parameters, ...named } = tool;
const toolAsk = (task) => ({
  model: agentModel, max_tokens: 200, messages: [{ role: 'user', content: task }], tools: [{ ...named, input_schema: parameters }],
});

calls('anthropic create', async (url, task) => {
  const stream = await connect(url).messages.create({ ...toolAsk(task), stream: true });
  const said = { text: '', calls: [] };
  let input = '';
  for await (const event of stream) {
    if (text(event)) said.text += event.delta.text;
    if (event.content_block?.type === 'tool_use') said.calls.push([event.content_block.name]);
    if (event.delta?.type === 'input_json_delta') input += event.delta.partial_json;
  }
  said.calls[0]?.push(JSON.parse(input));
  return said;
});

calls('anthropic stream', async (url, task) => {
  const { content } = await connect(url).messages.stream(toolAsk(task)).finalMessage();
  return {
    text: content.filter((block) => block.type === 'text').map((block) => block.text).join(''),
    calls: content.filter((block) => block.type === 'tool_use').map((block) => [block.name, block.input]),
  };
});
