// Clients that wait for a host that is asleep, with a stream and without.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { Ollama } from 'ollama';
import OpenAI from 'openai';
import { chatModel, each, messages, question } from './lab.js';

const { WAKE_URL, EMBED_MODEL } = process.env;
const limit = { timeout: 180_000 };
const ollama = new Ollama({ host: WAKE_URL });
const openai = new OpenAI({ baseURL: `${WAKE_URL}/v1`, apiKey: 'any', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: WAKE_URL, apiKey: 'any', maxRetries: 0 });
const chat = { model: chatModel, messages };

describe('woken for', { concurrency: true }, () => {
  test('ollama', limit, async () => assert.ok((await ollama.chat(chat)).message.content));
  test('ollama, stream', limit, async () => assert.ok((await each(await ollama.chat({ ...chat, stream: true }))).at(-1).done));
  test('ollama, embed', limit, async () => assert.ok((await ollama.embed({ model: EMBED_MODEL, input: 'one' })).embeddings[0].length));
  test('openai', limit, async () => assert.ok((await openai.chat.completions.create(chat)).choices[0].message.content));
  test('openai, stream', limit, async () => {
    const chunks = await each(await openai.chat.completions.create({ ...chat, stream: true }));
    assert.ok(chunks.some((chunk) => chunk.choices[0]?.finish_reason));
  });
  test('openai, responses', limit, async () => {
    const events = await each(await openai.responses.create({ model: chatModel, input: question, stream: true }));
    assert.equal(events.at(-1).type, 'response.completed');
  });
  test('anthropic', limit, async () => assert.ok((await anthropic.messages.create({ ...chat, max_tokens: 32 })).content[0].text));
  test('anthropic, stream', limit, async () => {
    const message = await anthropic.messages.stream({ ...chat, max_tokens: 32 }).finalMessage();
    assert.ok(message.stop_reason);
  });
});
