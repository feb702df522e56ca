// Clients that give up when the header of an answer does not come, ten seconds in line, or
// the next of its bytes, for five.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Ollama } from 'ollama';
import { Agent } from 'undici';
import { chatModel, each, limit, messages } from './lab.js';

const { LINE_URL, SILENT_URL, PAUSE_URL, SILENT_PAUSE_URL } = process.env; // silent: without heartbeats

// Node.js's own fetch waits five minutes for a header, and as long for the next bytes of
// a body. Here it is two seconds.
async function undici(url) {
  const dispatcher = new Agent({ headersTimeout: 2000, bodyTimeout: 2000 });
  const response = await fetch(`${url}/api/chat`, {
    method: 'POST', body: JSON.stringify({ model: chatModel, messages }), dispatcher,
  });
  return (await response.text()).trim().split('\n').map((line) => JSON.parse(line));
}

// Cline, an assistant for programmers, waits 30 s for Ollama's client to have a stream.
// Here it is two seconds. Like Cline, it leaves the request behind that it gave up.
async function cline(url) {
  const client = new Ollama({ host: url });
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('Ollama request timed out')), 2000);
  });
  const stream = await Promise.race([client.chat({ model: chatModel, messages, stream: true }), late]);
  clearTimeout(timer);
  return each(stream);
}

const whole = (chunks, least = 10) => {
  const text = chunks.map((chunk) => chunk.message.content).filter((word) => word);
  assert.equal(text.length, chunks.at(-1).eval_count);
  assert.ok(chunks.length - text.length > least, 'few heartbeats');
  assert.ok(chunks.at(-1).done);
};

describe('in line', { concurrency: true }, () => {
  test('undici, with heartbeats', limit, async () => whole(await undici(LINE_URL)));
  test('undici, without', limit, async () => {
    await assert.rejects(undici(SILENT_URL), (err) => err.cause.code === 'UND_ERR_HEADERS_TIMEOUT');
  });
  test('cline, with heartbeats', limit, async () => whole(await cline(LINE_URL)));
  test('cline, without', limit, async () => {
    await assert.rejects(cline(SILENT_URL), /Ollama request timed out/);
  });
});

describe('in mid-stream', () => {
  test('undici, without', limit, async () => {
    await assert.rejects(undici(SILENT_PAUSE_URL), (err) => err.cause.code === 'UND_ERR_BODY_TIMEOUT');
  });
  test('undici, with heartbeats', limit, async () => whole(await undici(PAUSE_URL), 5));
});
