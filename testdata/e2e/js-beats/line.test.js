// Clients that give up when the header of an answer does not come, ten seconds in line.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Ollama } from 'ollama';
import { Agent } from 'undici';
import { chatModel, each, limit, lineURL, messages, silentURL } from './lab.js';

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

const whole = (chunks) => {
  const text = chunks.map((chunk) => chunk.message.content).filter((word) => word);
  assert.equal(text.length, chunks.at(-1).eval_count);
  assert.ok(chunks.length - text.length > 10, 'few heartbeats');
  assert.ok(chunks.at(-1).done);
};

describe('in line', { concurrency: true }, () => {
  test('undici, with heartbeats', limit, async () => whole(await undici(lineURL)));
  test('undici, without', limit, async () => {
    await assert.rejects(undici(silentURL), (err) => err.cause.code === 'UND_ERR_HEADERS_TIMEOUT');
  });
  test('cline, with heartbeats', limit, async () => whole(await cline(lineURL)));
  test('cline, without', limit, async () => {
    await assert.rejects(cline(silentURL), /Ollama request timed out/);
  });
});
