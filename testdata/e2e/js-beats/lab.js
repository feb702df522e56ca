// What beats_test.go tells the tests beside this file, and how they hear a stream.
import assert from 'node:assert/strict';
import { test } from 'node:test';

const { PLAIN_URL, SLOW_URL, ANSWER_URL, FAILURE_URL, ODD_URLS, CUT_URL, CHAT_MODEL, AGENT_MODEL } = process.env;

export const chatModel = CHAT_MODEL;

// question has the same answer at each asking: the models are made so.
export const question = 'Who are you?';
export const messages = [{ role: 'user', content: question }];

// These tasks have the model call the tool.
const wordyTask = 'Write the line hello to the file greeting.txt and say so.';
const wordlessTask = 'Without a word, write the line hello to the file greeting.txt and say so.';
export const agentModel = AGENT_MODEL;
export const tool = {
  name: 'write_file',
  description: 'writes a file',
  parameters: { type: 'object', properties: { path: { type: 'string' }, content: { type: 'string' } }, required: ['path', 'content'] },
};

// each gathers what an asynchronous iterable yields.
export async function each(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}

// hear gathers the pieces of text that a client hands to its user, and the error that
// ends them.
export async function hear(stream, url) {
  const pieces = [];
  try {
    for await (const piece of stream(url)) pieces.push(piece);
  } catch (error) {
    return { pieces, error };
  }
  return { pieces };
}

// limit has a client that never ends fail, and not wait for ever.
export const limit = { timeout: 60_000 };

const texts = (heard) => heard.pieces.filter((piece) => piece);

// endings hears a stream again and again: heartbeats, and then an answer, an error, an error
// that has no text for most readers, and a cut.
// The stream is a function of foreman's address that yields the pieces of text which a
// client hands to its user. With empty, a heartbeat is such a piece, of no text. The
// others are what to find in the errors.
export function endings(name, stream, { empty = false, failure = /waited too long for a turn/, cut }) {
  let plain;

  test(`${name}: an answer`, limit, async (t) => {
    plain = await hear(stream, PLAIN_URL);
    assert.ifError(plain.error);
    assert.notEqual(plain.pieces.join(''), '');
    const heard = await hear(stream, ANSWER_URL);
    assert.ifError(heard.error);
    assert.deepEqual(texts(heard), texts(plain));
    const more = heard.pieces.length - plain.pieces.length;
    t.diagnostic(`${more} pieces more than without heartbeats`);
    assert.ok(empty ? more >= 3 : more === 0, `${more} pieces more than without heartbeats`);
  });

  test(`${name}: an error`, limit, async (t) => {
    const heard = await hear(stream, FAILURE_URL);
    t.diagnostic(tell(heard));
    assert.deepEqual(texts(heard), []);
    assert.match(String(heard.error), failure);
  });

  for (const [text, url] of Object.entries(JSON.parse(ODD_URLS))) {
    test(`${name}: an odd error, ${text}`, limit, async (t) => {
      const heard = await hear(stream, url);
      t.diagnostic(tell(heard));
      assert.deepEqual(texts(heard), []);
      assert.ok(String(heard.error).includes(text), String(heard.error));
    });
  }

  test(`${name}: a cut`, limit, async (t) => {
    const heard = await hear(stream, CUT_URL);
    t.diagnostic(tell(heard));
    const [said, all] = [heard, plain].map(({ pieces }) => pieces.join(''));
    assert.ok(said && said !== all && all.startsWith(said), `said ${said}`);
    assert.match(String(heard.error), cut);
  });
}

// calls hears a tool called behind some words, and before any, without heartbeats and with
// them. The function returns, of foreman's address and a task, what is called with what,
// [[name, arguments]], and the text before it.
export function calls(name, ask) {
  for (const task of [wordyTask, wordlessTask]) {
    test(`${name}: ${task}`, limit, async () => {
      const plain = await ask(SLOW_URL, task);
      assert.deepEqual(plain.calls, [[tool.name, { path: 'greeting.txt', content: 'hello\n' }]]);
      assert.equal(Boolean(plain.text), task === wordyTask);
      assert.deepEqual(await ask(ANSWER_URL, task), plain);
    });
  }
}

const tell = ({ pieces, error }) =>
  `${pieces.length} pieces, ${error ? `${error.constructor.name}, name ${error.name}: ${error}, cause ${error.cause}` : 'no error'}`;
